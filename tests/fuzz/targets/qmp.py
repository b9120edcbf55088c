"""What a QEMU says that a guest has taken over: lines, events, answers, and what is read out of the answers."""

from __future__ import annotations

import json
import os
import socket
from typing import TYPE_CHECKING, cast

from kata.hypervisor.errors import HypervisorError, QmpError
from kata.hypervisor.machine import MachineSpec
from kata.hypervisor.qemu.growth import Growth
from kata.hypervisor.qemu.qmp import EVENTS_KEPT, QmpClient, _decode, _result

if TYPE_CHECKING:
    from collections.abc import Mapping

GREETING = b'{"QMP": {"version": {"qemu": {"major": 7}}, "capabilities": []}}\n'
SEEDS = (
    GREETING + b'{"return": {}, "id": 1}\n',
    GREETING + b'{"event": "STOP", "data": {"a": 1}, "timestamp": {"seconds": 1, "microseconds": 2}}\n',
    GREETING + b'{"error": {"class": "GenericError", "desc": "no"}, "id": 1}\n',
    b'{"return": [{"thread-id": 12, "cpu-index": 0}], "id": 1}\n',
    b'{"return": [{"type": "x86_64-cpu", "props": {"socket-id": 1, "core-id": 0}}], "id": 1}\n',
    b'{"return": {"actual": 268435456}, "id": 1}\n{"error": {"class": "GenericError", "desc": "CommandNotFound"}}\n',
)
TOKENS = (
    b"\n",
    b'"id": 1',
    b"null",
    b"true",
    b"1e400",
    b"99999999999999999999",
    b"[[[[",
    b'{"event": 1}',
    b'"\\ud800"',
)
SPEC = MachineSpec(sandbox_id="a", directory="/nonexistent", kernel="k", initrd=None, image=None, balloon=True)


class Scripted:
    """A QMP client whose answers are the input's lines, one for each command."""

    def __init__(self, lines: list[bytes]) -> None:
        self._lines = lines

    def execute(self, command: str, arguments: Mapping[str, object] | None = None, **_: object) -> object:
        """As `QmpClient.execute`, up to what goes over the socket."""
        json.dumps({"execute": command, "arguments": arguments or {}}).encode()
        return _result(command, _decode(self._lines.pop(0) if self._lines else b"{}"))


def target(data: bytes) -> None:
    """As a connection, and as answers to what is asked about CPUs and memory."""
    _converse(data)
    growth = Growth(cast("QmpClient", Scripted(data.split(b"\n"))), SPEC)
    for ask in (lambda: growth.vcpu_threads(os.getpid()), growth.balloon, lambda: growth.add_vcpus(1)):
        try:
            ask()
        except HypervisorError as error:
            assert error.what.isprintable()


def _converse(data: bytes) -> None:
    ours, theirs = socket.socketpair()
    with theirs, QmpClient(ours) as client:
        try:
            theirs.sendall(data[:100_000])
            theirs.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it was refused before all of it was said
        try:
            client.negotiate(5.0)
            client.execute("query-status", timeout=5.0)
        except QmpError as error:
            assert error.what.isprintable()
        assert len(client._events) <= EVENTS_KEPT
