"""systemd's manager of units, over D-Bus. Called by `scope` of this room; `runs` by who decides on paths.

jeepney speaks the protocol. It is imported when there is something to say, so that hosts whose engines name paths of
cgroupfs never pay for it. A connection is made for each change and closed after it: a shim lives for weeks, changes
are rare, and nothing then minds that systemd or the bus was started anew in between.

Sources: org.freedesktop.systemd1(5), systemd's docs/CONTROL_GROUP_INTERFACE.md, the D-Bus specification.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence

from kata.errors import KataError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

    Value = tuple[str, object]
    """A variant: its signature and what it holds."""

BOOTED = "/run/systemd/system"
"""There is such a folder exactly while systemd is the host's manager (sd_booted(3))."""
BUS, PRIVATE = "/run/dbus/system_bus_socket", "/run/systemd/private"
"""The system's bus, and systemd's own socket for root, which is there before and without a bus."""
CONNECT_TIMEOUT = 2.0
CALL_TIMEOUT = 15.0
"""Seconds for a call and for the job that it starts. systemd does one thing after another, and hosts may be busy."""
PIECE = 4096

MANAGER_PATH, MANAGER, NAME = "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager", "org.freedesktop.systemd1"
UNIT_EXISTS, NO_SUCH_UNIT = f"{NAME}.UnitExists", f"{NAME}.NoSuchUnit"


class SystemdError(KataError):
    """systemd did not do what was asked; `name` is D-Bus's name of the error, empty when there was no answer."""

    def __init__(self, what: str, name: str = "") -> None:
        super().__init__(what, hint="journalctl and systemctl status may say more")
        self.name = name


def runs() -> bool:
    """Whether systemd manages this host and can be reached."""
    if not os.path.isdir(BOOTED):
        return False
    for path in (BUS, PRIVATE):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
            probe.settimeout(CONNECT_TIMEOUT)
            try:
                probe.connect(path)
            except OSError:
                continue
            return True
    return False


class Manager:
    """A connection to systemd, as a context manager. Everything raises SystemdError, at the latest when time is up."""

    def __init__(self, timeout: float = CALL_TIMEOUT) -> None:
        from jeepney import Parser

        self._deadline = time.monotonic() + timeout
        self._parser = Parser()
        self._serial = 0
        self._ended: dict[str, str] = {}
        """Results of jobs that have ended, by path: a job may be over before the call that began it has returned."""
        self._socket = self._connect()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def start_scope(self, unit: str, properties: Sequence[tuple[str, Value]]) -> None:
        """Make a transient scope of processes, named in `properties`; returns when they are in it."""
        self._job("StartTransientUnit", "ssa(sv)a(sa(sv))", (unit, "fail", list(properties), []))

    def set_properties(self, unit: str, properties: Sequence[tuple[str, Value]]) -> None:
        """Change a unit for as long as it lives."""
        self._call("SetUnitProperties", "sba(sv)", (unit, True, list(properties)))

    def stop_unit(self, unit: str) -> None:
        """End it with all that is in it; one that is not there is fine."""
        try:
            self._job("StopUnit", "ss", (unit, "replace"))
        except SystemdError as error:
            if error.name != NO_SUCH_UNIT:
                raise

    def forget_failure(self, unit: str) -> None:
        """Free the name of a unit that has failed; one that is not there, or has not failed, is fine."""
        try:
            self._call("ResetFailedUnit", "s", (unit,))
        except SystemdError as error:
            if error.name != NO_SUCH_UNIT:
                raise

    # Section: the protocol

    def _connect(self) -> socket.socket:
        findings = []
        for path in (BUS, PRIVATE):
            try:
                return self._open(path)
            except (OSError, SystemdError) as error:
                findings.append(f"{path}: {error}")
        raise SystemdError(f"systemd cannot be reached: {'; '.join(findings)}")

    def _open(self, path: str) -> socket.socket:
        from jeepney import AuthenticationError, DBusAddress
        from jeepney.io.blocking import prep_socket

        try:
            made: socket.socket = prep_socket(path, timeout=CONNECT_TIMEOUT)
        except AuthenticationError as error:
            raise SystemdError(f"it does not let this process in: {error}") from None
        os.set_inheritable(made.fileno(), False)
        if path == BUS:
            bus = DBusAddress("/org/freedesktop/DBus", "org.freedesktop.DBus", "org.freedesktop.DBus")
            self._socket = made
            try:
                self._request(bus, "Hello", "", ())
                rule = f"type='signal',sender='{NAME}',path='{MANAGER_PATH}',interface='{MANAGER}',member='JobRemoved'"
                self._request(bus, "AddMatch", "s", (rule,))
                # systemd tells of jobs on the bus only while somebody has asked it to; it forgets with the connection.
                self._call("Subscribe", "", ())
            except BaseException:
                made.close()
                raise
        return made

    def _job(self, method: str, signature: str, values: tuple[object, ...]) -> None:
        (job,) = self._call(method, signature, values)
        while job not in self._ended:
            self._receive()
        result = self._ended.pop(str(job))
        if result != "done":
            raise SystemdError(f"systemd's {method} of {values[0]} ended as {result!r}", result)

    def _call(self, method: str, signature: str, values: tuple[object, ...]) -> tuple[object, ...]:
        from jeepney import DBusAddress

        return self._request(DBusAddress(MANAGER_PATH, NAME, MANAGER), method, signature, values)

    def _request(self, address: object, method: str, signature: str, values: tuple[object, ...]) -> tuple[object, ...]:
        from jeepney import new_method_call

        self._serial += 1
        asked = new_method_call(address, method, signature or None, values)
        try:
            self._socket.settimeout(self._left())
            self._socket.sendall(asked.serialise(serial=self._serial))
        except OSError as error:
            raise SystemdError(f"systemd cannot be asked for {method}: {error}") from None
        while True:
            found = self._receive()
            if found is not None and found[0] == self._serial:
                if found[1]:
                    raise SystemdError(f"systemd refuses {method}: {found[1]}: {' '.join(map(str, found[2]))}", found[1])
                return found[2]

    def _receive(self) -> tuple[int, str, tuple[object, ...]] | None:
        """The next message, when it is an answer: to which call, the error's name, its values. Signals are noted."""
        from jeepney import HeaderFields, MessageType

        while (message := self._parser.get_next_message()) is None:
            try:
                self._socket.settimeout(self._left())
                data = self._socket.recv(PIECE)
            except OSError as error:
                raise SystemdError(f"systemd does not answer: {error}") from None
            if not data:
                raise SystemdError("systemd has closed the connection")
            self._parser.add_data(data)
        fields, kind = message.header.fields, message.header.message_type
        if kind is MessageType.signal and fields.get(HeaderFields.member) == "JobRemoved":
            _, job, _, result = message.body
            self._ended[job] = result
        if kind not in (MessageType.method_return, MessageType.error):
            return None
        return fields[HeaderFields.reply_serial], fields.get(HeaderFields.error_name, ""), tuple(message.body)

    def _left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise SystemdError("systemd did not do it in time")
        return left
