"""What of the configuration decides how a sandbox's disks are plugged in and its files get in."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from kata import config as configuration
from kata.config import Config
from kata.oci.spec import Spec
from kata.osbuilder.assets import Assets
from kata.sandbox.config import GuestAssets, PodNetworkConfig, SandboxMount, SharedMount
from kata.sandbox.errors import ConfigError
from kata.shim import configure
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
