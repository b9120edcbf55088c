"""systemd's manager of units, over D-Bus. Called by `scope` of this room.

jeepney speaks the protocol. It is imported when there is something to say, so that hosts whose engines name paths of
cgroupfs never pay for it. A connection is made for each change and closed after it: a shim lives for weeks, changes
are rare, and nothing then minds that systemd or the bus was started anew in between.

Sources: org.freedesktop.systemd1(5), systemd's docs/CONTROL_GROUP_INTERFACE.md, the D-Bus specification.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Sequence
from typing import NamedTuple, cast

from kata.errors import KataError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self  # what a message holds, nobody knows before it has been looked at

    from jeepney import Message

    Value = tuple[str, object]
    """A variant: its signature and what it holds."""


class Host(NamedTuple):
    """Where systemd is found: `booted` is a folder that is there exactly while it is the manager (sd_booted(3))."""

    booted: str = "/run/systemd/system"
    bus: str = "/run/dbus/system_bus_socket"
    private: str = "/run/systemd/private"
    """systemd's own socket for root, which is there before and without a bus."""

    def runs(self) -> bool:
        """Whether systemd manages this host."""
        return os.path.isdir(self.booted)


CONNECT_TIMEOUT = 2.0
CALL_TIMEOUT = 15.0
"""Seconds for all calls of a connection, and for the jobs that they start. systemd does one thing after another, and
hosts may be busy."""
PIECE = 4096

MANAGER_PATH, MANAGER, NAME = (
    "/org/freedesktop/systemd1",
    "org.freedesktop.systemd1.Manager",
    "org.freedesktop.systemd1",
)
ENDED = "JobRemoved"
UNKNOWN_OBJECT = "org.freedesktop.DBus.Error.UnknownObject"
UNIT_EXISTS, NO_SUCH_UNIT = f"{NAME}.UnitExists", f"{NAME}.NoSuchUnit"


class SystemdError(KataError):
    """systemd did not do what was asked; `name` is D-Bus's name of the error, empty when there was no answer."""

    def __init__(self, what: str, name: str = "") -> None:
        super().__init__(what, hint="journalctl and systemctl status may say more")
        self.name = name


class Manager:
    """A connection to systemd, as a context manager. Everything raises SystemdError, at the latest when time is up."""

    def __init__(self, host: Host, timeout: float = CALL_TIMEOUT) -> None:
        from jeepney import Parser

        self._deadline = time.monotonic() + timeout
        self._host = host
        self._parser = Parser()
        self._serial = 0
        self._ended: dict[str, str] = {}
        """Results of jobs that have ended, by path: a job may be over before the call that began it has returned."""
        self._peer: object = None
        """The sender of the last answer: on a bus, others may send signals that look like systemd's."""
        self._socket = self._connect()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def start_scope(self, unit: str, properties: Sequence[tuple[str, Value]]) -> None:
        """Make a transient scope of processes, named in `properties`; returns when they are in it."""
        self._job("StartTransientUnit", "ssa(sv)a(sa(sv))", (unit, "fail", list(properties), []))

    def set_properties(self, unit: str, properties: Sequence[tuple[str, Value]]) -> None:
        """Change a unit for as long as it lives. Lists are added to, but for an empty one, which clears."""
        self._call("SetUnitProperties", "sba(sv)", (unit, True, list(properties)))

    def cgroup_of(self, unit: str) -> str:
        """Where a scope is; empty when it has ended, or is not there."""
        from jeepney import DBusAddress

        try:
            path = str(*self._call("GetUnit", "s", (unit,)))
            address = DBusAddress(path, NAME, "org.freedesktop.DBus.Properties")
            ((_, found),) = self._request(address, "Get", "ss", (f"{NAME}.Scope", "ControlGroup"))
        except (TypeError, ValueError) as error:
            raise SystemdError(f"systemd does not say where {unit} is: {error}") from None
        except SystemdError as error:
            if error.name in (NO_SUCH_UNIT, UNKNOWN_OBJECT):
                return ""
            raise
        return str(found)

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
        from jeepney import Parser

        findings = []
        for path in (self._host.bus, self._host.private):
            try:
                return self._open(path)
            except (OSError, SystemdError) as error:
                findings.append(f"{path}: {error}")
                self._parser, self._peer = Parser(), None
        raise SystemdError(f"systemd cannot be reached: {'; '.join(findings)}")

    def _open(self, path: str) -> socket.socket:
        made = self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            made.settimeout(min(CONNECT_TIMEOUT, self._left()))
            made.connect(path)
            self._log_in()
            if path == self._host.bus:
                self._greet_bus()
            # On the bus systemd tells of jobs only while somebody wants it to; it forgets with the connection. On its
            # own socket it always does. The answer has the name under which it will speak.
            self._call("Subscribe", "", ())
        except BaseException:
            made.close()
            raise
        return made

    def _log_in(self) -> None:
        """As the user that the kernel says.

        BEGIN does not wait for the answer: systemd (252 at least) overlooks a call that comes along with BEGIN, until
        there is another one. Signals may follow the answer at once.
        """
        from jeepney.auth import BEGIN, make_auth_external

        self._socket.sendall(b"\0" + make_auth_external() + BEGIN)
        heard = b""
        while b"\r\n" not in heard and len(heard) < PIECE:
            self._socket.settimeout(min(CONNECT_TIMEOUT, self._left()))
            data = self._socket.recv(PIECE)
            if not data:
                raise SystemdError("it has closed the connection")
            heard += data
        answer, _, rest = heard.partition(b"\r\n")
        if not answer.startswith(b"OK "):
            raise SystemdError(f"it does not let this process in: {answer[:80]!r}")
        self._parser.add_data(rest)

    def _greet_bus(self) -> None:
        from jeepney import DBusAddress

        bus = DBusAddress("/org/freedesktop/DBus", "org.freedesktop.DBus", "org.freedesktop.DBus")
        self._request(bus, "Hello", "", ())
        rule = f"type='signal',sender='{NAME}',path='{MANAGER_PATH}',interface='{MANAGER}',member='{ENDED}'"
        self._request(bus, "AddMatch", "s", (rule,))

    def _job(self, method: str, signature: str, values: tuple[object, ...]) -> None:
        answer = self._call(method, signature, values)
        job = str(answer[0]) if answer else ""
        while job not in self._ended:
            self._receive()
        result = self._ended.pop(job)
        if result != "done":
            raise SystemdError(f"systemd's {method} of {values[0]} ended as {result!r}", result)

    def _call(self, method: str, signature: str, values: tuple[object, ...]) -> tuple[object, ...]:
        from jeepney import DBusAddress

        return self._request(DBusAddress(MANAGER_PATH, NAME, MANAGER), method, signature, values)

    def _request(self, address: object, method: str, signature: str, values: tuple[object, ...]) -> tuple[Any, ...]:
        from jeepney import HeaderFields, MessageType, new_method_call

        self._serial += 1
        asked = new_method_call(address, method, signature or None, values)
        try:
            self._socket.settimeout(self._left())
            self._socket.sendall(asked.serialise(serial=self._serial))
        except OSError as error:
            raise SystemdError(f"systemd cannot be asked for {method}: {error}") from None
        while True:
            found = self._receive()
            if found.header.fields.get(HeaderFields.reply_serial) != self._serial:
                continue
            if found.header.message_type is MessageType.error:
                name = found.header.fields.get(HeaderFields.error_name, "")
                raise SystemdError(f"systemd refuses {method}: {name}: {' '.join(map(str, found.body))}", name)
            self._peer = found.header.fields.get(HeaderFields.sender)
            return tuple(found.body)

    def _receive(self) -> Message:
        """The next message. What it tells of the end of a job is noted."""
        from jeepney import HeaderFields, MessageType

        while (message := self._next()) is None:
            try:
                self._socket.settimeout(self._left())
                data = self._socket.recv(PIECE)
            except OSError as error:
                raise SystemdError(f"systemd does not answer: {error}") from None
            if not data:
                raise SystemdError("systemd has closed the connection")
            self._parser.add_data(data)
        fields = message.header.fields
        told = (message.header.message_type, fields.get(HeaderFields.member), fields.get(HeaderFields.sender))
        if told == (MessageType.signal, ENDED, self._peer) and len(message.body) == 4:
            self._ended[message.body[1]] = message.body[3]
        return message

    def _next(self) -> Message | None:
        try:
            return cast("Message | None", self._parser.get_next_message())
        except (ValueError, KeyError, struct.error) as error:
            raise SystemdError(f"systemd's answer cannot be read: {error}") from None

    def _left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise SystemdError("systemd did not do it in time")
        return left
