"""The kernel's device events as the agent reads them, and whether one is the device that somebody waits for."""

from __future__ import annotations

from kata.agent.devices.wanted import NamedBlock, PciBlock, PciFunction, PciNetwork, Roots, ScsiBlock
from kata.linux.uevent import parse

ROOTS = Roots("/nonexistent", "/nonexistent")
PCI = "/devices/pci0000:00/0000:00:02.0"
WANTED = (
    PciBlock(ROOTS, PCI, "02"),
    ScsiBlock(ROOTS, 1, 2),
    NamedBlock(ROOTS, "pmem0"),
    PciNetwork(ROOTS, PCI, "02"),
    PciFunction(ROOTS, PCI, "02"),
)


def _event(devpath: str, **values: str) -> bytes:
    items = {"ACTION": "add", "DEVPATH": devpath, "SEQNUM": "7", **values}
    return "\0".join([f"add@{devpath}", *(f"{key}={value}" for key, value in items.items()), ""]).encode()


SEEDS = (
    _event(f"{PCI}/virtio0/block/vda", SUBSYSTEM="block", DEVNAME="vda"),
    _event(f"{PCI}/virtio0/host0/target0:0:1/0:0:1:2/block/sda", SUBSYSTEM="block", DEVNAME="sda"),
    _event(f"{PCI}/virtio1/net/eth0", SUBSYSTEM="net", INTERFACE="eth0"),
    _event("/devices/system/memory/memory33", SUBSYSTEM="memory"),
    b"libudev\0\xfe\xed\xca\xfe",
)
TOKENS = (b"\0", b"@", b"=", b"ACTION=", b"DEVPATH=/", b"DEVNAME=", b"../", b"/block/", b"\xd9\xa1:0:1:2", b"\xff")


def target(data: bytes) -> None:
    """Nothing raises, and only the device that is waited for is found."""
    event = parse(data)
    if event is None:
        return
    assert event.action
    assert event.devpath.startswith("/")
    for wanted in WANTED[:4]:
        name = wanted.match(event)
        assert name in ("", event.devname, event.interface)
    assert WANTED[4].match(event) in ("", PCI)
