"""A shim that nobody wants: its containerd was killed between `start` and the first request."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.root

SERVE = """
import socket, sys
from kata.shim import serve
from kata.shim.arguments import Arguments
serve.ALONE_TIMEOUT = 0.3
listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
listener.bind(sys.argv[1])
listener.listen()
arguments = Arguments(action="start", namespace="ns", address="/none", publish_binary="", id="alone")
print("listens", flush=True)
sys.exit(serve.serve(arguments, "a test", sys.argv[1], listener))
"""
TIMEOUT = 30.0


@pytest.mark.parametrize("client", [False, True])
def test_it_ends_once_it_has_no_client_either(tmp_path: Path, client: bool) -> None:
    path = tmp_path / "shim.sock"
    with subprocess.Popen(
        [sys.executable, "-I", "-c", SERVE, path], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as shim:
        assert shim.stdout is not None
        assert shim.stderr is not None
        pidfd = os.pidfd_open(shim.pid)
        try:
            assert shim.stdout.readline() == b"listens\n"
            if client:
                with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                    connection.connect(str(path))
                    assert not select.select([pidfd], [], [], 1.0)[0], "it ended under its client"
            assert select.select([pidfd], [], [], TIMEOUT)[0]
            assert b"nobody comes" in shim.stderr.read()
            assert shim.wait() == 0
            assert not path.exists()
        finally:
            os.close(pidfd)
            shim.kill()
