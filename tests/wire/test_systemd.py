"""systemd's manager as it may answer: late, in another order, with errors, or not at all. A peer of ours plays it.

What a real one does is in tests/kernel/test_systemd_scopes.py.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from jeepney import (
    DBusAddress,
    HeaderFields,
    Message,
    Parser,
    new_error,
    new_method_return,
    new_signal,
)

from kata.cgroups.hierarchy import Hierarchy
from kata.cgroups.limits import Limits, Rule
from kata.cgroups.path import placement
from kata.cgroups.sandbox import SandboxGroups
from kata.cgroups.scope import Scope
from kata.cgroups.systemd import NO_SUCH_UNIT, UNIT_EXISTS, Host, Manager, SystemdError

MANAGER = DBusAddress("/org/freedesktop/systemd1", "org.freedesktop.systemd1", "org.freedesktop.systemd1.Manager")
UNIT = "/org/freedesktop/systemd1/unit/x_2escope"
JOB = "/org/freedesktop/systemd1/job/7"

Answers = Callable[[Message], list[Message] | None]
"""What to send for a call; None is to hang up."""


def method(call: Message) -> str:
    name: str = call.header.fields[HeaderFields.member]
    return name


def returned(call: Message, signature: str = "", values: tuple[object, ...] = ()) -> Message:
    return new_method_return(call, signature or None, values)


def ended(result: str = "done", job: str = JOB, sender: str = "") -> Message:
    signal = new_signal(MANAGER, "JobRemoved", "uoss", (7, job, "x.scope", result))
    if sender:
        signal.header.fields[HeaderFields.sender] = sender
    return signal


def job_of(call: Message) -> Message:
    return returned(call, "o", (JOB,))


def willing(call: Message) -> list[Message]:
    """All is well."""
    if method(call) == "GetUnit":
        return [returned(call, "o", (UNIT,))]
    if method(call) == "Get":
        return [returned(call, "v", (("s", "/a.slice/x.scope"),))]
    return [job_of(call), ended()] if method(call) in ("StartTransientUnit", "StopUnit") else [returned(call)]


def there_is_one(call: Message) -> list[Message]:
    """The name of the scope is taken."""
    if method(call) == "StartTransientUnit":
        return [new_error(call, UNIT_EXISTS, "s", ("it is there",))]
    return willing(call)


class Peer:
    """A socket that is systemd's; what it was asked for is in `calls`."""

    def __init__(self, path: Path, answers: Answers, login: bytes) -> None:
        self._answers, self._login = answers, login
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen()
        self._open: list[socket.socket] = [self._server]
        self.calls: list[tuple[str, tuple[object, ...]]] = []
        self._serial = 0
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                made, _ = self._server.accept()
            except OSError:
                return
            self._open.append(made)
            with made, contextlib.suppress(ConnectionError):  # whoever called has gone
                self._serve(made)

    def _serve(self, made: socket.socket) -> None:
        heard = b""
        while not heard.endswith(b"BEGIN\r\n"):
            data = made.recv(4096)
            if not data:
                return
            heard += data
        assert heard.startswith(b"\0AUTH EXTERNAL 30\r\n")
        made.sendall(self._login)
        parser = Parser()
        while True:
            while (call := parser.get_next_message()) is not None:
                self.calls.append((method(call), call.body))
                answers = [returned(call)] if method(call) == "Subscribe" else self._answers(call)
                if answers is None:
                    return
                for answer in answers:
                    self._serial += 1
                    made.sendall(answer.serialise(serial=self._serial))
            data = made.recv(4096)
            if not data:
                return
            parser.add_data(data)

    def close(self) -> None:
        for made in self._open:
            try:
                made.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        self._thread.join(20)
        self._server.close()
        assert not self._thread.is_alive()

    def names(self) -> list[str]:
        return [name for name, _ in self.calls if name != "Subscribe"]


Start = Callable[..., tuple[Peer, Host]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Have a peer that answers so."""
    made: list[Peer] = []

    def begin(answers: Answers = willing, login: bytes = b"OK 0123\r\n") -> tuple[Peer, Host]:
        path = tmp_path / f"private{len(made)}"
        made.append(Peer(path, answers, login))
        return made[-1], Host(str(tmp_path), str(tmp_path / "bus"), str(path))

    yield begin
    for peer in made:
        peer.close()


def test_a_job_over_before_its_call(start: Start) -> None:
    peer, host = start(lambda call: [ended(), job_of(call)])
    with Manager(host, 10) as manager:
        manager.start_scope("x.scope", [("PIDs", ("au", [1]))])
    assert peer.calls[1:] == [("StartTransientUnit", ("x.scope", "fail", [("PIDs", ("au", [1]))], []))]


def test_what_is_not_for_us_is_passed_over(start: Start) -> None:
    def answers(call: Message) -> list[Message]:
        stranger = new_method_return(call, "o", ("/another",))
        stranger.header.fields[HeaderFields.reply_serial] = 999
        return [
            stranger,
            ended("failed", "/another/job"),
            new_signal(MANAGER, "Reloading", "b", (True,)),
            *willing(call),
        ]

    _, host = start(answers)
    with Manager(host, 10) as manager:
        manager.start_scope("x.scope", [])
        manager.stop_unit("x.scope")


def test_where_a_scope_is(start: Start) -> None:
    peer, host = start()
    with Manager(host, 10) as manager:
        assert manager.cgroup_of("x.scope") == "/a.slice/x.scope"
    assert peer.calls[1:] == [("GetUnit", ("x.scope",)), ("Get", ("org.freedesktop.systemd1.Scope", "ControlGroup"))]
    for name in (NO_SUCH_UNIT, "org.freedesktop.DBus.Error.UnknownObject"):
        _, gone = start(lambda call, name=name: [new_error(call, name, "s", ("gone",))])
        with Manager(gone, 10) as manager:
            assert manager.cgroup_of("x.scope") == ""
    _, silent = start(lambda call: [returned(call)])
    with Manager(silent, 10) as manager, pytest.raises(SystemdError, match="does not say where x"):
        manager.cgroup_of("x.scope")


def test_a_signal_of_somebody_elses(start: Start) -> None:
    _, host = start(lambda call: [job_of(call), ended(sender=":1.66")])
    with Manager(host, 0.5) as manager, pytest.raises(SystemdError, match=r"timed out|in time"):
        manager.start_scope("x.scope", [])


@pytest.mark.parametrize("result", ["failed", "timeout", "canceled", "dependency"])
def test_a_job_that_fails(start: Start, result: str) -> None:
    _, host = start(lambda call: [job_of(call), ended(result)])
    with Manager(host, 10) as manager, pytest.raises(SystemdError, match=result):
        manager.start_scope("x.scope", [])


def test_an_error_has_its_name(start: Start) -> None:
    _, host = start(lambda call: [new_error(call, "org.freedesktop.DBus.Error.AccessDenied", "s", ("no, never",))])
    with Manager(host, 10) as manager, pytest.raises(SystemdError, match="no, never") as caught:
        manager.set_properties("x.scope", [])
    assert caught.value.name == "org.freedesktop.DBus.Error.AccessDenied"
    assert caught.value.hint


def test_a_unit_that_is_gone_is_stopped(start: Start) -> None:
    peer, host = start(lambda call: [new_error(call, NO_SUCH_UNIT, "s", ("not loaded",))])
    with Manager(host, 10) as manager:
        manager.stop_unit("x.scope")
        manager.forget_failure("x.scope")
    assert peer.names() == ["StopUnit", "ResetFailedUnit"]


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        (lambda _: [], "timed out|in time"),
        (lambda call: [job_of(call)], "timed out|in time"),
        (lambda call: [returned(call)], "timed out|in time"),
        (lambda _: None, "closed the connection"),
    ],
    ids=["no answer", "no end of the job", "no job", "hangs up"],
)
def test_no_end(start: Start, answers: Answers, words: str) -> None:
    _, host = start(answers)
    with Manager(host, 0.5) as manager, pytest.raises(SystemdError, match=words):
        manager.start_scope("x.scope", [])


@pytest.mark.parametrize(
    ("login", "words"),
    [
        (b"REJECTED EXTERNAL\r\n", "does not let this process in: b'REJECTED EXTERNAL'"),
        (b"OK 0123\r\nnot a message at all", "cannot be read"),
        (b"x" * 9000, "does not let this process in"),
        (b"", "timed out|in time"),
    ],
)
def test_no_login(start: Start, login: bytes, words: str) -> None:
    _, host = start(login=login)
    with pytest.raises(SystemdError, match=words):
        Manager(host, 0.5)


def test_nobody_is_there(tmp_path: Path) -> None:
    host = Host(str(tmp_path / "booted"), str(tmp_path / "bus"), str(tmp_path / "private"))
    assert not host.runs()
    with pytest.raises(SystemdError, match=r"bus: .*No such file.*private: .*No such file"):
        Manager(host, 10)


def test_signals_that_come_with_the_login(start: Start) -> None:
    early = ended(job="/early")
    _, host = start(login=b"OK 0123\r\n" + early.serialise(serial=1))
    with Manager(host, 10) as manager:
        manager.start_scope("x.scope", [])


# Section: the scope of a cgroup


def tree(folder: Path, *controllers: str, version: int = 1) -> Hierarchy:
    """A tree that has the scope."""
    (folder / "a.slice" / "x.scope").mkdir(parents=True, exist_ok=True)
    return Hierarchy(str(folder), version, frozenset(controllers))


def test_a_leftover_makes_room(start: Start, tmp_path: Path) -> None:
    found = iter([UNIT_EXISTS])

    def answers(call: Message) -> list[Message]:
        name = next(found, "") if method(call) == "StartTransientUnit" else ""
        return there_is_one(call) if name else willing(call)

    peer, host = start(answers)
    scope = Scope("/a.slice/x.scope", [tree(tmp_path / "u", version=2)], pytest.fail, host, 10)
    assert scope.start([1], "about")
    looked, ended_it = ["GetUnit", "Get"], ["StopUnit", "ResetFailedUnit"]
    assert peer.names() == ["StartTransientUnit", *looked, *ended_it, "StartTransientUnit"]


def test_what_is_in_use_is_never_stopped(start: Start, tmp_path: Path) -> None:
    peer, host = start(there_is_one)
    unified, warnings = tree(tmp_path / "u", version=2), list[str]()
    below = tmp_path / "u" / "a.slice" / "x.scope" / "below"
    below.mkdir()
    (below / "cgroup.procs").write_text("4711\n")
    scope = Scope("/a.slice/x.scope", [unified], warnings.append, host, 10)
    assert not scope.start([1], "about")
    scope.stop()
    assert peer.names() == ["StartTransientUnit", "GetUnit", "Get", "GetUnit", "Get"]
    assert [warning.partition(":")[0] for warning in warnings] == [
        "x.scope is a folder, and no scope of systemd's",
        "x.scope is left",
    ]


def test_one_of_another_slice_is_never_stopped(start: Start, tmp_path: Path) -> None:
    peer, host = start(there_is_one)
    warnings: list[str] = []
    scope = Scope("/b.slice/x.scope", [tree(tmp_path / "u", version=2)], warnings.append, host, 10)
    assert not scope.start([1], "about")
    assert peer.names() == ["StartTransientUnit", "GetUnit", "Get"] and len(warnings) == 1


def test_what_cannot_be_seen_is_never_stopped(start: Start, tmp_path: Path) -> None:
    peer, host = start(there_is_one)
    scope = Scope("/a.slice/x.scope", [tree(tmp_path / "cpu", "cpu")], lambda _: None, host, 10)
    assert not scope.start([1], "about")
    assert "StopUnit" not in peer.names()


def test_a_scope_elsewhere_is_no_use(start: Start, tmp_path: Path) -> None:
    _, host = start()
    warnings: list[str] = []
    scope = Scope("/b.slice/x.scope", [tree(tmp_path / "u", version=2)], warnings.append, host, 10)
    assert not scope.start([1], "about")
    assert "elsewhere" in warnings[0]


def test_limits_and_rules_are_told_once(start: Start, tmp_path: Path) -> None:
    peer, host = start()
    trees = [tree(tmp_path / name, name) for name in ("name=systemd", "cpu", "memory", "devices")]
    scope = Scope("/a.slice/x.scope", trees, pytest.fail, host, 10)
    scope.limit(Limits(1.0))
    assert peer.calls == [], "there is none yet"
    assert scope.start([1], "about", [Rule("c", 1, 3)])
    scope.limit(Limits(1.5, 1 << 20))
    scope.allow([Rule("c", 1, 3)])
    scope.allow([Rule("c", 1, 3), Rule("b", -1, -1, "r")])
    told = [body for name, body in peer.calls if name == "SetUnitProperties"]
    assert told == [
        ("x.scope", True, [("CPUQuotaPerSecUSec", ("t", 1_500_000)), ("MemoryLimit", ("t", 1 << 20))]),
        ("x.scope", True, [("DeviceAllow", ("a(ss)", [("block-*", "r")]))]),
    ]


@pytest.mark.parametrize("answers", [lambda _: None, lambda call: [new_error(call, "no.such.Property", "s", ("no",))]])
def test_a_sandbox_has_folders_then(start: Start, tmp_path: Path, answers: Answers) -> None:
    peer, host = start(answers)
    warnings: list[str] = []
    place = placement("a.slice:cri:x", "id1", together=False)
    assert place.scopes
    groups = SandboxGroups(place, "/run/id1", warnings.append, [], host)
    groups.enter()
    groups.settle([], [])
    groups.limit(Limits(1.0))
    groups.leave()
    assert peer.names() == ["StartTransientUnit"], "systemd is not asked again"
    (warning,) = warnings
    assert warning.startswith("cri-x.scope is a folder")


def test_without_systemd_one_line(tmp_path: Path) -> None:
    warnings: list[str] = []
    host = Host(booted=str(tmp_path / "none"))
    groups = SandboxGroups(placement("a.slice:cri:x", "id1", together=True), "/run/id1", warnings.append, [], host)
    groups.enter()
    groups.leave()
    assert warnings == ["the engine names a scope of systemd's, which does not run here: the cgroups are folders"]
