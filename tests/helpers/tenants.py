"""What a tenant writes and a container manager passes on: specifications and annotations, and what becomes of them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, cast

from kata import config as configuration
from kata.hypervisor.machine import MachineSpec
from kata.hypervisor.qemu.command_line import Resolved, command_line
from kata.hypervisor.qemu.devices import all_disks, ports
from kata.oci.spec import Spec
from kata.sandbox.bringup import machine_spec
from kata.sandbox.config import SandboxConfig
from kata.shim.configure import sandbox_config
from kata.shim.kind import SANDBOX, Kind

KIND = Kind(SANDBOX, "box")
PREFIX = "io.katacontainers.config."

POD: dict[str, Any] = {
    "ociVersion": "1.0.2",
    "process": {
        "terminal": False,
        "user": {"uid": 1000, "gid": 1000, "additionalGids": [10]},
        "args": ["sleep", "10000"],
        "env": ["PATH=/bin", "A=b"],
        "cwd": "/",
        "capabilities": {"bounding": ["CAP_CHOWN"], "effective": [], "permitted": []},
        "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
        "noNewPrivileges": True,
        "oomScoreAdj": 100,
    },
    "root": {"path": "rootfs", "readonly": False},
    "hostname": "pod",
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid"]},
        {"destination": "/dev/shm", "type": "bind", "source": "/tmp", "options": ["rbind"]},
        {"destination": "/etc/hosts", "type": "bind", "source": "/etc/hostname", "options": ["rbind", "ro"]},
        {"destination": "/data", "type": "bind", "source": "/tmp", "options": ["rbind", "rw"]},
    ],
    "annotations": {"io.kubernetes.cri.container-type": "sandbox", "io.kubernetes.cri.sandbox-memory": "67108864"},
    "hooks": {"prestart": [{"path": "/bin/true", "args": ["true"], "env": ["A=b"], "timeout": 5}]},
    "linux": {
        "namespaces": [{"type": "network", "path": "/proc/1/ns/net"}, {"type": "pid"}, {"type": "mount"}],
        "cgroupsPath": "/kubepods/pod1/box",
        "sysctl": {"net.ipv4.ip_unprivileged_port_start": "0"},
        "devices": [{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 438, "uid": 0, "gid": 0}],
        "resources": {
            "devices": [{"allow": False, "access": "rwm"}, {"allow": True, "type": "c", "major": 1, "minor": 3}],
            "memory": {"limit": 67108864, "swap": 67108864},
            "cpu": {"shares": 1024, "quota": 50000, "period": 100000, "cpus": "0", "mems": "0"},
            "pids": {"limit": 100},
            "hugepageLimits": [{"pageSize": "2MB", "limit": 0}],
        },
        "maskedPaths": ["/proc/kcore"],
        "readonlyPaths": ["/proc/sys"],
        "seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "architectures": [], "syscalls": [{"names": ["mount"]}]},
    },
}
"""A pod's first container as containerd describes it, and a little of everything else that a specification may have."""


def pod(**changes: Any) -> dict[str, Any]:
    """The specification of a pod with other values at its top."""
    return {**copy.deepcopy(POD), **changes}


def bundle(folder: Path, spec: object) -> str:
    """A bundle with that specification."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(spec))
    return str(folder)


def sandbox(annotations: dict[str, str], operators: str, spec: dict[str, Any] | None = None) -> SandboxConfig:
    """The sandbox of a pod with these annotations, where the operator has set up that. Raises KataError."""
    config = configuration.load(annotations=annotations, operator_text=operators)
    config.check_runnable()
    return sandbox_config(config, KIND, cast("Spec", spec or pod()))


def argv(sandbox_config: SandboxConfig) -> list[str]:
    """QEMU's command line for it, with descriptors of no meaning. Raises KataError."""
    spec: MachineSpec = machine_spec(sandbox_config, "/run/vc/vm/box")
    resolved = Resolved(
        binary=spec.hardware.program or "qemu",
        accelerator="tcg",
        qmp_fd=3,
        console_fd=4,
        port_fds=tuple(range(10, 10 + len(ports(spec)))),
        disk_fds=tuple(range(20, 20 + len(all_disks(spec)))),
    )
    return command_line(spec, resolved)
