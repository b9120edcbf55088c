"""A source of device events that a test feeds, and a sysfs and /dev in a folder."""

from __future__ import annotations

import os
from pathlib import Path

from kata.agent.devices.hotplug import Hotplug
from kata.agent.uevents import Uevents
from kata.linux.uevent import EventsLost, Uevent

PCI = "devices/pci0000:00"


class FakeSource:
    """Delivers what is sent, one at a time; None is an overrun of the socket."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        self._queue: list[Uevent | None] = []

    def send(self, event: Uevent | None) -> None:
        self._queue.append(event)
        os.write(self._write, b"x")

    def fileno(self) -> int:
        return self._read

    def receive(self) -> Uevent | None:
        os.read(self._read, 1)
        event = self._queue.pop(0)
        if event is None:
            raise EventsLost
        return event

    def close(self) -> None:
        os.close(self._read)
        os.close(self._write)


class FakeGuest:
    """A guest in a folder: what the kernel would make, and the events that it would send."""

    def __init__(self, folder: Path, timeout: float = 5.0) -> None:
        self.sys, self.dev = folder / "sys", folder / "dev"
        self.sys.mkdir()
        self.dev.mkdir()
        self.source = FakeSource()
        self.drivers: list[str] = []
        self.uevents = Uevents(self.source, sysfs=os.fspath(self.sys))
        self.hotplug = Hotplug(
            self.uevents, timeout, sysfs=os.fspath(self.sys), dev=os.fspath(self.dev), load=self.drivers.extend
        )

    def __enter__(self) -> FakeGuest:
        self.uevents.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.uevents.close()

    def add_node(self, name: str) -> None:
        (self.dev / name).touch()

    def add_folder(self, path: str) -> Path:
        (self.sys / path).mkdir(parents=True)
        return self.sys / path

    def announce(self, devpath: str, subsystem: str = "block", name: str | None = None) -> None:
        name = devpath.rpartition("/")[2] if name is None else name
        self.source.send(Uevent("add", devpath, subsystem, name, name if subsystem == "net" else ""))
