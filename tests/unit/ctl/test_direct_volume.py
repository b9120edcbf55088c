"""`kata direct-volume`, with a management socket that answers as a shim's does, or does not."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kata import paths
from kata.ctl.__main__ import main
from kata.management.client import request
from kata.management.errors import ManagementError
from kata.storage import directvolumes

RECORD = '{"volume-type": "block", "device": "/dev/sdx", "fstype": "ext4"}'


class Shim:
    """Answers one request after the other with what it is given."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True)
        self.path = path
        self.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
        self.asked: list[bytes] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                data = connection.recv(65536)
                head, _, body = data.partition(b"\r\n\r\n")
                length = re.search(rb"Content-Length: (\d+)", head)
                while length and len(body) < int(length[1]):
                    body += connection.recv(65536)
                self.asked.append(head.split(b"\r\n")[0] + b"\n" + body)
                connection.sendall(self.answer)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)


@pytest.fixture
def shim(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Shim]:
    monkeypatch.setenv("KATA_STATE_DIR", str(tmp_path))
    made = Shim(paths.monitor_socket("box"))
    yield made
    made.close()


def test_a_volume_is_recorded_asked_about_and_forgotten(shim: Shim, capsys: pytest.CaptureFixture[str]) -> None:
    volume = ("--volume-path", "/pods/a b/mount")
    assert main(["direct-volume", "add", *volume, "--mount-info", RECORD]) == 0
    assert directvolumes.read("/pods/a b/mount") is not None
    assert main(["direct-volume", "stats", *volume]) == 1
    assert "no running sandbox uses" in capsys.readouterr().err

    directvolumes.mark("/pods/a b/mount", "of-a-dead-shim")
    directvolumes.mark("/pods/a b/mount", "box")
    assert main(["direct-volume", "stats", *volume]) == 0
    assert capsys.readouterr().out == "{}\n"
    assert main(["direct-volume", "resize", *volume, "--size", "4096"]) == 0
    first, second = shim.asked
    assert first == b"GET /direct-volume/stats?path=%2Fpods%2Fa%20b%2Fmount HTTP/1.1\n"
    line, _, body = second.partition(b"\n")
    assert line == b"POST /direct-volume/resize HTTP/1.1"
    assert json.loads(body) == {"VolumePath": "/pods/a b/mount", "Size": 4096}

    assert main(["direct-volume", "remove", *volume]) == 1
    directvolumes.unmark_all("box")
    directvolumes.unmark_all("of-a-dead-shim")
    assert main(["direct-volume", "remove", *volume]) == 0
    assert list(paths.direct_volumes_dir().iterdir()) == []


def test_a_record_that_is_wrong_is_not_written(shim: Shim, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["direct-volume", "add", "--volume-path", "/v", "--mount-info", "{}"]) != 0
    assert "the record of the direct volume /v cannot be used" in capsys.readouterr().err
    assert main(["direct-volume", "resize", "--volume-path", "/v", "--size", "-1"]) != 0


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 4\r\n\r\nwhy\n", "refuses: why"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "refuses: Not Found"),
        (b"what is this", "does not answer"),
        (b"", "does not answer"),
    ],
)
def test_what_a_shim_refuses_is_passed_on(shim: Shim, answer: bytes, said: str) -> None:
    shim.answer = answer
    with pytest.raises(ManagementError, match=said):
        request("box", "GET", "/x")


def test_a_socket_that_nobody_listens_at(shim: Shim) -> None:
    with pytest.raises(ManagementError, match="No such file"):
        request("none", "GET", "/x")
