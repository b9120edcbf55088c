"""What of the configuration decides how a sandbox's disks are plugged in and its files get in."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from kata import config as configuration
from kata.config import Config
from kata.config.guest import kernel_params
from kata.hypervisor.machine import DiskOptions, Hardware
from kata.oci.spec import Spec
from kata.osbuilder.assets import Assets
from kata.protocol.generated.host import runtimeoptions_pb2
from kata.sandbox.config import (
    GuestAssets,
    GuestOptions,
    Patience,
    PodNetworkConfig,
    SandboxMount,
    SharedMount,
)
from kata.sandbox.errors import ConfigError
from kata.shim import configure
from kata.shim.events import as_any
from kata.shim.hardware import disk_options, guest_options, hardware, patience
from kata.shim.kind import SANDBOX, Kind

KIND = Kind(SANDBOX, "box")


def load(folder: Path, *lines: str) -> Config:
    path = folder / "configuration.toml"
    path.write_text("\n".join(["[hypervisor.qemu]", *lines]))
    return configuration.load(str(path))


@pytest.mark.parametrize(
    ("lines", "drivers", "ports"),
    [
        ([], ("blk", "scsi"), 2),
        (["pcie_root_port = 1"], ("blk", "scsi"), 2),
        (["pcie_root_port = 5"], ("blk", "scsi"), 5),
        (["pcie_root_port = 16"], ("blk", "scsi"), 8),
        (['block_device_driver = "virtio-scsi"'], ("scsi",), 1),
        (['block_device_driver = "virtio-scsi"', "pcie_root_port = 3"], ("scsi",), 3),
        (['machine_type = "microvm"', "pcie_root_port = 3"], ("blk",), 0),
    ],
)
def test_places_for_disks(tmp_path: Path, lines: list[str], drivers: tuple[str, ...], ports: int) -> None:
    config = load(tmp_path, *lines)
    assert (configure.disk_drivers(config), configure.root_ports(config)) == (drivers, ports)


def test_what_a_sandbox_shares_and_plugs_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configure, "guest_assets", lambda config: GuestAssets("/k", None, "/i"))
    spec = cast("Spec", {"mounts": [], "linux": {"namespaces": [{"type": "network"}]}})
    usual = configure.sandbox_config(load(tmp_path), KIND, spec)
    assert (usual.share, usual.block_rootfs, usual.shm_bytes) == (True, True, 64 << 20)
    alone = load(tmp_path, 'shared_fs = "none"', "disable_block_device_use = true")
    made = configure.sandbox_config(alone, KIND, spec)
    assert (made.share, made.block_rootfs) == (False, False)
    ninep = configure.sandbox_config(load(tmp_path, 'shared_fs = "virtio-9p"', "msize_9p = 65536"), KIND, spec)
    assert (ninep.share, ninep.sharing.way, ninep.sharing.msize) == (True, "virtio-9p", 65536)


def test_how_a_share_is_served(tmp_path: Path) -> None:
    lines = ['virtio_fs_daemon = "/opt/d"', 'virtio_fs_cache = "none"', "[runtime]"]
    shown = 'sandbox_bind_mounts = ["/a/x", "/b/y:rw", "/c/z:ro"]'
    made = configure.sharing(load(tmp_path, *lines, shown))
    assert (made.way, made.daemon, made.cache) == ("virtio-fs", "/opt/d", "never")
    assert made.mounts == (SandboxMount("/a/x"), SandboxMount("/b/y", readonly=False), SandboxMount("/c/z"))
    with pytest.raises(ConfigError, match="sandbox_bind_mounts need a share"):
        configure.sharing(load(tmp_path, 'shared_fs = "none"', "[runtime]", shown))


def test_volumes_of_kubernetes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configure, "guest_assets", lambda config: GuestAssets("/k", None, "/i"))
    spec = cast("Spec", {"mounts": [], "linux": {"namespaces": [{"type": "network"}]}})
    shared = '{ name = "n", src_ctr = "a", src_path = "/x", dst_ctr = "b", dst_path = "/y" }'
    lines = ["[runtime]", 'kubelet_root_dir = "/k"', 'emptydir_mode = "block-plain"', f"shared_mounts = [{shared}]"]
    made = configure.sandbox_config(load(tmp_path, *lines), KIND, spec)
    assert (made.kubelet_root, made.empty_dir_disks) == ("/k", True)
    assert made.shared_mounts == (SharedMount("n", "a", "/x", "b", "/y"),)


def test_the_type_of_an_image_is_the_operators_but_for_our_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, other = str(tmp_path / "ours"), str(tmp_path / "other")
    for path in (ours, other):
        Path(path).touch()
    present = Assets(kernel=ours, image=ours, initrd=None)
    monkeypatch.setattr(configure, "present", lambda folder: present)
    for image, kind in ((ours, "erofs"), (other, "ext4")):
        config = load(tmp_path, f'kernel = "{ours}"', f'image = "{image}"', 'rootfs_type = "ext4"')
        assert configure.guest_assets(config).image_type == kind


NETWORK = {"type": "network", "path": "/run/netns/pod"}


def test_the_network_is_the_pods_or_none_and_never_the_hosts(tmp_path: Path) -> None:
    config = load(tmp_path, "rx_rate_limiter_max_rate = 8000")

    def network(*namespaces: object) -> object:
        return configure.pod_network(config, cast("Spec", {"linux": {"namespaces": list(namespaces)}}))

    assert network(NETWORK) == PodNetworkConfig("/run/netns/pod", "tcfilter", vhost=True, rx_rate=8000)
    assert network({"type": "network"}) == PodNetworkConfig("", "tcfilter", vhost=True, rx_rate=8000)
    with pytest.raises(ConfigError, match="host's network"):
        network({"type": "pid"})
    config = load(tmp_path, "network_queues = 4", "disable_vhost_net = true")
    assert network(NETWORK) == PodNetworkConfig("/run/netns/pod", "tcfilter", queues=4)


def test_what_the_vmm_is_told(tmp_path: Path) -> None:
    (tmp_path / "qemu").touch()
    lines = [f'path = "{tmp_path}/qemu"', 'machine_accelerators = "hpet=off"', 'cpu_features = ""']
    config = load(tmp_path, *lines, f'firmware = "{tmp_path}/qemu"', 'entropy_source = "/dev/zero"')
    assert hardware(config) == Hardware(
        program=f"{tmp_path}/qemu",
        firmware=f"{tmp_path}/qemu",
        random_source="/dev/zero",
        machine_options="hpet=off",
        cpu_features="",
    )
    assert hardware(load(tmp_path)) == Hardware()
    usual = hardware(load(tmp_path, lines[0], 'entropy_source = "/dev/urandom"'))
    assert usual == Hardware(program=f"{tmp_path}/qemu")


@pytest.mark.parametrize("setting", ["path", "firmware", "entropy_source"])
def test_files_that_are_not_there(tmp_path: Path, setting: str) -> None:
    (tmp_path / "qemu").touch()
    config = load(tmp_path, *{"path": f'path = "{tmp_path}/qemu"', setting: f'{setting} = "/no/such/file"'}.values())
    with pytest.raises(ConfigError, match="/no/such/file"):
        hardware(config)


def test_random_numbers_come_from_a_device(tmp_path: Path) -> None:
    (tmp_path / "qemu").write_text("the same numbers again")
    config = load(tmp_path, f'path = "{tmp_path}/qemu"', f'entropy_source = "{tmp_path}/qemu"')
    with pytest.raises(ConfigError, match="no character device"):
        hardware(config)


def test_how_disks_are_served(tmp_path: Path) -> None:
    assert disk_options(load(tmp_path)) == DiskOptions(queues=1, queue_size=128)
    assert disk_options(load(tmp_path, "block_device_cache_direct = true")).direct is None
    lines = ["block_device_cache_set = true", "block_device_cache_direct = true", "enable_iothreads = true"]
    lines += ['block_device_aio = "native"', "num_queues = 3", "queue_size = 256"]
    lines += ["block_device_logical_sector_size = 512", "block_device_physical_sector_size = 4096"]
    assert disk_options(load(tmp_path, *lines)) == DiskOptions(
        aio="native",
        direct=True,
        no_flush=False,
        logical_sector=512,
        physical_sector=4096,
        queues=3,
        queue_size=256,
        thread=True,
    )


def test_what_the_agent_is_told_and_how_long_it_may_take(tmp_path: Path) -> None:
    lines = ['guest_hook_path = "/hooks"', "enable_debug = true", "[agent.kata]"]
    lines += [
        'kernel_modules = ["one a=1 b=2", "two", " "]',
        'policy = "package agent_policy"',
        "dial_timeout_ms = 200",
    ]
    lines += ["request_timeout_ms = 5000", "[runtime]", "create_container_timeout = 7"]
    config = load(tmp_path, *lines)
    assert guest_options(config) == GuestOptions(
        policy="package agent_policy", modules=(("one", "a=1", "b=2"), ("two",)), hook_path="/hooks"
    )
    assert patience(config) == Patience(attempt=0.2, create=7.0, request=5.0)
    assert kernel_params(config)[-1] == "debug"


def options(**fields: object) -> object:
    return as_any(runtimeoptions_pb2.Options(**fields), "runtimeoptions.v1.Options")  # type: ignore[arg-type]


def test_settings_within_containerds_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def memory(**fields: object) -> int:
        path, text = configure.operators(options(**fields))  # type: ignore[arg-type]
        return configuration.load(operator_path=path, operator_text=text).hypervisor.default_memory

    monkeypatch.delenv("KATA_CONF_FILE", raising=False)
    body = b'TypeUrl = "x"\nSystemdCgroup = true\n[hypervisor.qemu]\ndefault_memory = 512\n'
    assert memory(config_body=body) == 512
    assert memory(config_body=b"SystemdCgroup = true\n") == configuration.load().hypervisor.default_memory
    (tmp_path / "file.toml").write_text("[hypervisor.qemu]\ndefault_memory = 640\n")
    assert memory(config_body=body, config_path=f"{tmp_path}/file.toml") == 640
    monkeypatch.setenv("KATA_CONF_FILE", f"{tmp_path}/file.toml")
    assert memory(config_body=body) == 640
    monkeypatch.delenv("KATA_CONF_FILE")
    with pytest.raises(configuration.ConfigError, match="containerd's options"):
        memory(config_body=b"[hypervisor.qemu]\ndefault_memory = 512\nno_such_key = 1\n")
    with pytest.raises(configuration.ConfigError, match="containerd's options"):
        memory(config_body=b"[")
    with pytest.raises(ConfigError, match="UTF-8"):
        memory(config_body=b"\xff")
    other = as_any(runtimeoptions_pb2.Options(config_body=body), "containerd.runc.v1.Options")
    assert configure.operators(other) == configure.operators(None) == (None, "")
