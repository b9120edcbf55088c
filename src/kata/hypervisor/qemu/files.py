"""Opens what QEMU needs and gives it away as descriptors, so that an unprivileged QEMU needs no path of ours.

Called by `machine.py` once per boot. Everything is entered on the caller's ExitStack; QEMU inherits copies.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from contextlib import ExitStack
from pathlib import Path

from kata.errors import advice
from kata.hypervisor.errors import HypervisorError, SpecError
from kata.hypervisor.machine import Disk, MachineSpec, SharedDirectory, TapNic
from kata.hypervisor.qemu.devices import PMEM_ALIGNMENT, Port, VsockEndpoint, all_disks, pmems
from kata.hypervisor.vsock import claim_cid
from kata.linux.fds import identity

CONNECT_TIMEOUT = 5.0
VHOST_NET = "/dev/vhost-net"


def open_disks(spec: MachineSpec, stack: ExitStack) -> tuple[int, ...]:
    """A descriptor per disk, O_RDONLY where the disk is read-only. Raises HypervisorError naming the disk."""
    return tuple(open_disk(disk, stack) for disk in all_disks(spec))


def open_disk(disk: Disk, stack: ExitStack) -> int:
    """A descriptor, O_RDONLY for a read-only disk. Raises HypervisorError naming the disk."""
    flags = os.O_RDONLY if disk.readonly else os.O_RDWR
    if not disk.identity:
        return _open(disk.path, flags, "disk", stack)
    with ExitStack() as ours:
        # Looked at before it is opened: it may be somebody else's disk by now, or a pipe that nobody writes to.
        found = _open(disk.path, os.O_PATH, "disk", ours)
        if identity(os.fstat(found)) != disk.identity:
            raise HypervisorError(f"the disk {disk.path} is not what it was: somebody has replaced it", layer="host")
        return _open(f"/proc/self/fd/{found}", flags, "disk", stack)


def disk_driver(fd: int) -> str:
    """QEMU's name for what an open disk is: "host_device" for a block device, "file" for a regular file."""
    return "host_device" if stat.S_ISBLK(os.fstat(fd).st_mode) else "file"


def _open(path: str, flags: int, what: str, stack: ExitStack) -> int:
    try:
        fd = os.open(path, flags | os.O_CLOEXEC)
    except OSError as error:
        raise HypervisorError(
            f"the {what} {path} cannot be opened: {error.strerror}",
            hint=advice(error, "check that it is there; the guest image is made by kata's osbuilder"),
            layer="host",
        ) from error
    stack.callback(os.close, fd)
    return fd


def pmem_sizes(spec: MachineSpec) -> tuple[int, ...]:
    """Bytes of each disk that is persistent memory. Raises SpecError when QEMU could not map it."""
    return tuple(_pmem_size(disk, spec.uid) for disk in pmems(spec))


def _pmem_size(disk: Disk, uid: int | None) -> int:
    info = os.stat(disk.path)
    if not stat.S_ISREG(info.st_mode) or not info.st_size or info.st_size % PMEM_ALIGNMENT:
        raise SpecError(f"{disk.path} cannot be persistent memory: it is no file of a multiple of 2 MiB")
    needed = 0o4 if disk.readonly else 0o6
    # QEMU opens it by its descriptor's name in /proc: no folder matters then, but the file's own mode does.
    if uid not in (None, info.st_uid) and info.st_mode & needed != needed:
        raise SpecError(
            f"QEMU runs as its own user and cannot open the persistent memory {disk.path}",
            hint=f"chmod o+{'r' if disk.readonly else 'rw'} {disk.path}",
        )
    return info.st_size


def open_ninep(spec: MachineSpec, stack: ExitStack) -> tuple[int, ...]:
    """A descriptor per 9p export that is not empty: of its directory, or its helper's.

    Raises HypervisorError naming the directory.
    """
    return tuple(
        share.proxy_fd if share.proxy_fd >= 0 else _open(share.path, os.O_RDONLY | os.O_DIRECTORY, "directory", stack)
        for share in spec.ninep
        if not share.empty
    )


def connect_shares(shares: tuple[SharedDirectory, ...], stack: ExitStack) -> tuple[int, ...]:
    """A connection per virtio-fs daemon, made by us because QEMU's user may not reach the socket."""
    return tuple(_connect_share(share, stack) for share in shares)


def _connect_share(share: SharedDirectory, stack: ExitStack) -> int:
    connection = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    connection.settimeout(CONNECT_TIMEOUT)
    try:
        connection.connect(share.socket_path)
    except OSError as error:
        raise HypervisorError(
            f"the daemon of the share {share.tag} does not answer: {error.strerror or error}",
            hint="look at the messages of virtiofsd",
            layer="host",
        ) from error
    connection.setblocking(True)
    return connection.fileno()


def open_vhost(nics: tuple[TapNic, ...], stack: ExitStack) -> tuple[tuple[int, ...], ...]:
    """For each NIC that wants vhost, a descriptor of vhost-net for each queue; none where the kernel has no vhost-net.

    Raises HypervisorError when there is one that cannot be opened.
    """
    return tuple(_open_vhost(nic, stack) if nic.vhost else () for nic in nics)


def _open_vhost(nic: TapNic, stack: ExitStack) -> tuple[int, ...]:
    fds: list[int] = []
    try:
        for _ in nic.fds:
            fds.append(os.open(VHOST_NET, os.O_RDWR | os.O_CLOEXEC))
            stack.callback(os.close, fds[-1])
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):  # a node may be there without a driver behind it
            return ()
        raise HypervisorError(
            f"{VHOST_NET} cannot be opened: {error.strerror}",
            hint="permit it, or set disable_vhost_net = true",
            layer="host",
        ) from error
    return tuple(fds)


def template_fds(spec: MachineSpec) -> tuple[int, ...]:
    """The descriptors of a machine that is to be saved, or goes on from a saved one."""
    if spec.saved is not None:
        return (spec.saved.memory_fd, spec.saved.state_fd)
    return (spec.memory_fd,) if spec.memory_fd >= 0 else ()


def socket_path(directory: str, port: Port) -> Path:
    """Where the host's side of a stream of the guest is, for streams over virtio-serial."""
    return Path(directory) / f"{port.stream}.sock"


def listen_port(directory: str, port: Port, stack: ExitStack) -> int:
    """A listening unix socket in `directory`; QEMU joins what connects to the guest's port."""
    path = socket_path(directory, port)
    path.unlink(missing_ok=True)
    listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    try:
        listener.bind(str(path))
        listener.listen(1)
    except OSError as error:
        raise HypervisorError(f"no socket can be made at {path}: {error.strerror or error}", layer="host") from error
    return listener.fileno()


def claim_vsock(stack: ExitStack) -> VsockEndpoint:
    """A guest CID of this host. Raises HypervisorError when there is no vhost-vsock."""
    claimed = claim_cid()
    stack.callback(os.close, claimed.fd)
    return VsockEndpoint(cid=claimed.cid, fd=claimed.fd)


def check_boot_files(spec: MachineSpec) -> None:
    """QEMU opens kernel and initrd by path, as its own user: say so here if it cannot.

    Raises SpecError when one is missing, or when QEMU has a user of its own and not everybody may read it.
    """
    for path in filter(None, (spec.kernel, spec.initrd)):
        if not os.path.isfile(path):
            raise SpecError(f"there is no file {path}", hint="run `kata setup` to get a guest kernel and image")
        if spec.uid is not None:
            _check_readable_by_all(Path(path))


def _check_readable_by_all(path: Path) -> None:
    real = path.resolve()
    steps = [(real, 0o004), *((parent, 0o001) for parent in real.parents)]
    for step, needed in steps:
        if not step.stat().st_mode & needed:
            raise SpecError(
                f"QEMU runs as its own user and cannot read {path}: {step} is closed to others",
                hint=f"chmod o+{'r' if needed == 0o004 else 'x'} {step}",
            )
