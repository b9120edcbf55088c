"""A guest that mounts a share: what it may read, what it may write, and what stays out of its reach."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from kata import paths
from kata.hypervisor.machine import MachineSpec, SharedDirectory
from kata.hypervisor.qemu.machine import QemuMachine
from tests.helpers.share import Volume, share_volumes

pytestmark = [pytest.mark.vm, pytest.mark.root]

UID = 1_879_048_192  # QEMU cannot reach the socket as this user: it is given the connection
INIT = """#!/bin/busybox sh
b=/bin/busybox
$b echo  # the firmware's last line has no end
$b mkdir -p /proc /mnt && $b mount -t proc proc /proc
$b mount -t virtiofs kataShared /mnt && $b echo MOUNTED
$b cat /mnt/v0/file /mnt/v2
$b echo x > /mnt/v0/new || $b echo RO-REFUSED
$b mount -o remount,rw /mnt; $b echo x > /mnt/v0/new || $b echo RO-STILL-REFUSED
$b echo x > /mnt/beside || $b echo ROOT-REFUSED
$b echo from-the-guest > /mnt/v1/new
$b ls /mnt/../mnt | $b tr '\\n' ' '
$b mknod /mnt/v1/device b 254 0 || $b echo DEVICE-REFUSED
$b echo END
$b reboot -f
"""


def test_a_guest_sees_the_volumes_and_no_more(tmp_path: Path) -> None:
    source, directory = tmp_path / "source", tmp_path / "vm"
    source.mkdir()
    directory.mkdir(mode=0o700)
    (source / "file").write_text("hello-dir\n")
    (source / "single").write_text("hello-file\n")
    volumes = [Volume(str(source)), Volume(str(source), readonly=False), Volume(str(source / "single"))]
    with (
        tempfile.TemporaryDirectory(prefix="kata-test-") as readable,
        share_volumes(volumes, str(directory)) as share,
    ):
        os.chmod(readable, 0o755)  # QEMU opens the initrd by itself, as its own user
        spec = MachineSpec(
            sandbox_id="share",
            directory=str(directory),
            kernel=str(paths.assets_dir() / "vmlinuz"),
            initrd=_initrd(tmp_path, readable),
            image=None,
            accelerator="tcg",
            kernel_params=("rdinit=/init",),
            uid=UID,
            gid=UID,
            shares=(SharedDirectory(share.tag, share.socket_path),),
        )
        with QemuMachine(spec) as machine:
            machine.boot()
            assert machine.wait(90) == 0, machine.console_tail(60)
            console = machine.console_tail(60)
        words = set(console.split())
        assert {"MOUNTED", "hello-dir", "hello-file", "END"} <= words, console
        assert {"RO-REFUSED", "RO-STILL-REFUSED", "ROOT-REFUSED", "DEVICE-REFUSED"} <= words, console
    assert (source / "new").read_text() == "from-the-guest\n"
    assert sorted(os.listdir(source)) == ["file", "new", "single"]
    assert list(directory.iterdir()) == []


def _initrd(tmp_path: Path, directory: str) -> str:
    root = tmp_path / "root"
    (root / "bin").mkdir(parents=True)
    (root / "dev").mkdir()
    (root / "bin" / "busybox").write_bytes(Path("/bin/busybox").read_bytes())
    (root / "bin" / "busybox").chmod(0o755)
    (root / "init").write_text(INIT)
    (root / "init").chmod(0o755)
    os.mknod(root / "dev" / "console", 0o600 | 0o020000, os.makedev(5, 1))
    os.mknod(root / "dev" / "null", 0o666 | 0o020000, os.makedev(1, 3))
    names = "\n".join(str(path.relative_to(root)) for path in root.rglob("*")).encode()
    archive = subprocess.run(
        ["cpio", "-o", "-H", "newc", "--quiet"], input=names, cwd=root, capture_output=True, check=True
    )
    path = Path(directory) / "initrd"
    path.write_bytes(archive.stdout)
    return str(path)
