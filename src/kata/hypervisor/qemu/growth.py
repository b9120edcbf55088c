"""Memory and CPUs of a running QEMU: adding them, taking CPUs away, the balloon. Made by `machine.py` at boot.

Memory is added in slots (pc-dimm) and never taken away again: what the guest should do without, the balloon takes.
Which sizes make sense is for the caller to know; here is only what QEMU needs to be told (docs/resources.md).
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from kata.hypervisor.errors import HypervisorError, NoPlaceError, QmpCommandError, QmpProtocolError
from kata.hypervisor.qemu import devices
from kata.hypervisor.qemu.qmp import excerpt

if TYPE_CHECKING:
    from kata.hypervisor.machine import MachineSpec
    from kata.hypervisor.qemu.qmp import QmpClient

TIMEOUT = 10.0
UNPLUG_TIMEOUT = 20.0
GONE = "DEVICE_DELETED"
MIB = 1 << 20


class Growth:
    """What came to one running machine. Thread-safe, but changes of CPUs are the caller's to do one after another."""

    def __init__(self, qmp: QmpClient, spec: MachineSpec) -> None:
        self._qmp = qmp
        self._spec = spec
        self._lock = threading.Lock()
        self._slots = 0
        self._cpus: list[str] = []
        self._count = 0

    @property
    def free_slots(self) -> int:
        """How often memory can be added yet."""
        with self._lock:
            return devices.memory_slots(self._spec) - self._slots

    def vcpu_threads(self, pid: int) -> tuple[int, ...]:
        """The host's thread of each CPU that the machine has, in QEMU's order. Raises QmpError.

        They will be moved and pinned by their numbers: a QEMU that a guest has taken over must not name others than
        those of its own process `pid`.
        """
        answer = self._qmp.execute("query-cpus-fast", timeout=TIMEOUT)
        threads = [cpu.get("thread-id") for cpu in _rows(answer, "CPUs")]
        return tuple(thread for thread in threads if isinstance(thread, int) and _is_thread(pid, thread))

    def add_memory(self, size_mib: int) -> None:
        """Plug memory in; the guest has to bring it online. Raises NoPlaceError, QmpError; nothing is left then."""
        number = self._take_slot()
        name = f"ram{number}"
        try:
            self._qmp.execute("object-add", devices.memory(self._spec, name, size_mib * MIB), timeout=TIMEOUT)
            try:
                self._qmp.execute("device_add", devices.dimm(number, name), timeout=TIMEOUT)
            except QmpCommandError:
                self._qmp.execute("object-del", {"id": name}, timeout=TIMEOUT)
                raise
        except QmpCommandError:
            with self._lock:
                self._slots -= 1
            raise

    def add_vcpus(self, count: int) -> None:
        """Plug CPUs in; the guest has to bring them online. Raises NoPlaceError, QmpError; some may be in then."""
        places = [cpu for cpu in self._places() if "qom-path" not in cpu]
        if len(places) < count:
            raise NoPlaceError(f"the machine has place for {len(places)} more CPUs, not for {count}")
        for place in sorted(places, key=_position)[:count]:
            with self._lock:
                self._count += 1
                name = f"cpu-hot{self._count}"
            self._qmp.execute("device_add", {"driver": place["type"], "id": name, **_numbers(place)}, timeout=TIMEOUT)
            with self._lock:
                self._cpus.append(name)

    def remove_vcpus(self, count: int) -> int:
        """Take CPUs away that were added, the last ones first; how many the guest let go of. Raises QmpError."""
        removed = 0
        while removed < count:
            with self._lock:
                name = self._cpus[-1] if self._cpus else ""
            if not name:
                break
            self._qmp.execute("device_del", {"id": name}, timeout=TIMEOUT)
            self._await_gone(name)
            with self._lock:
                self._cpus.remove(name)
            removed += 1
        return removed

    def set_balloon(self, memory_mib: int) -> None:
        """Leave the guest this much memory; it gives the rest as it can. Raises HypervisorError without a balloon."""
        if not self._spec.balloon:
            raise HypervisorError("the machine has no balloon, so it cannot be made smaller")
        self._qmp.execute("balloon", {"value": memory_mib * MIB}, timeout=TIMEOUT)

    def balloon(self) -> int:
        """MiB that the balloon leaves the guest at the moment. Raises QmpError."""
        answer = self._qmp.execute("query-balloon", timeout=TIMEOUT)
        actual = answer.get("actual") if isinstance(answer, dict) else None
        if not isinstance(actual, int):
            raise QmpProtocolError("QEMU does not say how large the balloon is", detail=excerpt(answer))
        return actual // MIB

    def _await_gone(self, name: str) -> None:
        self._qmp.wait_event(GONE, timeout=UNPLUG_TIMEOUT, accept=lambda event: event.data.get("device") == name)

    def _take_slot(self) -> int:
        with self._lock:
            if self._slots >= devices.memory_slots(self._spec):
                raise NoPlaceError("all memory slots of the machine are taken", hint="raise memory_slots")
            self._slots += 1
            self._count += 1
            return self._count

    def _places(self) -> list[dict[str, object]]:
        rows = _rows(self._qmp.execute("query-hotpluggable-cpus", timeout=TIMEOUT), "places for CPUs")
        return [row for row in rows if isinstance(row.get("type"), str)]


def _rows(answer: object, what: str) -> list[dict[str, object]]:
    if not isinstance(answer, list):
        raise QmpProtocolError(f"QEMU does not say which {what} there are", detail=excerpt(answer))
    return [row for row in answer if isinstance(row, dict)]


def _is_thread(pid: int, thread: int) -> bool:
    return thread > 0 and os.path.isdir(f"/proc/{pid}/task/{thread}")


def _numbers(place: dict[str, object]) -> dict[str, int]:
    """Where a CPU goes: numbers alone (qapi/machine.json, CpuInstanceProperties). Nothing else goes further."""
    properties = place.get("props")
    found = properties.items() if isinstance(properties, dict) else ()
    return {
        name: value for name, value in found if name.endswith("-id") and type(value) is int and 0 <= value < 1 << 32
    }


def _position(place: dict[str, object]) -> tuple[int, ...]:
    numbers = _numbers(place)
    return tuple(numbers.get(name, 0) for name in ("socket-id", "die-id", "core-id", "thread-id"))
