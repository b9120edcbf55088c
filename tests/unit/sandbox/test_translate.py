"""A specification on its way into the guest: mounts as values, one pure function for the rest."""

from __future__ import annotations

import copy
import json
import os
import socket
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata.oci.annotations import PID_TARGET
from kata.oci.spec import Mount, Spec
from kata.sandbox import volumes
from kata.sandbox.config import ContainerConfig, SharedRootfs
from kata.sandbox.containerplan import plan_container
from kata.sandbox.errors import ConfigError
from kata.sandbox.translate import Translation, for_guest, resources_for_guest, wants_sandbox_pids
from kata.sandbox.updates import SANDBOX_SHM, SHARE_MOUNT, Facilities
from kata.sandbox.volumes import plan_mounts, share_name

SHM, NO_SHM = Facilities(share=True, shm=True), Facilities(share=True, shm=False)


def bind(source: object, destination: str, *options: str) -> Mount:
    return {"destination": destination, "type": "bind", "source": str(source), "options": ["rbind", *options]}


def test_a_directory_of_the_host_is_shared(tmp_path: Path) -> None:
    [update] = plan_mounts("box", [bind(tmp_path, "/data/", "ro")], NO_SHM)
    name = share_name("box", "/data/")
    assert update.share is not None
    assert update.share == (name, str(tmp_path), True)
    assert update.mount == {**bind(f"{SHARE_MOUNT}/{name}", "/data/", "ro")}
    assert name.startswith("box-") and name.endswith("-data") and len(name.split("-")[1]) == 16


@pytest.mark.parametrize(
    "mount",
    [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid"]},
        bind("/proc/sys", "/proc/sys"),
        bind("/sys/fs/cgroup", "/sys/fs/cgroup"),
        bind("/dev/null", "/etc/shadow"),
        bind("/dev/../dev/fuse", "/fuse"),
    ],
)
def test_what_is_the_guests_own_stays_as_it_is(mount: Mount) -> None:
    assert plan_mounts("box", [mount], SHM) == []


def test_shared_memory_is_the_sandboxs_or_the_containers_own() -> None:
    mount = bind("/run/pod/shm", "/dev/shm")
    [shared] = plan_mounts("box", [mount], SHM)
    [own] = plan_mounts("box", [mount], NO_SHM)
    assert shared.mount and shared.mount["source"] == SANDBOX_SHM and shared.share is None
    assert own.mount and own.mount["type"] == "tmpfs" and "size=67108864" in own.mount["options"]
    plain = {"destination": "/dev/shm", "type": "tmpfs", "source": "shm"}
    assert plan_mounts("box", [cast(Mount, plain)], SHM) == []


ALONE = Facilities(share=False, shm=False)


def kubelet(folder: Path, kind: str, has: Facilities = SHM) -> tuple[Path, Facilities]:
    """The folder of a pod's volume of this kind, and a sandbox that knows where the kubelet is."""
    path = folder / "pods/0123/volumes" / f"kubernetes.io~{kind}" / "name"
    path.mkdir(parents=True)
    return path, has._replace(kubelet_root=f"{folder}/")


@pytest.mark.parametrize("kind", ["configmap", "secret", "projected", "downward-api"])
def test_a_volume_that_changes_is_followed_by_a_copy_in_the_guest(tmp_path: Path, kind: str) -> None:
    source, has = kubelet(tmp_path, kind)
    [update] = plan_mounts("box", [bind(source, "/etc/settings", "rw")], has)
    name = share_name("box", "/etc/settings")
    assert update.share == (name, str(source), True), "read-only whatever the container may do to its copy"
    assert update.storage is not None
    assert (update.storage.driver, update.storage.source) == ("watchable-bind", f"{SHARE_MOUNT}/{name}")
    assert update.mount == bind(update.storage.mount_point, "/etc/settings", "rw")
    [copied] = plan_mounts("box", [bind(source, "/etc/settings")], has._replace(share=False))
    assert copied.copy == (str(source), f"{SHARE_MOUNT}/{name}", True), "changes are sent after it"
    assert copied.storage is None and copied.share is None


def test_a_part_of_a_volume_is_shared_as_it_is(tmp_path: Path) -> None:
    source, has = kubelet(tmp_path, "configmap")
    (source / "key").touch()
    (kubelet(tmp_path, "empty-dir")[0] / "part").mkdir()
    (elsewhere := tmp_path / "kubernetes.io~configmap" / "name").mkdir(parents=True)
    [anywhere] = plan_mounts("box", [bind(elsewhere, "/anywhere")], SHM)
    assert anywhere.storage is not None, "where nobody says which folder is the kubelet's"
    parts = [source / "key", source.parents[1] / "kubernetes.io~empty-dir/name/part", elsewhere]
    updates = plan_mounts("box", [bind(part, f"/{number}", "rro") for number, part in enumerate(parts)], has)
    assert [update.share and (update.share.path, update.share.readonly) for update in updates] == [
        (str(part), True) for part in parts
    ]
    assert [update.storage for update in updates] == [None, None, None]


def test_an_empty_directory_is_the_hosts_or_the_guests(tmp_path: Path) -> None:
    source, has = kubelet(tmp_path, "empty-dir")
    os.chown(source, -1, os.getgid())
    [shared] = plan_mounts("box", [bind(source, "/scratch")], has)
    assert shared.share is not None and shared.share.path == str(source) and not shared.share.readonly
    alone = has._replace(share=False)
    [own] = plan_mounts("box", [bind(source, "/scratch")], alone)
    [others] = plan_mounts("other", [bind(source, "/elsewhere")], alone)
    assert own.storage is not None and own.storage.driver == "local" and "mode=0777" in own.storage.options
    assert own.storage == others.storage, "all containers of a pod have the same"
    assert own.mount and own.mount["source"] == own.storage.mount_point


def test_an_empty_directory_that_is_a_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, has = kubelet(tmp_path, "empty-dir", SHM._replace(empty_dir_disks=True))
    [one] = plan_mounts("box", [bind(f"{source}/", "/scratch")], has)
    [other] = plan_mounts("other", [bind(source, "/elsewhere", "ro")], has)
    assert one.plug == other.plug and one.storage == other.storage, "all containers of a pod have the same"
    assert one.plug is not None and one.storage is not None and one.mount is not None
    assert (one.plug.path, one.plug.empty_dir, one.plug.readonly) == (f"{source}/disk.img", str(source), False)
    assert (one.storage.fstype, one.mount["source"]) == ("ext4", one.storage.mount_point)
    assert list(source.iterdir()) == [], "nothing is made by planning"
    monkeypatch.setattr(volumes, "_fstype", lambda path: "tmpfs")
    [memory] = plan_mounts("box", [bind(source, "/fast")], has)
    assert memory.plug is None


def test_a_directory_in_memory_keeps_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, has = kubelet(tmp_path, "empty-dir")
    monkeypatch.setattr(volumes, "_fstype", lambda path: "tmpfs" if path == str(source) else "")
    monkeypatch.setattr(volumes, "_tmpfs_bytes", lambda path: 7 << 20)
    updates = plan_mounts("box", [bind(source, "/fast"), bind(source, "/dev/shm")], has)
    for update in updates:
        assert update.storage is not None and update.storage.driver == "ephemeral"
        assert f"size={7 << 20}" in update.storage.options


def test_the_size_of_shared_memory_is_its_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = [bind("/run/pod/shm", "/dev/shm")]
    assert volumes.shm_bytes(mounts) == 64 << 20, "nothing is mounted there"
    monkeypatch.setattr(volumes, "_fstype", lambda path: "tmpfs")
    monkeypatch.setattr(volumes, "_tmpfs_bytes", lambda path: 9 << 20)
    assert volumes.shm_bytes(mounts) == 9 << 20
    assert volumes.shm_bytes([{"destination": "/dev/shm", "type": "tmpfs", "source": "shm"}]) == 64 << 20
    assert volumes.shm_bytes([]) == 64 << 20


def test_without_a_share_files_are_copied(tmp_path: Path) -> None:
    (tmp_path / "hosts").touch()
    [update] = plan_mounts("box", [bind(tmp_path / "hosts", "/etc/hosts", "ro")], ALONE)
    assert update.copy == (str(tmp_path / "hosts"), f"{SHARE_MOUNT}/{share_name('box', '/etc/hosts')}", False)
    assert update.mount == bind(f"{SHARE_MOUNT}/{share_name('box', '/etc/hosts')}", "/etc/hosts", "ro")


def test_a_socket_of_the_host_is_left_out_and_said(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        [update] = plan_mounts("box", [bind(path, "/run/docker.sock")], NO_SHM)
    assert update.mount is None and update.share is None
    assert "/run/docker.sock is left out" in update.warning


def test_a_missing_source_is_an_error_that_names_it() -> None:
    with pytest.raises(ConfigError, match=r"'/no/such/place' of /data"):
        plan_mounts("box", [bind("/no/such/place", "/data")], NO_SHM)


def spec() -> Spec:
    return {
        "process": {"args": ["true"], "rlimits": [{"type": "RLIMIT_CORE", "hard": 0, "soft": 0}]},
        "root": {"path": "rootfs", "readonly": True},
        "hooks": {"prestart": [{"path": "/host"}], "startContainer": [{"path": "/inside"}]},
        "annotations": {"a": "b"},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {
            "mountLabel": "label",
            "namespaces": [
                {"type": "pid", "path": "/proc/7/ns/pid"},
                {"type": "network", "path": "/run/netns/x"},
                {"type": "ipc", "path": "/proc/7/ns/ipc"},
                {"type": "mount"},
                {"type": "cgroup"},
                {"type": "time"},
            ],
            "resources": {
                "devices": [{"allow": False, "access": "rwm"}],
                "memory": {"limit": 5},
                "cpu": {"quota": 1, "period": 2, "cpus": "0-3", "mems": "0"},
                "blockIO": {"weight": 10},
                "network": {"classID": 1},
                "pids": {"limit": 9},
            },
        },
    }


def test_the_whole_of_it() -> None:
    before = spec()
    made = for_guest(before, Translation("/guest/rootfs", annotations={"kind": "single"}))
    assert before == spec()
    assert made["root"] == {"path": "/guest/rootfs", "readonly": True}
    assert made["process"] == before["process"]
    assert made["annotations"] == {"a": "b", "kind": "single"}
    assert for_guest({"annotations": {PID_TARGET: "tenant"}}, Translation("/r"))["annotations"] == {}
    assert for_guest({}, Translation("/r", annotations={PID_TARGET: "host"}))["annotations"] == {PID_TARGET: "host"}
    assert made["hooks"] == {"startContainer": [{"path": "/inside"}]}
    linux = made["linux"]
    assert linux["namespaces"] == [{"type": "ipc"}, {"type": "mount"}, {"type": "cgroup"}]
    assert for_guest({}, Translation("/r"))["linux"]["namespaces"] == [{"type": "cgroup"}]
    assert "mountLabel" not in linux
    assert linux["resources"] == {
        "devices": [{"allow": False, "access": "rwm"}],
        "memory": {"limit": 5},
        "cpu": {"quota": 1, "period": 2},
        "pids": {"limit": 9},
    }
    assert wants_sandbox_pids(before)
    assert not wants_sandbox_pids({"linux": {"namespaces": [{"type": "pid"}]}})
    assert resources_for_guest({"cpu": {"cpus": "1"}}) == {"cpu": {}}


def test_a_plan_has_the_root_file_system_first(tmp_path: Path) -> None:
    (tmp_path / "rootfs").mkdir()
    (tmp_path / "hosts").write_text("x")
    given_spec: Spec = {**spec(), "mounts": [bind(tmp_path / "hosts", "/etc/hosts")]}
    config = ContainerConfig(
        id="box", spec=cast("dict[str, object]", given_spec), rootfs=SharedRootfs(str(tmp_path / "rootfs"))
    )
    plan = plan_container(config, SHM)
    assert [share.name for share in plan.shares] == ["box/rootfs", share_name("box", "/etc/hosts")]
    assert plan.spec["root"]["path"] == f"{SHARE_MOUNT}/box/rootfs"
    assert plan.sandbox_pids and plan.storages == [] and plan.warnings == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=8), JSON, max_size=4))
def test_unknown_parts_of_a_specification_are_kept(extra: dict[str, object]) -> None:
    known = {"root", "mounts", "linux", "annotations", "hooks", "process"}
    extra = {key: value for key, value in extra.items() if key not in known}
    before = cast(Spec, {**spec(), **extra})
    original = copy.deepcopy(before)
    made = cast("dict[str, object]", for_guest(before, Translation("/r")))
    assert json.dumps(before) == json.dumps(original)
    assert {key: made[key] for key in extra} == extra


def test_names_in_the_share_hold_nothing_of_a_path() -> None:
    for destination in ("/", "/a/../b", "/etc/", "/x/y z"):
        name = share_name("box", destination)
        assert "/" not in name and name not in (".", "..") and os.path.basename(name) == name
