"""The debug console: a shell of the guest for whoever may reach its port. Only where `agent.debug_console` asks for it.

Started by `__main__`. Every connection gets a shell on a terminal of its own and takes it along when it goes. Without
a port there is one shell on the serial console. No authentication: the host owns the guest, and upstream has none.
"""

from __future__ import annotations

import os
import select
import signal
import threading

from kata.agent.stdio import resize
from kata.linux.fds import read_text
from kata.protocol.transport import listen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kata.linux.reaper import Exit, Reaper
    from kata.log import Logger
    from kata.protocol.connection import Connection

SHELLS = (("/bin/bash",), ("/bin/sh",), ("/bin/busybox", "sh"))
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "TERM": "linux",
    "LANG": "C.UTF-8",
}
ROWS, COLUMNS = 24, 80
PAUSE = 1.0
"""Seconds between one shell and the next on the same line, should it end at once each time."""
STALL = 60.0
"""Seconds after which a peer that takes no output is given up."""
LAST_WORDS = 64
"""Pieces of output that are still sent after a shell's end; something it left may write for ever."""
NO_SHELL = b"kata-agent: this guest image has no shell; `kata osbuilder image --debug` makes one that has\r\n"
ACTIVE = "/sys/class/tty/console/active"


class DebugConsole:
    """Serves shells. `find` says where to listen; "" is the serial console, when `serial` allows that."""

    def __init__(
        self,
        reaper: Reaper,
        log: Logger,
        find: Callable[[], str],
        *,
        serial: bool = True,
        shells: Sequence[Sequence[str]] = SHELLS,
    ) -> None:
        self._reaper = reaper
        self._log = log
        self._find = find
        self._serial = serial
        self._shells = shells
        self._pause = threading.Event()

    def start(self) -> None:
        """Begin to serve, in a thread that lives as long as the agent."""
        threading.Thread(target=self._run, name="debug-console", daemon=True).start()

    def _run(self) -> None:
        try:
            address = self._find()
            if address:
                self._log.info("debug console", address=address)
                self._listen(address)
            elif self._serial:
                self._serve_serial()
        except (OSError, ValueError) as error:
            self._log.warn("the debug console ended", error=error)

    def _listen(self, address: str) -> None:
        with listen(address) as listener:
            while True:
                connection = listener.accept()
                threading.Thread(target=self.serve, args=(connection,), name="debug-shell", daemon=True).start()

    def serve(self, connection: Connection) -> None:
        """One shell for one connection, which this owns. Whatever goes wrong ends the connection and nothing else."""
        with connection:
            try:
                self._serve(connection)
            except OSError as error:
                self._log.warn("a debug console failed", error=error)

    def _serve(self, connection: Connection) -> None:
        argv = self._shell()
        if argv is None:
            connection.write(NO_SHELL, stall=STALL)
            while connection.read(4096):
                pass  # a serial port is open again at once: say it once to a host, not for ever
            return
        master, slave = os.openpty()
        try:
            resize(slave, ROWS, COLUMNS)
            shell = self._reaper.run_on_terminal(argv, ENVIRONMENT, os.ttyname(slave))
        except BaseException:
            os.close(master)
            raise
        finally:
            os.close(slave)
        try:
            relay(connection, master, shell)
        finally:
            end_session(shell)
            os.close(master)
        self._pause.wait(PAUSE)  # a host's serial port stays open, and would get the next shell at once

    def _serve_serial(self) -> None:
        terminal = serial_console()
        argv = self._shell()
        if not terminal or argv is None:
            self._log.warn("no debug console", console=terminal or "none", shell=argv or "none")
            return
        self._log.info("debug console", terminal=terminal)
        while True:
            shell = self._reaper.run_on_terminal(argv, ENVIRONMENT, terminal)
            shell.wait()
            end_session(shell)
            self._pause.wait(PAUSE)

    def _shell(self) -> Sequence[str] | None:
        return next((argv for argv in self._shells if os.access(argv[0], os.X_OK)), None)


def relay(connection: Connection, master: int, shell: Exit) -> None:
    """Bytes both ways between a connection and a terminal, until the peer is gone or the shell has ended."""
    os.set_blocking(master, False)
    ended = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    try:
        watched = Watched(ended)
        shell.on_end(watched.tell)
        _relay(connection, master, ended)
    finally:
        watched.forget()
        os.close(ended)


class Watched:
    """Passes a shell's end on to an event descriptor, for as long as that is open."""

    def __init__(self, event: int) -> None:
        self._event = event
        self._lock = threading.Lock()

    def tell(self) -> None:
        """The shell has ended."""
        with self._lock:
            if self._event >= 0:
                os.eventfd_write(self._event, 1)

    def forget(self) -> None:
        """The descriptor is about to be closed."""
        with self._lock:
            self._event = -1


def _relay(connection: Connection, master: int, ended: int) -> None:
    pending = b""
    while True:
        poll = select.poll()
        poll.register(ended, select.POLLIN)
        poll.register(master, select.POLLIN | (select.POLLOUT if pending else 0))
        # While the shell has not taken the last input, no more is read; but that the peer is gone is always seen.
        poll.register(connection.fileno(), select.POLLRDHUP if pending else select.POLLIN)
        ready = dict(poll.poll())
        if ended in ready:
            _to_host(connection, master, LAST_WORDS)
            return
        if not _to_host(connection, master, 1):
            return
        if pending and ready.get(master, 0) & select.POLLOUT:
            pending = pending[_write_some(master, pending) :]
        elif connection.fileno() in ready:
            more = b"" if pending else connection.read(4096)
            if not more:
                return
            pending = more


def _to_host(connection: Connection, master: int, reads: int) -> bool:
    """Send what the terminal holds, up to `reads` pieces; False when nobody holds its other side any more."""
    for _ in range(reads):
        try:
            data = os.read(master, 65536)
        except BlockingIOError:
            return True
        except OSError:  # EIO
            return False
        connection.write(data, stall=STALL)
    return True


def _write_some(master: int, data: bytes) -> int:
    try:
        return os.write(master, data)
    except BlockingIOError:
        return 0


def end_session(shell: Exit, proc: str = "/proc") -> None:
    """SIGKILL the shell and every process of its session that is left."""
    # A number is not given to another process while a session still bears it, so these are the shell's own.
    for pid in session_members(shell.pid, proc):
        if pid != shell.pid:
            _kill(pid)
    try:
        shell.send(signal.SIGKILL)
    except ProcessLookupError:
        pass


def session_members(session: int, proc: str = "/proc") -> list[int]:
    """The processes of a session (field 6 of /proc/<pid>/stat, proc(5))."""
    found = []
    for name in os.listdir(proc):
        if name.isdigit():
            try:
                fields = read_text(f"{proc}/{name}/stat").rpartition(")")[2].split()
            except OSError:
                continue  # ended meanwhile
            if len(fields) > 3 and int(fields[3]) == session:
                found.append(int(name))
    return found


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def serial_console(active: str = ACTIVE) -> str:
    """The terminal behind /dev/console, which itself cannot be a controlling terminal; "" when there is none."""
    try:
        names = read_text(active).split()
    except OSError:
        return ""
    return f"/dev/{names[-1]}" if names and os.path.exists(f"/dev/{names[-1]}") else ""
