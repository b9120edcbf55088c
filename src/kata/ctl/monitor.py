"""Asks a running sandbox's shim over its management socket: plain HTTP/1.1 (shim behaviour, section 11).

Called by commands that look into sandboxes of containerd. The shim is ours, but the socket is a file: what answers is
read up to a limit, and a silent one is given up on.
"""

from __future__ import annotations

import http.client
import socket
from pathlib import Path

from kata import paths
from kata.errors import KataError

SOCKET = "shim-monitor.sock"
TIMEOUT = 70.0
"""Seconds for an answer. The shim in turn waits for its guest's agent, 60 s at most."""
ANSWER_LIMIT = 16 << 20


class MonitorError(KataError):
    """A sandbox's management socket does not answer, or refuses."""


class _Connection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket instead of a port."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT)
        self.sock.connect(str(self._path))


def socket_of(sandbox_id: str) -> Path:
    """The management socket of a sandbox."""
    return paths.sandboxes_dir() / sandbox_id / SOCKET


def request(path: Path, method: str, target: str, body: bytes = b"") -> bytes:
    """One request to the socket at `path`; the answer's body. Raises MonitorError with the answer's own words."""
    connection = _Connection(path)
    try:
        connection.request(method, target, body or None, {"Content-Type": "application/json"} if body else {})
        response = connection.getresponse()
        answer = response.read(ANSWER_LIMIT)
    except (OSError, http.client.HTTPException) as error:
        raise MonitorError(
            f"the sandbox does not answer at {path}: {getattr(error, 'strerror', None) or error or 'no answer'}",
            hint="look whether it still runs: ctr task ls",
        ) from error
    finally:
        connection.close()
    if response.status != http.client.OK:
        words = answer[:2000].decode("utf-8", "replace").strip()
        raise MonitorError(f"the sandbox refuses: {words or response.reason}")
    return answer
