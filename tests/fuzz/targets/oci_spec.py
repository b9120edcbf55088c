"""A container's config.json: read as the shim reads it, sent, read as the agent reads it, without any change."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from kata.cgroups.path import placement
from kata.oci.convert import check, lost_fields, spec_from_proto, spec_to_proto
from kata.oci.errors import SpecError
from kata.sandbox.resources import announced, workload_of
from kata.sandbox.volumes import shm_bytes
from kata.shim.bundle import BundleError, annotations_of, read_checked

SPEC = {
    "ociVersion": "1.2.0",
    "process": {
        "terminal": True,
        "consoleSize": {"height": 24, "width": 80},
        "user": {"uid": 0, "gid": 0, "additionalGids": [1]},
        "args": ["sh", "-c", "true"],
        "env": ["PATH=/bin"],
        "cwd": "/",
        "capabilities": {"bounding": ["CAP_KILL"]},
        "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
    },
    "root": {"path": "rootfs", "readonly": True},
    "hostname": "a",
    "mounts": [{"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["size=65536k", "nosuid"]}],
    "hooks": {"prestart": [{"path": "/bin/true", "timeout": 1}]},
    "annotations": {"io.kubernetes.cri.container-type": "sandbox", "io.kubernetes.cri.sandbox-memory": "1024"},
    "linux": {
        "cgroupsPath": "kubepods-pod1.slice:cri-containerd:abc",
        "resources": {
            "memory": {"limit": 1073741824, "swap": -1},
            "cpu": {"quota": 200000, "period": 100000, "shares": 2, "cpus": "0-1"},
            "devices": [{"allow": False, "access": "rwm"}, {"allow": True, "type": "c", "major": 1, "minor": 3}],
            "hugepageLimits": [{"pageSize": "2MB", "limit": 0}],
        },
        "namespaces": [{"type": "pid"}, {"type": "network", "path": "/var/run/netns/a"}],
        "seccomp": {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["a"], "action": "SCMP_ACT_ALLOW"}]},
        "sysctl": {"net.ipv4.ip_forward": "1"},
    },
}
SEEDS = (
    json.dumps(SPEC).encode(),
    json.dumps({"process": {}, "linux": {"cgroupsPath": "/../../a:b:c"}, "extra": [{"a": None}]}).encode(),
)
TOKENS = (
    b"null",
    b"true",
    b"[]",
    b"{}",
    b"-1",
    b"4294967295",
    b"1e999",
    b"NaN",
    b'"\\ud800"',
    b'"\\u0000"',
    b"\xff\xfe",
    b"..",
    b":",
)

_folder = tempfile.TemporaryDirectory(prefix="kata-fuzz-")


def target(data: bytes) -> None:
    """Errors name a place and stay short; what passes says the same on the other side."""
    bundle = Path(_folder.name)
    (bundle / "config.json").write_bytes(data)
    try:
        spec = read_checked(str(bundle))
    except (BundleError, SpecError) as error:
        assert len(error.what) < 1000
        return
    received = spec_from_proto(spec_to_proto(spec))
    check(received)
    assert spec_from_proto(spec_to_proto(received)) == received
    assert not lost_fields(received)
    lost_fields(spec)
    for folder in placement(spec.get("linux", {}).get("cgroupsPath", ""), "a", together=False).paths():
        assert folder.startswith("/")
        assert ".." not in folder.split("/")
    workload_of(spec, announced(annotations_of(spec)))
    shm_bytes(spec.get("mounts", []))
