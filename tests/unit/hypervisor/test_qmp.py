"""The QMP client: against a scripted peer that misbehaves, and against QEMU with `qemu.qmp` as the oracle."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from qemu.qmp import QMPClient

from kata.hypervisor.errors import (
    QmpClosedError,
    QmpCommandError,
    QmpError,
    QmpProtocolError,
    QmpTimeoutError,
)
from kata.hypervisor.qemu.qmp import MESSAGE_MAX, Event, QmpClient

GREETING = b'{"QMP": {"version": {}, "capabilities": []}}\n'


@pytest.fixture
def pair() -> Iterator[tuple[QmpClient, socket.socket]]:
    ours, peer = socket.socketpair()
    with peer, QmpClient(ours) as client:
        yield client, peer


def answer(peer: socket.socket, make: Callable[[dict[str, Any]], bytes]) -> threading.Thread:
    """Reads one command from the peer's side and sends what `make` says."""

    def serve() -> None:
        with peer.makefile("rb") as lines:
            peer.sendall(make(json.loads(lines.readline())))

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


def test_answers_are_matched_by_id_whatever_their_order(pair: tuple[QmpClient, socket.socket]) -> None:
    client, peer = pair
    results: dict[str, object] = {}
    threads = [
        threading.Thread(target=lambda name=name: results.update({name: client.execute(name, timeout=5)}))
        for name in ("first", "second")
    ]
    for thread in threads:
        thread.start()
    with peer.makefile("rb") as lines:
        commands = [json.loads(lines.readline()) for _ in threads]
    for command in reversed(commands):
        peer.sendall(json.dumps({"return": command["execute"], "id": command["id"]}).encode() + b"\n")
    for thread in threads:
        thread.join(5)
    assert results == {"first": "first", "second": "second"}


def test_refusal_carries_qemus_words(pair: tuple[QmpClient, socket.socket]) -> None:
    client, peer = pair
    thread = answer(
        peer,
        lambda c: json.dumps({"error": {"class": "GenericError", "desc": "no"}, "id": c["id"]}).encode() + b"\n",
    )
    with pytest.raises(QmpCommandError, match="refused device_add: no") as caught:
        client.execute("device_add", timeout=5)
    assert caught.value.error_class == "GenericError"
    thread.join()


def test_a_late_answer_is_dropped(pair: tuple[QmpClient, socket.socket]) -> None:
    client, peer = pair
    with pytest.raises(QmpTimeoutError):
        client.execute("slow", timeout=0.05)
    late = json.loads(peer.recv(4096))
    thread = answer(
        peer,
        lambda c: (
            json.dumps({"return": "late", "id": late["id"]}).encode()
            + b"\n"
            + json.dumps({"return": "right", "id": c["id"]}).encode()
            + b"\n"
        ),
    )
    assert client.execute("next", timeout=5) == "right"
    thread.join()


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (b"not json\n", QmpProtocolError),
        (b"[1]\n", QmpProtocolError),
        (b"\xff\xfe\n", QmpProtocolError),
        (b"[" * 100_000 + b"\n", QmpProtocolError),
        (b'{"neither": 1}\n', QmpProtocolError),
        (b'{"QMP": 5}\n', QmpProtocolError),
        (b'{"error": {"class": "GenericError", "desc": "bad"}}\n', QmpProtocolError),
        (b"", QmpClosedError),
    ],
)
def test_odd_input_ends_the_connection(
    pair: tuple[QmpClient, socket.socket], sent: bytes, error: type[QmpError]
) -> None:
    client, peer = pair
    peer.sendall(sent)
    peer.shutdown(socket.SHUT_WR)
    with pytest.raises(error):
        client.negotiate(5)
    assert client.closed


@pytest.mark.parametrize(
    "sent",
    [
        b'{"event": "A"}\n',
        b'{"event": "A", "data": 7, "timestamp": "x"}\n',
        b'{"event": "A", "timestamp": {"seconds": -1, "microseconds": -1}}\n',
        b'\n\r\n{"return": 1, "id": "unknown"}\n{"return": {}, "id": 99}\n{"event": "A"}\n',
    ],
)
def test_odd_input_that_does_no_harm(pair: tuple[QmpClient, socket.socket], sent: bytes) -> None:
    client, peer = pair
    peer.sendall(sent)
    assert client.wait_event("A", timeout=5) == Event("A", {}, 0.0)


def test_a_message_without_end_is_cut_off(pair: tuple[QmpClient, socket.socket]) -> None:
    client, peer = pair
    peer.settimeout(10)
    with pytest.raises(OSError):
        peer.sendall(b"x" * (MESSAGE_MAX * 2))
    with pytest.raises(QmpProtocolError, match="in one message"):
        client.execute("anything", timeout=5)


def test_a_peer_that_reads_nothing_cannot_hold_a_sender(pair: tuple[QmpClient, socket.socket]) -> None:
    client, _peer = pair
    start = time.monotonic()
    with pytest.raises(QmpTimeoutError, match="reads no more"):
        client.execute("big", {"x": "y" * (4 << 20)}, timeout=0.2)
    assert time.monotonic() - start < 3


def test_events_wait_filter_and_call_back(pair: tuple[QmpClient, socket.socket]) -> None:
    client, peer = pair
    seen: list[str] = []
    client.on_event(lambda event: seen.append(event.name))
    peer.sendall(b'{"event": "A", "data": {"n": 1}}\n{"event": "B"}\n{"event": "A", "data": {"n": 2}}\n')
    assert client.wait_event("A", timeout=5, accept=lambda event: event.data["n"] == 2).data == {"n": 2}
    assert client.wait_event("A", "B", timeout=5).data == {"n": 1}
    assert client.wait_event("B", timeout=5).name == "B"
    assert seen == ["A", "B", "A"]
    with pytest.raises(QmpTimeoutError):
        client.wait_event("A", timeout=0.05)


def test_close_wakes_those_who_wait(pair: tuple[QmpClient, socket.socket]) -> None:
    client, peer = pair
    caught: list[QmpError] = []

    def wait() -> None:
        try:
            client.execute("forever", timeout=30)
        except QmpError as error:
            caught.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    peer.recv(4096)
    client.close()
    thread.join(5)
    assert [type(error) for error in caught] == [QmpClosedError]


def test_descriptors_arrive(pair: tuple[QmpClient, socket.socket]) -> None:
    client, peer = pair
    read_end, write_end = os.pipe()
    received: list[int] = []

    def serve() -> None:
        data, fds, _, _ = socket.recv_fds(peer, 4096, 4)
        received.extend(fds)
        peer.sendall(json.dumps({"return": {}, "id": json.loads(data)["id"]}).encode() + b"\n")

    thread = threading.Thread(target=serve)
    thread.start()
    client.execute("getfd", {"fdname": "p"}, fds=[write_end], timeout=5)
    thread.join(5)
    os.write(received[0], b"x")
    assert os.read(read_end, 1) == b"x"
    for fd in (read_end, write_end, *received):
        os.close(fd)


@pytest.fixture
def qemu() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two monitors of one QEMU that has no machine: it needs no guest and starts in 0.1 s."""
    ends = [socket.socketpair() for _ in range(2)]
    monitors = [
        word
        for index, (_, theirs) in enumerate(ends)
        for word in (
            "-chardev",
            f"socket,id=m{index},fd={theirs.fileno()}",
            "-mon",
            f"chardev=m{index},mode=control",
        )
    ]
    argv = ["qemu-system-x86_64", "-nodefaults", "-nographic", "-machine", "none", *monitors]
    fds = [theirs.fileno() for _, theirs in ends]
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, pass_fds=fds)
    for _, theirs in ends:
        theirs.close()
    try:
        yield ends[0][0], ends[1][0]
    finally:
        process.kill()
        process.wait()
        for ours, _ in ends:
            ours.close()


COMMANDS: list[tuple[str, dict[str, object]]] = [
    ("query-version", {}),
    ("query-status", {}),
    ("query-qmp-schema", {}),
    ("query-commands", {}),
    ("qom-list", {"path": "/objects"}),
    ("device_add", {"driver": "no-such-device"}),
    ("no-such-command", {}),
]


def test_agrees_with_the_reference_client(qemu: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = qemu
    with QmpClient(ours) as client:
        version = client.negotiate(20)["version"]
        expected_version, expected = asyncio.run(_reference(theirs))
        assert version == expected_version
        assert [_ours(client, command, arguments) for command, arguments in COMMANDS] == expected


def test_qemu_takes_and_names_a_descriptor(qemu: tuple[socket.socket, socket.socket], tmp_path: Any) -> None:
    with QmpClient(qemu[0]) as client, (tmp_path / "f").open("wb") as file:
        client.negotiate(20)
        added = client.execute("add-fd", {"fdset-id": 7}, fds=[file.fileno()])
        assert isinstance(added, dict)
        sets = client.execute("query-fdsets")
    assert isinstance(sets, list)
    assert [(s["fdset-id"], s["fds"][0]["fd"]) for s in sets] == [(7, added["fd"])]


def test_quit_is_seen_as_event_and_end(qemu: tuple[socket.socket, socket.socket]) -> None:
    with QmpClient(qemu[0]) as client:
        client.negotiate(20)
        client.execute("quit")
        assert client.wait_event("SHUTDOWN", timeout=10).data["guest"] is False
        with pytest.raises(QmpClosedError):
            client.wait_event("NEVER", timeout=10)


def _ours(client: QmpClient, command: str, arguments: dict[str, object]) -> object:
    try:
        return client.execute(command, arguments)
    except QmpCommandError as error:
        return (error.error_class, error.description)


async def _reference(connection: socket.socket) -> tuple[object, list[object]]:
    from qemu.qmp import ExecuteError

    client = QMPClient("oracle")
    connection.setblocking(False)
    await client.connect(connection.dup())
    results: list[object] = []
    for command, arguments in COMMANDS:
        try:
            results.append(await client.execute(command, arguments))
        except ExecuteError as error:
            results.append((error.error_class, str(error)))
    greeting = client.greeting
    assert greeting is not None
    version = greeting.QMP.version
    await client.disconnect()
    await asyncio.sleep(0)  # lets the loop close the transport
    return version, results
