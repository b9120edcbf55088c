"""Files of our own state, as a power cut, a full disk or somebody's hand may have left them."""

from __future__ import annotations

import tempfile
from pathlib import Path

import msgspec

from kata.factory.store import Description, TemplateStore
from kata.hypervisor.processref import ProcessRef
from kata.hypervisor.qemu.probe import _read_cache
from kata.sandbox.config import ContainerConfig, GuestAssets, SandboxConfig, SharedRootfs
from kata.sandbox.errors import SandboxError
from kata.sandbox.store import Record, Store
from kata.storage import directvolumes
from kata.storage.errors import VolumeError

RECORD = Record(
    name="a",
    image="b",
    command=["c"],
    sandbox=SandboxConfig(id="d", hostname="d", assets=GuestAssets(kernel="k", initrd=None, image="i")),
    container=ContainerConfig(id="d", spec={"process": {"args": ["c"]}}, rootfs=SharedRootfs("/nonexistent")),
    processes=[ProcessRef(1, 2)],
)
SEEDS = (
    msgspec.json.encode(RECORD),
    msgspec.json.encode(Description("a", 1.0, (), "tcg", 1, 256, 1, 5, 0.5)),
    b'{"volume-type": "block", "device": "/dev/a", "fstype": "ext4", "metadata": {"fsGroup": "1"}, "options": ["ro"]}',
    b'{"identity": {}, "accelerator": "tcg", "reason": "a"}',
)
TOKENS = (b"null", b"-1", b"1e400", b"99999999999999999999", b'"\\ud800"', b"\xff", b'"\xff": 1', b"[[[[[[[[", b"{}")

_folder = tempfile.TemporaryDirectory(prefix="kata-fuzz-")
SANDBOXES, TEMPLATES = (Path(_folder.name) / name for name in ("sandboxes", "templates"))
for _place in (SANDBOXES / "d", TEMPLATES / "a"):
    _place.mkdir(parents=True)


def target(data: bytes) -> None:
    """Each record is read, or refused by an error that says what to do, and lists go on without it."""
    _sandbox(data)
    (TEMPLATES / "a" / "template.json").write_bytes(data)
    assert len(TemplateStore(TEMPLATES).entries()) == 1
    (TEMPLATES / "cache.json").write_bytes(data)
    _read_cache(TEMPLATES / "cache.json", {})
    try:
        volume = directvolumes.parse(data, "/volume")
    except VolumeError as error:
        assert error.what.isprintable()
    else:
        assert volume.device.startswith("/")
        assert volume.group is None or volume.group < 1 << 32


def _sandbox(data: bytes) -> None:
    store = Store(SANDBOXES)
    (SANDBOXES / "d" / "persist.json").write_bytes(data)
    (SANDBOXES / "d" / "lock").write_bytes(data[:64])
    store.holder("d")
    try:
        record = store.read("d")
    except SandboxError as error:
        assert error.what.isprintable()
        assert not store.records()
    else:
        assert store.records() == [record]
        msgspec.json.encode(record)
