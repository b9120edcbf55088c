"""A container whose engine names a scope, on a host that systemd manages: containerd, shim and guest beside that."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kata import paths
from tests.helpers import systemd
from tests.helpers.containerd import Containerd
from tests.helpers.systemd import Systemd

pytestmark = [pytest.mark.containerd, pytest.mark.root]

BOX = f"scoped{os.getpid()}"
QEMU = "qemu-system-x86"
UNIT, APART = f"cri-{BOX}.scope", f"kata_overhead-{BOX}.scope"
PATHS = {UNIT: f"/kpods.slice/kpods-pod1.slice/{UNIT}", APART: f"/kata_overhead.slice/{APART}"}


@pytest.fixture
def host(tmp_path: Path, busybox: str) -> Iterator[tuple[Systemd, Containerd]]:
    """A containerd among a systemd's processes: it is ended with them."""
    folder = Path(tempfile.mkdtemp(prefix="kc-", dir="/run"))
    Path("/run/containerd").mkdir(exist_ok=True)  # of every containerd's clients, and its shims' sockets
    shared = ("/run/containerd", os.fspath(folder), os.fspath(paths.state_dir()))
    try:
        with systemd.running("hybrid", tmp_path, shared) as manager:
            daemon = Containerd(folder, inside=manager.words())
            daemon.start()
            daemon.import_image()
            yield manager, daemon
            daemon.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_a_container_has_its_scopes(host: tuple[Systemd, Containerd]) -> None:
    manager, daemon = host
    limits = ("--cgroup", f"kpods-pod1.slice:cri:{BOX}", "--memory-limit", str(64 << 20), "--cpus", "0.5")
    daemon.run(BOX, "sleep", "1000", options=limits)
    for unit, path in PATHS.items():
        assert (manager.property(unit, "ActiveState"), manager.property(unit, "ControlGroup")) == ("active", path)
    assert manager.property(UNIT, "CPUQuotaPerSecUSec") == "1.500000s", "half a CPU, and the sandbox's own"
    assert QEMU in commands(manager, f"unified{PATHS[UNIT]}")
    assert QEMU not in commands(manager, f"unified{PATHS[APART]}")
    assert QEMU in commands(manager, f"memory{PATHS[APART]}")
    manager.run("systemctl", "daemon-reload")
    assert manager.run("cat", f"/sys/fs/cgroup/cpu{PATHS[UNIT]}/cpu.cfs_quota_us") == "150000"

    daemon.update(BOX, cpu={"quota": 30000, "period": 100000})
    assert manager.property(UNIT, "CPUQuotaPerSecUSec") == "1.300000s"
    assert manager.run("cat", f"/sys/fs/cgroup/cpu{PATHS[UNIT]}/cpu.cfs_quota_us") == "130000"
    assert daemon.exec(BOX, "e1", "echo", "here").stdout == b"here\n"

    daemon.remove(BOX)
    assert [manager.property(unit, "LoadState") for unit in PATHS] == ["not-found", "not-found"]
    assert manager.cgroups(BOX) == []
    assert "host cgroups" not in daemon.log.read_text()


def commands(manager: Systemd, path: str) -> set[str]:
    """The programs in a cgroup."""
    pids = manager.run("cat", f"/sys/fs/cgroup/{path}/cgroup.procs").split()
    return {manager.run("cat", f"/proc/{pid}/comm") for pid in pids}
