"""Debian's kernel with our initrd, in a VM: what goes wrong before the agent is said on the console, then it ends."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from kata.osbuilder import Assets, ensure_assets

pytestmark = [pytest.mark.root, pytest.mark.vm]

DEADLINE = 120


@pytest.fixture(scope="module")
def assets() -> Assets:
    found = ensure_assets(lambda _: None)
    if found.initrd is None:
        pytest.fail("the kernel in place has no initrd: run `kata kernel fetch`")
    return found


def boot(assets: Assets, disk: Path | None, parameters: str) -> str:
    """The console of a VM that has to end by itself."""
    assert assets.initrd is not None
    drive = ["-drive", f"if=none,id=root,format=raw,readonly=on,file={disk}", "-device", "virtio-blk-pci,drive=root"]
    done = subprocess.run(
        [
            *("qemu-system-x86_64", "-M", "q35", "-accel", "tcg", "-cpu", "max", "-m", "256", "-nodefaults"),
            *("-display", "none", "-serial", "stdio", "-no-reboot"),
            *("-kernel", assets.kernel, "-initrd", assets.initrd),
            *("-append", f"console=ttyS0 quiet panic=-1 no_timer_check {parameters}"),
            *(drive if disk else ()),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=DEADLINE,
        check=True,
    )
    return done.stdout.decode("utf-8", "replace")


@pytest.mark.parametrize(
    ("disk", "parameters", "words"),
    [
        pytest.param(False, "", "the root device /dev/vda did not appear", marks=pytest.mark.soak, id="no disk"),
        pytest.param(
            *(True, "root=/dev/vdz", "the root device /dev/vdz did not appear; present: /sys/block/vda"),
            id="another disk",
        ),
        pytest.param(
            *(True, "rootfstype=ext4", "/dev/vda cannot be mounted as ext4"),
            marks=pytest.mark.soak,
            id="another file system",
        ),
    ],
)
def test_a_root_that_is_not_there_is_said_and_ends_the_vm(
    assets: Assets, tmp_path: Path, disk: bool, parameters: str, words: str
) -> None:
    image = tmp_path / "image"
    image.write_bytes(Path(assets.image).read_bytes())
    console = boot(assets, image if disk else None, parameters)
    assert f"kata-initrd: {words}" in console, console


def test_the_image_may_be_ext4(assets: Assets, tmp_path: Path) -> None:
    """One without anything in it, so that it is mounted and then found wanting."""
    (image := tmp_path / "image").touch()
    subprocess.run(["mkfs.ext4", "-q", str(image), "8M"], check=True)
    assert "kata-initrd: the image has no /run" in boot(assets, image, "rootfstype=ext4")


def test_a_damaged_image_is_said_and_ends_the_vm(assets: Assets, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(1 << 20))
    assert "kata-initrd: /dev/vda cannot be mounted as erofs" in boot(assets, image, "")
