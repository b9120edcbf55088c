"""What comes to a running QEMU and leaves it: disks, NICs, any other PCI device. Made by `machine.py` at boot.

Everything done for a device pushes its undoing, so a failure half way and a removal take the same way back. What
cannot be undone (the guest does not let go, QEMU does not answer) keeps its place, and another removal goes on where
the last one stopped. `_lock` guards the tables alone: who changes a device has marked it, and waits without the lock.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import msgspec

from kata.hypervisor.errors import HypervisorError, NoPlaceError, QmpCommandError, QmpProtocolError
from kata.hypervisor.machine import Disk, DiskAddress, TapNic
from kata.hypervisor.qemu import devices, files, nics
from kata.hypervisor.qemu.qmp import excerpt
from kata.hypervisor.qemu.validation import check_disk, check_nic

if TYPE_CHECKING:
    from kata.hypervisor.machine import MachineSpec
    from kata.hypervisor.qemu.qmp import QmpClient

ADD_TIMEOUT = 10.0
REMOVE_TIMEOUT = 20.0
"""Seconds for the guest to let go of a device; it takes a tenth of one, under TCG and load much more."""
NOT_FOUND = "DeviceNotFound"
GONE, REFUSED = "DEVICE_DELETED", "DEVICE_UNPLUG_GUEST_ERROR"

Undo = Callable[[float], object]
"""One step of the way back; takes the seconds that it has."""


class PciDevice(msgspec.Struct, frozen=True):
    """Any PCI device, by QEMU's name of its driver and with QEMU's properties. `name` is ours."""

    name: str
    driver: str
    properties: Mapping[str, object] = {}


class _Device:
    """A device that was added: QEMU's id of it, the place it holds, and what is left to undo, the last first."""

    __slots__ = ("address", "asked", "busy", "id", "place", "undo")

    def __init__(self, name: str, place: tuple[str, int]) -> None:
        self.id = name
        self.place = place
        self.undo: list[Undo] = []
        self.busy = True
        self.asked = False
        self.address: DiskAddress | None = None


class Hotplug:
    """The devices that came to one running machine, by their names (of a disk: its serial). Thread-safe."""

    def __init__(self, qmp: QmpClient, spec: MachineSpec) -> None:
        self._qmp = qmp
        self._spec = spec
        self._lock = threading.Lock()
        self._devices: dict[str, _Device] = {}
        self._count = 0

    def names(self) -> tuple[str, ...]:
        """All devices that came, with those that are on their way."""
        with self._lock:
            return tuple(self._devices)

    def address(self, serial: str) -> DiskAddress | None:
        """Where an added disk is, None when there is none of this name."""
        with self._lock:
            device = self._devices.get(serial)
        return None if device is None else device.address

    def add_disk(self, disk: Disk, timeout: float = ADD_TIMEOUT) -> DiskAddress:
        """Open the image and plug it in. Raises SpecError, NoPlaceError, HypervisorError."""
        check_disk(disk)
        if disk.driver == "nvdimm":
            raise NoPlaceError("persistent memory cannot be added to a running guest", hint="add a blk or scsi disk")
        if disk.driver == "blk" and disk.readonly and disk.bounded:
            spare = self._reserve_any(disk.serial, "spare")
            if spare is not None:
                return self._fill_spare(disk, spare, timeout)
        device = self._reserve(disk.serial, "target" if disk.driver == "scsi" else "port")
        number = device.place[1]
        if disk.driver == "scsi":
            properties = devices.scsi_disk(self._spec, number, device.id, disk)
            address = devices.scsi_address(number)
        else:
            properties = _behind(number, devices.plugged_disk(self._spec, device.id, disk))
            address = DiskAddress("blk", devices.root_port_path(number))
        self._add(disk.serial, device, properties, timeout, lambda deadline: self._add_image(device, disk, deadline))
        device.address = address
        device.busy = False
        return address

    def add_pci(self, wanted: PciDevice, timeout: float = ADD_TIMEOUT) -> str:
        """Plug a device into a root port; its PCI path in the guest. Raises NoPlaceError, HypervisorError."""
        device = self._reserve(wanted.name, "port")
        number = device.place[1]
        self._add(wanted.name, device, _behind(number, {**wanted.properties, "driver": wanted.driver}), timeout)
        device.busy = False
        return devices.root_port_path(number)

    def add_shares(self) -> None:
        """A machine with a share cannot be saved, so a restored one gets its own before its guest goes on."""
        for index, share in enumerate(self._spec.shares):
            with ExitStack() as ours:
                [fd] = files.connect_shares((share,), ours)
                self.add_share(index, share.tag, fd)

    def add_share(self, index: int, tag: str, fd: int, timeout: float = ADD_TIMEOUT) -> None:
        """Plug a virtio-fs device into a root port; `fd` is connected to its daemon. Raises HypervisorError."""
        device, deadline = self._reserve(f"fs{index}", "port"), time.monotonic() + timeout
        try:
            self._qmp.execute("getfd", {"fdname": f"fs{index}"}, fds=[fd], timeout=_left(deadline))
            chardev = {"id": f"fs{index}", "backend": devices.fd_socket(f"fs{index}")}
            self._qmp.execute("chardev-add", chardev, timeout=_left(deadline))
            self._plug(device, _behind(device.place[1], devices.plugged_share(index, tag)), deadline)
        except BaseException:
            self._give_up(f"fs{index}", device)
            raise
        device.busy = False

    def add_nic(self, nic: TapNic, timeout: float = ADD_TIMEOUT) -> str:
        """Send QEMU a tap's descriptors and plug a NIC in front of it; its PCI path in the guest.

        Raises SpecError, NoPlaceError, HypervisorError.
        """
        check_nic(nic)
        name = _nic_name(nic.mac)
        device = self._reserve(name, "port")
        number = device.place[1]
        properties = _behind(number, nics.plugged_card(device.id, nic))
        self._add(name, device, properties, timeout, lambda deadline: self._add_back_end(device, nic, deadline))
        device.busy = False
        return devices.root_port_path(number)

    def remove_nic(self, mac: str, timeout: float = REMOVE_TIMEOUT) -> None:
        """Take away a NIC that was added; one of the spec, which sits where nothing can be taken away, loses its link.

        Raises HypervisorError.
        """
        if _nic_name(mac) in self.names():
            self.remove(_nic_name(mac), timeout)
            return
        found = [index for index, nic in enumerate(self._spec.nics) if nic.mac.lower() == mac.lower()]
        if not found:
            raise HypervisorError(f"the machine has no NIC with the address {mac}")
        back_end = nics.tap_back_end(found[0], self._spec.nics[found[0]], ())["id"]
        try:
            self._qmp.execute("netdev_del", {"id": back_end}, timeout=timeout)
        except QmpCommandError as error:
            if error.error_class != NOT_FOUND:
                raise

    def remove(self, name: str, timeout: float = REMOVE_TIMEOUT) -> None:
        """Take a device away, and wait until it is gone. Raises HypervisorError; then it may be tried again."""
        with self._lock:
            device = self._devices.get(name)
            if device is None:
                raise HypervisorError(f"no device {name!r} was added to the machine")
            if device.busy:
                raise HypervisorError(f"the device {name!r} is being added or removed by another call")
            device.busy = True
        try:
            self._undo(device, time.monotonic() + timeout)
        except BaseException:
            device.busy = False
            raise
        self._forget(name)

    def resize_disk(self, name: str, size: int, timeout: float = ADD_TIMEOUT) -> None:
        """Have QEMU look at an added disk's size again; a file becomes `size` bytes long. Raises HypervisorError."""
        with self._lock:
            device = self._devices.get(name)
            if device is None or device.busy:
                raise HypervisorError(f"no disk {name!r} was added to the machine")
        self._qmp.execute("block_resize", {"node-name": device.id, "size": size}, timeout=timeout)

    # Section: places

    def _reserve(self, name: str, kind: str) -> _Device:
        """A place of the kind, held under a new id: one that QEMU still has events about is never used again."""
        device = self._reserve_any(name, kind)
        if device is None:
            raise self._full(kind)
        return device

    def _reserve_any(self, name: str, kind: str) -> _Device | None:
        cold = {disk.serial for disk in devices.all_disks(self._spec)}
        with self._lock:
            if name in self._devices or name in cold:
                raise HypervisorError(f"the machine has a device {name!r} already")
            taken = {device.place for device in self._devices.values()}
            place = next((found for found in self._places(kind) if found not in taken), None)
            if place is None:
                return None
            self._count += 1
            device = self._devices[name] = _Device(f"hot{self._count}", place)
        return device

    def _places(self, kind: str) -> Iterable[tuple[str, int]]:
        if self._spec.machine_type != "q35":
            return ()
        if kind == "port":
            return ((kind, port) for port in range(self._spec.pcie_root_ports))
        if kind == "spare":
            return ((kind, index) for index in devices.spare_disks(self._spec))
        # Ids below are those of the spec's own disks.
        targets = range(devices.MAX_DISKS, devices.MAX_SCSI_TARGETS) if self._spec.scsi_controller else ()
        return ((kind, target) for target in targets)

    def _full(self, kind: str) -> NoPlaceError:
        if self._spec.machine_type != "q35":
            return NoPlaceError(f"a machine of the type {self._spec.machine_type} takes no devices while it runs")
        if kind == "port":
            return NoPlaceError(
                f"all {self._spec.pcie_root_ports} root ports of the machine are taken",
                hint="remove a device, or start the sandbox with more root ports",
            )
        if not self._spec.scsi_controller:
            return NoPlaceError("the machine has no SCSI controller", hint="start the sandbox with one")
        return NoPlaceError("all ids of the machine's SCSI controller are taken")

    def _forget(self, name: str) -> None:
        with self._lock:
            self._devices.pop(name, None)

    # Section: doing and undoing

    def _add(
        self,
        name: str,
        device: _Device,
        properties: devices.Device,
        timeout: float,
        prepare: Callable[[float], None] = lambda _deadline: None,
    ) -> None:
        """`prepare` makes what is behind the device, by the deadline that it is given."""
        deadline = time.monotonic() + timeout
        try:
            prepare(deadline)
            self._plug(device, properties, deadline)
        except BaseException:
            self._give_up(name, device)
            raise

    def _give_up(self, name: str, device: _Device) -> None:
        """Undo as far as it goes; the error that brought us here is the one to tell."""
        try:
            self._undo(device, time.monotonic() + REMOVE_TIMEOUT)
        except HypervisorError:
            device.busy = False  # its place stays taken, until a removal succeeds
        else:
            self._forget(name)

    def _undo(self, device: _Device, deadline: float) -> None:
        while device.undo:
            device.undo[-1](_left(deadline))
            device.undo.pop()

    def _fill_spare(self, disk: Disk, device: _Device, timeout: float) -> DiskAddress:
        """Put the image behind a disk that the guest has seen all along: nothing is plugged in, or waited for."""
        index, deadline = device.place[1], time.monotonic() + timeout
        try:
            fdset, driver = self._give_file(device, disk, deadline)
            device.undo.append(lambda left: self._drop_node(device.id, left))
            node = devices.file_node(device.id, fdset, driver)
            self._qmp.execute("blockdev-add", node, timeout=_left(deadline))
            device.undo.append(lambda left: self._turn(index, devices.empty_name(index), left))
            self._turn(index, device.id, _left(deadline))
        except BaseException:
            self._give_up(disk.serial, device)
            raise
        device.address = DiskAddress("blk", devices.pci_path(index))
        device.busy = False
        return device.address

    def _turn(self, index: int, file: str, timeout: float) -> None:
        """Have another node behind a spare disk."""
        node = devices.spare_node(devices.node_name(index), file)
        self._qmp.execute("blockdev-reopen", {"options": [node]}, timeout=timeout)

    def _give_file(self, device: _Device, disk: Disk, deadline: float) -> tuple[int, str]:
        """QEMU's set of descriptors in which the image is, and the driver for it."""
        with ExitStack() as ours:
            fd = files.open_disk(disk, ours)
            driver = files.disk_driver(fd)
            answer = self._qmp.execute("add-fd", {"opaque": device.id}, fds=[fd], timeout=_left(deadline))
        fdset = _fdset(answer)
        device.undo.append(lambda left: self._qmp.execute("remove-fd", {"fdset-id": fdset}, timeout=left))
        return fdset, driver

    def _add_image(self, device: _Device, disk: Disk, deadline: float) -> None:
        fdset, driver = self._give_file(device, disk, deadline)
        # Here and in `_plug` the undoing first: after a time-out nobody knows whether the thing is there.
        device.undo.append(lambda left: self._drop_node(device.id, left))
        node = devices.disk_node(self._spec, device.id, disk, fdset, driver)
        self._qmp.execute("blockdev-add", node, timeout=_left(deadline))

    def _add_back_end(self, device: _Device, nic: TapNic, deadline: float) -> None:
        with ExitStack() as ours:
            [vhost] = files.open_vhost((nic,), ours)
            taps = {f"{device.id}-tap{queue}": fd for queue, fd in enumerate(nic.fds)}
            vhosts = {f"{device.id}-vhost{queue}": fd for queue, fd in enumerate(vhost)}
            device.undo.append(lambda left: self._drop_back_end(device.id, (*taps, *vhosts), left))
            for name, fd in {**taps, **vhosts}.items():
                self._qmp.execute("getfd", {"fdname": name}, fds=[fd], timeout=_left(deadline))
            back_end = nics.plugged_tap(device.id, tuple(taps), tuple(vhosts))
            self._qmp.execute("netdev_add", back_end, timeout=_left(deadline))

    def _drop_back_end(self, name: str, fd_names: Iterable[str], timeout: float) -> None:
        try:
            self._qmp.execute("netdev_del", {"id": name}, timeout=timeout)
            return
        except QmpCommandError as error:
            if error.error_class != NOT_FOUND:
                raise
        for fd_name in fd_names:  # nothing took them over; QEMU refuses those that it never had
            with suppress(QmpCommandError):
                self._qmp.execute("closefd", {"fdname": fd_name}, timeout=timeout)

    def _drop_node(self, node: str, timeout: float) -> None:
        try:
            self._qmp.execute("blockdev-del", {"node-name": node}, timeout=timeout)
        except QmpCommandError:
            if self._has_node(node, timeout):
                raise

    def _has_node(self, node: str, timeout: float) -> bool:
        nodes = self._qmp.execute("query-named-block-nodes", {"flat": True}, timeout=timeout)
        if not isinstance(nodes, list):
            raise QmpProtocolError("QEMU does not say which block nodes it has", detail=excerpt(nodes))
        return any(isinstance(found, dict) and found.get("node-name") == node for found in nodes)

    def _plug(self, device: _Device, properties: devices.Device, deadline: float) -> None:
        device.undo.append(lambda left: self._unplug(device, left))
        self._qmp.execute("device_add", {**properties, "id": device.id}, timeout=_left(deadline))

    def _unplug(self, device: _Device, timeout: float) -> None:
        """Ask the guest to let go, and wait until QEMU says that the device is no more."""
        deadline = time.monotonic() + timeout
        try:
            self._qmp.execute("device_del", {"id": device.id}, timeout=timeout)
        except QmpCommandError as error:
            if error.error_class == NOT_FOUND:
                return
            if not device.asked:  # else it is on its way already, and QEMU refuses to ask twice
                raise
        device.asked = True
        event = self._qmp.wait_event(
            GONE, REFUSED, timeout=_left(deadline), accept=lambda event: event.data.get("device") == device.id
        )
        if event.name == REFUSED:
            raise HypervisorError(f"the guest does not let go of the device {device.id}")


def _behind(port: int, properties: devices.Device) -> devices.Device:
    return {**properties, "bus": devices.root_port_name(port), "addr": "0"}


def _nic_name(mac: str) -> str:
    return f"nic {mac.lower()}"  # no serial of a disk has a space


def _left(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())


def _fdset(answer: object) -> int:
    number = answer.get("fdset-id") if isinstance(answer, dict) else None
    if not isinstance(number, int):
        raise QmpProtocolError("QEMU does not say into which set it put a descriptor", detail=excerpt(answer))
    return number
