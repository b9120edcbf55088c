"""The pure functions that turn the host's spec into the guest's."""

from __future__ import annotations

import copy

import pytest

from kata.agent.adapt import (
    DEFAULT_RULES,
    Adaptation,
    adapt_exec,
    adapt_spec,
    cgroup_path,
    choose_namespaces,
    device_rules,
    merge_hooks,
)
from kata.oci.spec import LinuxDeviceCgroup, LinuxNamespace, Process, Spec

SPEC: Spec = {
    "root": {"path": "/run/kata-containers/shared/containers/c/rootfs", "readonly": True},
    "process": {"args": ["sh"], "apparmorProfile": "docker-default", "selinuxLabel": "x"},
    "hooks": {"prestart": [{"path": "/host"}]},
    "linux": {
        "cgroupsPath": "system.slice:docker:abc",
        "namespaces": [{"type": "network", "path": "/var/run/netns/x"}, {"type": "pid"}, {"type": "mount"}],
        "mountLabel": "label",
        "intelRdt": {"closID": "x"},
        "seccomp": {"defaultAction": "SCMP_ACT_ALLOW"},
    },
}


def test_the_whole_spec_and_the_old_one_untouched() -> None:
    before = copy.deepcopy(SPEC)
    adapted = adapt_spec(
        SPEC,
        Adaptation("c", "/b/rootfs", namespaces={"ipc": "/ns/ipc", "uts": "/ns/uts"}, guest_hooks={"poststop": ["/h"]}),
    )
    assert before == SPEC
    assert adapted["root"] == {"path": "/b/rootfs", "readonly": True}
    assert adapted["process"] == {"args": ["sh"], "cwd": "/"}
    assert adapted["hooks"] == {
        "prestart": [{"path": "/host"}],
        "poststop": [{"path": "/h", "args": ["/h", "poststop"]}],
    }
    linux = adapted["linux"]
    assert linux["cgroupsPath"] == "/system.slice/docker/abc"
    assert linux["seccomp"] == {"defaultAction": "SCMP_ACT_ALLOW"}
    assert "mountLabel" not in linux
    assert "intelRdt" not in linux
    assert linux["resources"]["devices"] == list(DEFAULT_RULES)
    assert linux["namespaces"] == [
        {"type": "ipc", "path": "/ns/ipc"},
        {"type": "uts", "path": "/ns/uts"},
        {"type": "pid"},
        {"type": "mount"},
    ]


def test_labels_stay_where_the_kernel_has_the_module() -> None:
    adapted = adapt_spec(SPEC, Adaptation("c", "/r", lsms=("apparmor", "selinux")))
    assert adapted["process"]["apparmorProfile"] == "docker-default"
    assert adapted["process"]["selinuxLabel"] == "x"
    assert adapted["linux"]["mountLabel"] == "label"


@pytest.mark.parametrize(
    ("asked", "shared", "chosen"),
    [
        ([], {}, ["ipc", "uts", "pid", "mount"]),
        ([{"type": "cgroup"}, {"type": "user", "path": "/host"}], {}, ["ipc", "uts", "pid", "cgroup", "mount", "user"]),
        ([{"type": "network"}, {"type": "time"}], {}, ["ipc", "uts", "pid", "mount"]),
        ([{"type": "pid", "path": "/proc/7/ns/pid"}], {"pid": "/ns/pid"}, ["ipc", "uts", "pid=/ns/pid", "mount"]),
    ],
)
def test_namespaces(asked: list[LinuxNamespace], shared: dict[str, str], chosen: list[str]) -> None:
    got = [
        entry["type"] + ("=" + entry["path"] if "path" in entry else "") for entry in choose_namespaces(asked, shared)
    ]
    assert got == chosen


@pytest.mark.parametrize(
    ("path", "adapted"),
    [
        ("", "/kata/c"),
        ("/", "/kata/c"),
        ("../..", "/kata/c"),
        ("/kubepods/besteffort/pod1/c", "/kubepods/besteffort/pod1/c"),
        ("kubepods.slice:cri-containerd:c", "/kubepods.slice/cri-containerd/c"),
        ("/a/../../b//c/", "/b/c"),
        ("//a", "/a"),
    ],
)
def test_cgroup_path(path: str, adapted: str) -> None:
    assert cgroup_path(path, "c") == adapted


@pytest.mark.parametrize(
    ("rules", "with_defaults"),
    [
        ([], True),
        ([{"allow": True, "type": "b", "major": 254, "minor": 0, "access": "rwm"}], True),
        ([{"allow": False, "access": "rwm"}], False),
        ([{"allow": True, "type": "a", "access": "rwm"}], False),
    ],
)
def test_device_rules(rules: list[LinuxDeviceCgroup], with_defaults: bool) -> None:
    assert device_rules(rules) == [*(DEFAULT_RULES if with_defaults else ()), *rules]


def test_no_device_rules_where_they_cannot_be_enforced() -> None:
    adapted = adapt_spec(SPEC, Adaptation("c", "/r", device_rules=False))
    assert adapted["linux"]["resources"]["devices"] == []


def test_hooks_keep_their_kind_when_the_spec_has_some() -> None:
    merged = merge_hooks({"poststart": [{"path": "/p"}]}, {"prestart": ["/g"], "poststart": ["/q"]})
    assert [hook["path"] for hook in merged["prestart"]] == ["/g"]
    assert [hook["path"] for hook in merged["poststart"]] == ["/p", "/q"]


@pytest.mark.parametrize(
    ("given", "key", "value"),
    [
        ({}, "capabilities", {"bounding": ["CAP_CHOWN"]}),
        ({"capabilities": {"bounding": ["CAP_KILL"]}}, "capabilities", {"bounding": ["CAP_KILL"]}),
        ({}, "rlimits", [{"type": "RLIMIT_NOFILE", "hard": 9, "soft": 9}]),
        ({"rlimits": [{"type": "RLIMIT_CORE"}]}, "rlimits", [{"type": "RLIMIT_CORE"}]),
        ({"noNewPrivileges": False}, "noNewPrivileges", True),
        ({"cwd": "/x"}, "cwd", "/x"),
        ({"cwd": ""}, "cwd", "/"),
        ({"oomScoreAdj": 5}, "oomScoreAdj", 5),
    ],
)
def test_exec_inherits_only_what_is_not_given(given: Process, key: str, value: object) -> None:
    container: Process = {
        "capabilities": {"bounding": ["CAP_CHOWN"]},
        "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 9, "soft": 9}],
        "noNewPrivileges": True,
        "oomScoreAdj": 3,
        "args": ["container"],
    }
    adapted = adapt_exec({"args": ["x"], **given}, container, ())
    assert dict(adapted)[key] == value
    assert adapted["args"] == ["x"]
