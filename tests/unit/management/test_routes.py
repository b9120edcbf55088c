"""Each path does one thing with the sandbox, and says so when that is impossible."""

from __future__ import annotations

import json

import pytest

from kata.errors import KataError
from kata.management.http import Request
from kata.management.routes import Routes
from kata.protocol.generated import csi_pb2
from kata.sandbox.errors import ConflictError, ContainerError, GuestError, NotFoundError


class Agent:
    """Keeps the rules and policies it is given."""

    def __init__(self) -> None:
        self.rules = {False: b"*filter\n", True: b"*six\n"}
        self.policy = ""
        self.error: BaseException | None = None

    def get_ip_tables(self, *, ipv6: bool) -> bytes:
        self._fail()
        return self.rules[ipv6]

    def set_ip_tables(self, rules: bytes, *, ipv6: bool) -> bytes:
        self._fail()
        self.rules[ipv6] = rules
        return b"done\n"

    def set_policy(self, policy: str) -> None:
        self._fail()
        self.policy = policy

    def _fail(self) -> None:
        if self.error is not None:
            raise self.error


class Sandbox:
    """Has no debug console, and one volume."""

    agent_url = "vsock://7:1024"

    def __init__(self) -> None:
        self.agent = Agent()
        self.sizes: dict[str, int] = {}

    @property
    def console_url(self) -> str:
        raise ConflictError("there is no debug console", hint="switch it on")

    def volume_stats(self, volume_path: str) -> csi_pb2.VolumeStatsResponse:
        if volume_path != "/vol ume":
            raise NotFoundError(f"there is no volume {volume_path}")
        usage = csi_pb2.VolumeUsage(available=1, total=3, used=2, unit=csi_pb2.VolumeUsage.BYTES)
        return csi_pb2.VolumeStatsResponse(usage=[usage])

    def resize_volume(self, volume_path: str, size: int) -> None:
        self.sizes[volume_path] = size


def ask(
    sandbox: Sandbox, method: str, path: str, body: bytes = b"", query: dict[str, str] | None = None
) -> tuple[int, str]:
    response = Routes(sandbox, lambda: "m 1\n").answer(Request(method, path, query or {}, body))
    return response.status, response.body.decode()


def test_what_is_read() -> None:
    sandbox = Sandbox()
    assert ask(sandbox, "GET", "/metrics") == (200, "m 1\n")
    assert ask(sandbox, "HEAD", "/metrics") == (200, "m 1\n")
    assert ask(sandbox, "GET", "/agent-url") == (200, "vsock://7:1024")
    assert ask(sandbox, "GET", "/debug/console") == (409, "host: there is no debug console (switch it on)\n")
    assert ask(sandbox, "GET", "/ip6tables") == (200, "*six\n")


def test_what_is_set() -> None:
    sandbox = Sandbox()
    assert ask(sandbox, "PUT", "/iptables", b"*nat\n") == (200, "done\n")
    assert ask(sandbox, "PUT", "/ip6tables", b"*mangle\n") == (200, "done\n")
    assert sandbox.agent.rules == {False: b"*nat\n", True: b"*mangle\n"}
    assert ask(sandbox, "PUT", "/policy", "ä".encode()) == (200, "")
    assert sandbox.agent.policy == "ä"
    assert ask(sandbox, "PUT", "/policy", b"\xff")[0] == 400


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/", 404), ("GET", "/metrics/", 404), ("POST", "/metrics", 405), ("GET", "/policy", 405)],
)
def test_other_paths_and_methods(method: str, path: str, status: int) -> None:
    assert ask(Sandbox(), method, path)[0] == status


def test_volumes() -> None:
    sandbox = Sandbox()
    status, text = ask(sandbox, "GET", "/direct-volume/stats", query={"path": "/vol ume"})
    assert status == 200
    assert json.loads(text) == {
        "usage": [{"available": 1, "total": 3, "used": 2, "unit": 1}],
        "volume_condition": {"abnormal": False, "message": ""},
    }
    assert ask(sandbox, "POST", "/direct-volume/stats", b"/vol ume")[0] == 200
    assert ask(sandbox, "GET", "/direct-volume/stats", query={"path": "/other"})[0] == 404
    assert ask(sandbox, "GET", "/direct-volume/stats", query={"path": "relative"})[0] == 400
    body = json.dumps({"VolumePath": "/v", "Size": 5 << 30}).encode()
    assert ask(sandbox, "POST", "/direct-volume/resize", body) == (200, "")
    assert sandbox.sizes == {"/v": 5 << 30}


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"1", b"{}", b'{"VolumePath": "/v"}', b'{"VolumePath": "/v", "Size": "5"}', b"[" * 100_000]
    + [b'{"VolumePath": "/v", "Size": %s}' % size for size in (b"true", b"0", b"-1", b"1.5", b"9" * 30)]
    + [b'{"VolumePath": 5, "Size": 5}', b'{"VolumePath": "v", "Size": 5}', b'{"VolumePath": "/\\u0000", "Size": 5}'],
)
def test_bad_resizes(body: bytes) -> None:
    sandbox = Sandbox()
    assert ask(sandbox, "POST", "/direct-volume/resize", body)[0] == 400
    assert sandbox.sizes == {}


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ContainerError("GetIPTables: no program"), 502),
        (GuestError("gone"), 504),
        (KataError("something"), 500),
        (ZeroDivisionError("oops"), 500),
    ],
)
def test_errors_have_a_status_and_a_sentence(error: BaseException, status: int) -> None:
    sandbox = Sandbox()
    sandbox.agent.error = error
    found, text = ask(sandbox, "GET", "/iptables")
    assert found == status
    assert str(error) in text
