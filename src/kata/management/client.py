"""How a `kata` command asks a sandbox's management socket: one request, one answer.

The standard library's HTTP client over a unix socket; loaded by commands alone.
"""

from __future__ import annotations

import http.client
import socket
import urllib.parse
from typing import TYPE_CHECKING

from kata import paths
from kata.management.errors import RefusedError, UnreachableError
from kata.plain import plain

if TYPE_CHECKING:
    from collections.abc import Mapping

DIAL_TIMEOUT, ANSWER_TIMEOUT = 5.0, 120.0
"""Seconds; the sandbox gives its agent 60 s."""
ANSWER_LIMIT = 16 << 20


class UnixConnection(http.client.HTTPConnection):
    """A connection to a unix socket."""

    def __init__(self, path: str, timeout: float = ANSWER_TIMEOUT) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path
        self._timeout = timeout

    def connect(self) -> None:
        """See `http.client.HTTPConnection`."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(DIAL_TIMEOUT)
        self.sock.connect(self._path)
        self.sock.settimeout(self._timeout)


def request(
    sandbox_id: str,
    method: str,
    path: str,
    body: bytes = b"",
    query: Mapping[str, str] | None = None,
    timeout: float = ANSWER_TIMEOUT,
) -> bytes:
    """Ask a sandbox, which has `timeout` seconds. Raises UnreachableError, and RefusedError with what it said."""
    connection = UnixConnection(str(paths.monitor_socket(sandbox_id)), timeout)
    target = f"{path}?{urllib.parse.urlencode(query)}" if query else path
    try:
        connection.request(method, target, body=body or None)
        response = connection.getresponse()
        answer = response.read(ANSWER_LIMIT)
    except (OSError, http.client.HTTPException) as error:
        raise UnreachableError(
            f"sandbox {sandbox_id[:12]} does not answer at its management socket: {error}",
            hint="kata ps -a shows whether it runs",
        ) from error
    finally:
        connection.close()
    if response.status != 200:
        raise RefusedError(response.status, f"the sandbox refuses: {_said(answer) or plain(response.reason)}")
    return answer


def _said(answer: bytes) -> str:
    """An error's text, which may come from the guest, for a terminal."""
    return plain(answer[:4000].decode("utf-8", "replace").strip())
