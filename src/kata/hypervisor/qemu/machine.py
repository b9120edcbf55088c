"""One QEMU from `boot` to `close`: the driver behind the name "qemu". Started, watched and ended here only.

The order of things in `boot`: everything is opened by us, QEMU inherits it, our copies are closed, QMP answers.
Until then one ExitStack owns all of it, so a failure at any step leaves nothing. The thread that calls `boot`
must live as long as the machine: QEMU is killed with it (see `privileges`).
"""

from __future__ import annotations

import enum
import os
import select
import shutil
import signal
import socket
import subprocess
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from kata.hypervisor.errors import HypervisorError, QmpError, StartError
from kata.hypervisor.qemu import devices, files, migration, nics, vfio, view
from kata.hypervisor.qemu.command_line import Resolved, command_line
from kata.hypervisor.qemu.console import Console, clean_lines
from kata.hypervisor.qemu.growth import Growth
from kata.hypervisor.qemu.hotplug import Hotplug
from kata.hypervisor.qemu.privileges import drop_privileges
from kata.hypervisor.qemu.qmp import QmpClient
from kata.hypervisor.vsock import DEVICE as VSOCK_DEVICE
from kata.linux.process import PATH, bare_environment, spawn

if TYPE_CHECKING:
    from collections.abc import Callable

    from kata.hypervisor.machine import Disk, DiskAddress, MachineSpec, Stream, TapNic

BINARY = "qemu-system-x86_64"
START_TIMEOUT = 30.0
"""Seconds until QMP must answer. Takes 0.1 s; a host that swaps, or starts many at once, needs more."""
KILL_TIMEOUT = 5.0
STDERR_MAX = 64 << 10  # what the pipe holds; QEMU may go on complaining while it is read


class State(enum.Enum):
    """Where a machine is in its life. Each method says which states it is for."""

    NEW = "not booted"
    BOOTING = "booting"
    RUNNING = "running"
    STOPPED = "stopped"
    CLOSED = "closed"


class QemuMachine:
    """A `Machine` run by QEMU. See `kata.hypervisor.machine.Machine` for what the methods promise."""

    def __init__(self, spec: MachineSpec, *, binary: str = BINARY) -> None:
        self.spec = spec
        self._binary = spec.hardware.program or binary
        self._state = State.NEW
        self._lock = threading.RLock()
        self._accelerator: str = spec.accelerator
        self._cid: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._pidfd = -1
        self._stderr = -1
        self._returncode: int | None = None
        self._console: Console | None = None
        self._qmp: QmpClient | None = None
        self._hotplug: Hotplug | None = None
        self._growth: Growth | None = None

    def __enter__(self) -> QemuMachine:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    @property
    def state(self) -> State:
        """Where the machine is in its life; STOPPED is noticed by `wait` and `stop`."""
        return self._state

    @property
    def pid(self) -> int:
        """Process id of QEMU, 0 before boot."""
        return 0 if self._process is None else self._process.pid

    @property
    def accelerator(self) -> str:
        """`kvm` or `tcg`; before `boot`, what the spec asked for."""
        return self._accelerator

    @property
    def qmp(self) -> QmpClient:
        """The connection to the running QEMU, for what `Machine` does not offer (pause, migration)."""
        if self._qmp is None:
            raise HypervisorError(f"the machine is {self._state.value}, so QEMU cannot be asked anything")
        return self._qmp

    @property
    def hotplug(self) -> Hotplug:
        """What came to the running QEMU, and other devices than disks."""
        if self._hotplug is None:
            raise HypervisorError(f"the machine is {self._state.value}, so nothing can be plugged in")
        return self._hotplug

    @property
    def growth(self) -> Growth:
        """Memory and CPUs of the running QEMU."""
        if self._growth is None:
            raise HypervisorError(f"the machine is {self._state.value}, so its size cannot be changed")
        return self._growth

    def boot(self) -> None:
        """Start QEMU and let the guest run; returns when QMP answers. Only once, on a thread that stays.

        Raises SpecError for a bad spec, StartError with QEMU's own words when it ends or stays silent.
        """
        with self._lock:
            if self._state is not State.NEW:
                raise HypervisorError(f"a machine boots once; this one is {self._state.value}")
            self._state = State.BOOTING
            try:
                self._start()
            except BaseException:
                self.close()
                raise
            self._state = State.RUNNING

    def save(self, state_fd: int) -> None:
        """Hold the guest and write the state of its devices to a file. Raises HypervisorError."""
        migration.save(self.qmp, state_fd)

    def agent_address(self) -> str:
        """`vsock://<cid>:1024`, or the unix socket of the virtio-serial port."""
        return self._port_address(devices.AGENT)

    def stream_address(self, stream: Stream) -> str:
        """Like `agent_address`, for another stream. Raises HypervisorError when the machine was made without it."""
        for port in devices.ports(self.spec):
            if port.stream == stream:
                return self._port_address(port)
        raise HypervisorError(f"the machine was made without the stream {stream}")

    def disk_address(self, serial: str) -> DiskAddress:
        """Where a disk is in the guest, one of the spec or one that was added. Raises HypervisorError without one."""
        added = None if self._hotplug is None else self._hotplug.address(serial)
        if added is not None:
            return added
        try:
            return devices.disk_address(self.spec, serial)
        except KeyError:
            raise HypervisorError(f"the machine has no disk with the serial {serial!r}") from None

    def host_device_path(self, address: str) -> str:
        """Where a host device is in the guest. Raises HypervisorError without it."""
        for index, device in enumerate(self.spec.host_devices):
            if device.address == address:
                return devices.root_port_path(self.spec.pcie_root_ports + index)
        raise HypervisorError(f"the machine has no device {address} of the host")

    def add_disk(self, disk: Disk) -> DiskAddress:
        """Open an image and plug it into the running guest. Raises SpecError, NoPlaceError, HypervisorError."""
        return self.hotplug.add_disk(disk)

    def remove_disk(self, serial: str) -> None:
        """Take away a disk that was added, and wait until the guest has let go. Raises HypervisorError."""
        self.hotplug.remove(serial)

    def resize_disk(self, serial: str, size: int) -> None:
        """Let the guest see that an added disk has grown, and a file grow. Raises HypervisorError."""
        self.hotplug.resize_disk(serial, size)

    def nic_path(self, number: int) -> str:
        """The PCI path of a NIC of the spec."""
        return nics.nic_path(self.spec, number)

    def add_nic(self, nic: TapNic) -> str:
        """Plug a NIC into the running guest. Raises SpecError, NoPlaceError, HypervisorError."""
        return self.hotplug.add_nic(nic)

    def remove_nic(self, mac: str) -> None:
        """Take a NIC away, and wait until it is gone. Raises HypervisorError."""
        self.hotplug.remove_nic(mac)

    def vcpu_threads(self) -> tuple[int, ...]:
        """The threads of the guest's CPUs. Raises HypervisorError."""
        return self.growth.vcpu_threads(self.pid)

    def free_memory_slots(self) -> int:
        """How often memory can be added yet."""
        return self.growth.free_slots

    def add_memory(self, size_mib: int) -> None:
        """Plug memory into the running guest. Raises NoPlaceError, HypervisorError."""
        self.growth.add_memory(size_mib)

    def add_vcpus(self, count: int) -> None:
        """Plug CPUs into the running guest. Raises NoPlaceError, HypervisorError."""
        self.growth.add_vcpus(count)

    def remove_vcpus(self, count: int) -> int:
        """Take CPUs away that were added. Raises HypervisorError."""
        return self.growth.remove_vcpus(count)

    def set_balloon(self, memory_mib: int) -> None:
        """Leave the guest this much memory. Raises HypervisorError."""
        self.growth.set_balloon(memory_mib)

    def wait(self, timeout: float | None = None) -> int | None:
        """QEMU's exit status (negative: the signal that killed it), or None when it runs on or never did."""
        if self._process is None:
            return None
        with self._lock:
            if self._returncode is not None or self._pidfd < 0:
                return self._returncode
            pidfd = os.dup(self._pidfd)  # `close` on another thread must not pull it from under the poll
        try:
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            poll.poll(None if timeout is None else max(0.0, timeout) * 1000)
        finally:
            os.close(pidfd)
        return self._reap()

    def follow_console(self, told: Callable[[str], None]) -> None:
        """Tell of each line of the guest's console, those that are there already first."""
        if self._console is not None:
            self._console.follow(told)

    def console_tail(self, lines: int = 40) -> str:
        """The last lines of the guest's console, safe to show."""
        return "" if self._console is None else self._console.tail(lines)

    def stop(self, timeout: float = 5.0) -> None:
        """End QEMU: `quit`, SIGTERM, SIGKILL, within `timeout` seconds plus the kernel's time to kill."""
        if self._process is None or self._reap() is not None:
            return
        deadline = time.monotonic() + timeout
        self._ask_to_quit(timeout * 0.4)
        for number, share in ((None, 0.4), (signal.SIGTERM, 0.9), (signal.SIGKILL, 1.0)):
            self._signal(number)
            limit = KILL_TIMEOUT if number == signal.SIGKILL else deadline - timeout * (1 - share) - time.monotonic()
            if self.wait(max(0.0, limit)) is not None:
                return

    def close(self) -> None:
        """`stop`, then close and remove everything of this machine. The directory itself is the caller's."""
        self.stop()
        with self._lock:
            self._state = State.CLOSED
            if self._qmp is not None:
                self._qmp.close()
                self._qmp = self._hotplug = self._growth = None
            if self._console is not None:
                self._console.close()
            for fd in (self._pidfd, self._stderr):
                if fd >= 0:
                    os.close(fd)
            self._pidfd = self._stderr = -1
            sockets = [files.socket_path(self.spec.directory, port) for port in devices.ports(self.spec)]
            for path in (*sockets, Path(self.spec.directory) / "pid"):
                path.unlink(missing_ok=True)

    def _port_address(self, port: devices.Port) -> str:
        if self._cid is not None:
            return f"vsock://{self._cid}:{port.vsock}"
        return f"unix://{files.socket_path(self.spec.directory, port)}"

    def _start(self) -> None:
        files.check_boot_files(self.spec)
        self._accelerator = self._choose_accelerator()
        with vfio.open_groups(self.spec), view.namespaces(self.spec, self._binary, self._accelerator) as entered:
            self._launch(entered)

    def _launch(self, entered: dict[str, str]) -> None:
        with ExitStack() as ours:
            qmp, qmp_fd = _socket_pair(ours)
            console, console_fd = _socket_pair(ours)
            argv, fds = self._argv(ours, qmp_fd, console_fd, entered)
            self._spawn(argv, fds)
            # From here on QEMU's copies are the only ones: their end is how we see its end.
            self._console = Console(console.dup())
            self._qmp = QmpClient(qmp.dup())
        self._hotplug = Hotplug(self._qmp, self.spec)
        self._growth = Growth(self._qmp, self.spec)
        try:
            self._qmp.negotiate(START_TIMEOUT)
            if self.spec.saved is not None:
                migration.restore(self._qmp, self.spec.saved)
                self._hotplug.add_shares()
                self._qmp.execute("cont", timeout=START_TIMEOUT)
        except QmpError as error:
            raise self._start_error(error) from error

    def _argv(
        self, ours: ExitStack, qmp_fd: int, console_fd: int, entered: dict[str, str]
    ) -> tuple[list[str], tuple[int, ...]]:
        vsock = files.claim_vsock(ours) if self._uses_vsock() else None
        self._cid = None if vsock is None else vsock.cid
        ports = devices.ports(self.spec)
        disk_fds = files.open_disks(self.spec, ours)
        resolved = Resolved(
            binary=self._binary,
            accelerator=self._accelerator,
            qmp_fd=qmp_fd,
            console_fd=console_fd,
            port_fds=() if vsock else tuple(files.listen_port(self.spec.directory, port, ours) for port in ports),
            vsock=vsock,
            disk_fds=disk_fds,
            disk_drivers=tuple(files.disk_driver(fd) for fd in disk_fds),
            ninep_fds=files.open_ninep(self.spec, ours),
            pmem_sizes=files.pmem_sizes(self.spec),
            share_fds=() if self.spec.saved else files.connect_shares(self.spec.shares, ours),
            vhost_fds=files.open_vhost(self.spec.nics, ours),
        )
        published = () if self.spec.network is None else self.spec.network.ports
        prefix = drop_privileges(
            self.spec.uid,
            self.spec.gid,
            accelerator=self._accelerator,
            bind_low_ports=any(port.host_port < 1024 for port in published),
            locked_memory=vfio.locked_memory(self.spec),
            netns=self.spec.netns,
            namespaces=entered,
        )
        inherited = (*resolved.fds(), *nics.nic_fds(self.spec), *files.template_fds(self.spec))
        return [*prefix, *command_line(self.spec, resolved)], inherited

    def _spawn(self, argv: list[str], fds: tuple[int, ...]) -> None:
        if shutil.which(self._binary, path=PATH) is None:
            spawn([self._binary])  # raises with the package to install; setpriv's own message would not say it
        self._stderr, stderr = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        # Nobody reads the pipe while QEMU runs, and neither end blocks: the first 64 KiB are kept, and a guest
        # that makes QEMU complain for ever fills nothing else.
        try:
            self._process = spawn(argv, stderr=stderr, pass_fds=fds, env=bare_environment(), whole_env=True)
        finally:
            os.close(stderr)
        self._pidfd = os.pidfd_open(self._process.pid)
        (Path(self.spec.directory) / "pid").write_text(f"{self._process.pid}\n")

    def _choose_accelerator(self) -> str:
        if self.spec.accelerator != "auto":
            return self.spec.accelerator
        from kata.hypervisor.qemu.probe import choose_accelerator  # not needed once the configuration says

        return choose_accelerator(self.spec.kernel, binary=self._binary).accelerator

    def _uses_vsock(self) -> bool:
        if self.spec.transport == "auto":
            return os.access(VSOCK_DEVICE, os.R_OK | os.W_OK)
        return self.spec.transport == "vsock"

    def _start_error(self, error: QmpError) -> StartError:
        # QEMU that ended closes the connection first and is a zombie a moment later.
        code = self.wait(KILL_TIMEOUT) if self._qmp is not None and self._qmp.closed else None
        words = self._stderr_text()
        if code is None:
            return StartError(
                f"QEMU did not answer within {START_TIMEOUT:.0f} s of its start: {error.what}",
                hint="look at the load of the host, then try again",
                detail=words,
            )
        before, _, last = words.rpartition("\n")
        said = f": {last}" if last else ""
        return StartError(f"QEMU ended with {_describe(code)} while starting{said}", detail=before)

    def _stderr_text(self) -> str:
        said = b""
        try:
            while len(said) < STDERR_MAX and (chunk := os.read(self._stderr, STDERR_MAX)):
                said += chunk
        except BlockingIOError:
            pass  # QEMU still runs and has said no more
        return "\n".join(clean_lines(said.decode("utf-8", "replace")))

    def _ask_to_quit(self, timeout: float) -> None:
        qmp = self._qmp
        if qmp is None or self._state is not State.RUNNING:
            return
        try:
            qmp.execute("quit", timeout=timeout)
        except QmpError:
            pass  # a hung or ended QEMU gets signals next

    def _signal(self, number: signal.Signals | None) -> None:
        with self._lock:
            if number is not None and self._pidfd >= 0:
                try:
                    signal.pidfd_send_signal(self._pidfd, number)
                except ProcessLookupError:
                    pass  # ended by itself meanwhile

    def _reap(self) -> int | None:
        with self._lock:
            if self._returncode is None and self._process is not None:
                self._returncode = self._process.poll()
                if self._returncode is not None and self._state is not State.CLOSED:
                    self._state = State.STOPPED
                    if self._console is not None:
                        self._console.finish(1.0)
            return self._returncode


def _socket_pair(stack: ExitStack) -> tuple[socket.socket, int]:
    """Our end, and the descriptor number of QEMU's end."""
    ours, theirs = socket.socketpair()
    stack.enter_context(ours)
    stack.enter_context(theirs)
    return ours, theirs.fileno()


def _describe(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    return f"signal {next((number.name for number in signal.Signals if number == -code), -code)}"
