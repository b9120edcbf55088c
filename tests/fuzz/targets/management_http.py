"""A request to a sandbox's management socket, from its first byte to the answer."""

from __future__ import annotations

from typing import cast

from kata.management.errors import HttpError
from kata.management.http import BODY_LIMIT, END_OF_HEAD, REASONS, Request, parse_head, render
from kata.management.routes import Managed, Routes
from kata.protocol.generated import csi_pb2
from kata.sandbox.errors import ConflictError

SEEDS = (
    b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST /direct-volume/resize HTTP/1.1\r\nContent-Length: 39\r\n\r\n" + b'{"VolumePath": "/a", "Size": 123456789}',
    b"GET /direct-volume/stats?path=%2Fa+b&x=%00 HTTP/1.0\r\nExpect: 100-continue\r\n\r\n",
    b"PUT http://localhost/policy HTTP/1.1\r\nContent-Length: 9\r\n\r\npackage a",
    b"HEAD /iptables?a=b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
)
TOKENS = (
    b"\r\n",
    b"\r\n\r\n",
    b"HTTP/1.1",
    b"HTTP/2",
    b"Content-Length: ",
    b"%2e%2e",
    b"%ff",
    b"?path=",
    b"/policy",
    b'"Size": 1e99',
    b"[[[[",
)


class Sandbox:
    """Stands in for what is managed."""

    agent_url = "vsock://3:1024"

    @property
    def agent(self) -> Sandbox:
        return self

    @property
    def console_url(self) -> str:
        raise ConflictError("there is no console")

    def get_ip_tables(self, *, ipv6: bool) -> bytes:
        return b"6" if ipv6 else b"4"

    def set_ip_tables(self, rules: bytes, *, ipv6: bool) -> bytes:
        return rules

    def set_policy(self, policy: str) -> None:
        policy.encode()

    def volume_stats(self, volume_path: str) -> csi_pb2.VolumeStatsResponse:
        assert volume_path.startswith("/")
        return csi_pb2.VolumeStatsResponse()

    def resize_volume(self, volume_path: str, size: int) -> None:
        assert volume_path.startswith("/")
        assert 0 < size < 1 << 63


ROUTES = Routes(cast("Managed", Sandbox()), lambda: "")


def target(data: bytes) -> None:
    """Whatever is wrong is an answer, and an answer is a whole HTTP message."""
    head, _, rest = data.partition(END_OF_HEAD)
    try:
        found = parse_head(head)
    except HttpError as error:
        assert error.status in REASONS
        return
    assert found.length <= BODY_LIMIT
    assert found.path.startswith("/")
    body = rest[: found.length]
    response = ROUTES.answer(Request(found.method, found.path, found.query, body))
    assert b"an unexpected fault" not in response.body, response.body
    first, _, sent = render(response).partition(END_OF_HEAD)
    assert first.decode("ascii").isprintable() or b"\r\n" in first
    assert sent == response.body
