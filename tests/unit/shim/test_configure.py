"""What of the configuration decides how a sandbox's disks are plugged in and its files get in."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from kata import config as configuration
from kata.config import Config
from kata.oci.spec import Spec
from kata.sandbox.config import GuestAssets, PodNetworkConfig
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
    with pytest.raises(ConfigError, match="virtio-9p"):
        configure.sandbox_config(load(tmp_path, 'shared_fs = "virtio-9p"'), KIND, spec)


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
