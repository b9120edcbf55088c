"""Swap space: the header as util-linux reads it, and requests that are refused."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from kata.agent import memory, swap
from kata.agent.errors import BadRequest, Unsupported
from tests.unit.agent_devices.fakes import FakeGuest

UUID = bytes(range(16))


def test_the_header_is_swap_space_to_others(tmp_path: Path) -> None:
    image = tmp_path / "disk"
    image.write_bytes(swap.make_header(1 << 20, UUID))
    os.truncate(image, 1 << 20)
    done = subprocess.run(["/sbin/blkid", "-p", "-o", "export", image], capture_output=True, text=True, check=True)
    assert "TYPE=swap" in done.stdout.split()
    assert "UUID=00010203-0405-0607-0809-0a0b0c0d0e0f" in done.stdout.split()


def test_the_header_is_mkswaps(tmp_path: Path) -> None:
    image = tmp_path / "disk"
    image.touch()
    os.truncate(image, 1 << 20)
    image.chmod(0o600)
    uuid = "00010203-0405-0607-0809-0a0b0c0d0e0f"
    subprocess.run(["/sbin/mkswap", "-U", uuid, image], check=True, capture_output=True)
    assert image.read_bytes()[: swap.PAGE] == swap.make_header(1 << 20, UUID)


def test_a_disk_can_be_too_small() -> None:
    with pytest.raises(BadRequest, match="too few"):
        swap.make_header(swap.PAGE * 9, UUID)


def test_refused_requests(tmp_path: Path) -> None:
    with FakeGuest(tmp_path, timeout=0.05) as guest:
        with pytest.raises(BadRequest, match="no PCI path"):
            swap.add_swap([], guest.hotplug)
        with pytest.raises(BadRequest):
            swap.add_swap([0x20], guest.hotplug)
        for path in ("", "/etc/passwd", "/dev/../etc/passwd", "vda"):
            with pytest.raises(BadRequest):
                swap.add_swap_path(path, guest.hotplug)


def test_a_file_is_no_disk(tmp_path: Path) -> None:
    with FakeGuest(tmp_path, timeout=0.05) as guest:
        guest.add_folder("class/block/vda")
        guest.add_node("vda")
        with pytest.raises(BadRequest, match="no disk"):
            swap.add_swap_path("/dev/vda", guest.hotplug)


def test_memory_addresses(tmp_path: Path) -> None:
    with pytest.raises(BadRequest):
        memory.probe([], str(tmp_path))
    with pytest.raises(Unsupported):
        memory.probe([1], str(tmp_path))
    (tmp_path / "probe").touch()
    memory.probe([0x180000000], str(tmp_path))
    assert (tmp_path / "probe").read_text() == "0x180000000"
