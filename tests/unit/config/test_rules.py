"""What depends on the host or on two settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from kata.config import InvalidConfigError
from kata.config.settings import Hypervisor
from tests.unit.config.files import loaded


@pytest.mark.parametrize(
    ("line", "key", "value"),
    [
        ("default_vcpus = 0", "default_vcpus", 1.0),
        ("default_vcpus = -1", "default_vcpus", 4.0),
        ("default_vcpus = 100", "default_vcpus", 4.0),
        ("default_vcpus = 1.5", "default_vcpus", 1.5),
        ("default_maxvcpus = 0", "default_maxvcpus", 4),
        ("default_maxvcpus = 1000", "default_maxvcpus", 4),
        ("default_maxvcpus = 3", "default_maxvcpus", 3),
        ("default_memory = 64", "default_memory", 2048),
        ("default_memory = 0", "default_memory", 2048),
        ("default_memory = 96", "default_memory", 96),
        ("default_maxmemory = 0", "default_maxmemory", 8192),
        ("default_maxmemory = 100000", "default_maxmemory", 8192),
        ("default_maxmemory = 4096", "default_maxmemory", 4096),
        ("default_maxmemory = 1024", "default_maxmemory", 2048),
        ("memory_slots = 0", "memory_slots", 10),
        ("default_bridges = 0", "default_bridges", 1),
        ("default_bridges = 9", "default_bridges", 5),
        ("initrd = '/boot/guest.img'", "image", ""),
    ],
)
def test_numbers_of_this_host(line: str, key: str, value: object, tmp_path: Path) -> None:
    config = loaded(tmp_path, f"[hypervisor.qemu]\n{line}\n")
    assert config.hypervisor.values[key] == value


def test_an_adjusted_value_keeps_its_origin_with_a_note(tmp_path: Path) -> None:
    config = loaded(tmp_path, "[hypervisor.qemu]\ndefault_vcpus = -1\n")
    origin = config.origin(Hypervisor.default_vcpus)
    assert (origin.kind, origin.note) == ("file", "CPUs of this host: 4")


def test_too_little_memory_is_a_warning(tmp_path: Path) -> None:
    config = loaded(tmp_path, "[hypervisor.qemu]\ndefault_memory = 64\n")
    assert "64 MiB are too little" in config.warnings[0].why


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[hypervisor.qemu]\nimage = '/a'\ninitrd = '/b'\n", "initrd"),
        ("[hypervisor.qemu]\ndefault_vcpus = 3\ndefault_maxvcpus = 2\n", "default_vcpus"),
        ("[hypervisor.qemu]\nqueue_size = 100\n", "queue_size"),
        ("[hypervisor.qemu]\nqueue_size = 2\n", "queue_size"),
        ("[hypervisor.qemu]\nblock_device_aio = 'native'\n", "block_device_aio"),
        ("[hypervisor.qemu]\nblock_device_aio = 'native'\nblock_device_cache_direct = true\n", "block_device_aio"),
        ("[hypervisor.qemu]\nhot_plug_vfio = 'root-port'\ncold_plug_vfio = 'root-port'\n", "hot_plug_vfio"),
        ("[hypervisor.qemu]\npcie_root_port = 17\n", "pcie_root_port"),
        ("[hypervisor.qemu]\npcie_root_port = 1\npcie_switch_port = 1\n", "pcie_switch_port"),
        ("[hypervisor.qemu]\nenable_vhost_user_store = true\n", "enable_vhost_user_store"),
        ("[hypervisor.qemu]\nenable_numa = true\n", "enable_numa"),
        ("[hypervisor.qemu]\nblock_device_logical_sector_size = 513\n", "block_device_logical_sector_size"),
        ("[hypervisor.qemu]\nblock_device_physical_sector_size = 256\n", "block_device_physical_sector_size"),
        (
            "[hypervisor.qemu]\nblock_device_logical_sector_size = 4096\nblock_device_physical_sector_size = 512\n",
            "block_device_logical_sector_size",
        ),
        ("[runtime]\ndisable_new_netns = true\n", "disable_new_netns"),
        ("[runtime]\nsandbox_bind_mounts = ['/a/x', '/b/x:rw']\n", "sandbox_bind_mounts"),
        ("[runtime]\nsandbox_bind_mounts = ['/']\n", "sandbox_bind_mounts"),
        ("[runtime]\nsandbox_bind_mounts = ['/a/../b']\n", "sandbox_bind_mounts"),
        ("[hypervisor.clh]\n[factory]\nvm_cache_number = 1\n", "vm_cache_number"),
        ("[agent.kata]\ndial_timeout = 1\ndial_timeout_ms = 1001\n", "dial_timeout_ms"),
        ("[runtime]\nhypervisor_name = 'clh'\n[hypervisor.qemu]\n", "hypervisor_name"),
        ("[runtime]\nhypervisor_name = 'xen'\n", "hypervisor_name"),
    ],
)
def test_what_excludes_each_other(text: str, key: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidConfigError) as caught:
        loaded(tmp_path, text)
    assert [found.key.rpartition(".")[2] for found in caught.value.findings] == [key]


def test_an_initrd_fits_into_memory(tmp_path: Path) -> None:
    initrd = tmp_path / "initrd.img"
    with initrd.open("wb") as file:
        file.truncate(300 * 1024**2)
    text = f"[hypervisor.qemu]\ninitrd = '{initrd}'\ndefault_memory = "
    assert loaded(tmp_path, text + "512\n").hypervisor.initrd == str(initrd)
    with pytest.raises(InvalidConfigError, match="300 MiB do not fit into 300 MiB"):
        loaded(tmp_path, text + "300\n")


def test_no_new_network_namespace_goes_with_no_network(tmp_path: Path) -> None:
    config = loaded(tmp_path, "[runtime]\ndisable_new_netns = true\ninternetworking_model = 'none'\n")
    assert config.runtime.disable_new_netns


def test_a_short_dial_timeout_shortens_a_single_try(tmp_path: Path) -> None:
    assert loaded(tmp_path, "[agent.kata]\nreconnect_timeout_ms = 300\n").agent.dial_timeout_ms == 300
