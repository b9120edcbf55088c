"""Containers of a living pod: their life, limits, users and rights, volumes and logs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.containerd.cri.conftest import FOREVER, linux
from tests.helpers.cri import Container, Pod, await_true
from tests.helpers.node import Node

pytestmark = [pytest.mark.containerd, pytest.mark.root]

MIB = 1 << 20


def volume(source: Path, target: str, *, readonly: bool = False) -> dict[str, Any]:
    return {"host_path": str(source), "container_path": target, "readonly": readonly}


# Section: processes


def test_exec(one: Container) -> None:
    assert one.exec("sh", "-c", "echo out; echo err >&2; exit 3") == (3, "out\n", "err\n")
    assert len(one.shell("head -c 3000000 /dev/zero | tr '\\0' x")) == 3_000_000
    with pytest.raises(grpc.RpcError) as failure:
        one.exec("no-such-program")
    assert "no-such-program" in failure.value.details()
    with pytest.raises(grpc.RpcError) as failure:
        one.exec("sleep", "599", timeout=1)
    assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await_true(lambda: "sleep 599" not in one.shell("ps -o args"), "the end of a process that had no time left")
    assert one.running


def test_ends(pod: Pod) -> None:
    assert pod.once("ends", "echo last words; exit 9", linux=linux()) == (9, "last words\n")
    script = "trap 'echo told; exit 4' TERM; echo ready; while :; do sleep 0.2; done"
    polite = pod.run("polite", "sh", "-c", script, linux=linux())
    await_true(lambda: polite.log.exists() and "ready" in polite.said(), "the trap")
    polite.stop(timeout=60)
    polite.stop()
    assert (polite.status.exit_code, polite.said()) == (4, "ready\ntold\n")
    polite.remove()
    polite.remove()
    deaf = pod.run("deaf", "sh", "-c", "trap '' TERM; while :; do sleep 0.2; done", linux=linux())
    deaf.stop(timeout=1)
    assert deaf.status.exit_code == 137
    deaf.remove()


def test_a_program_that_is_not_there(pod: Pod) -> None:
    container = pod.create("nothing", "/no/such/program", linux=linux())
    with pytest.raises(grpc.RpcError) as failure:
        container.start()
    assert "/no/such/program" in failure.value.details()
    container.remove()


def test_another_attempt(pod: Pod) -> None:
    first = pod.run("phoenix", "sh", "-c", "echo first > /made; exit 1", linux=linux())
    first.await_end()
    second = pod.run("phoenix", *FOREVER, attempt=1, linux=linux())
    first.remove()
    assert second.exec("cat", "/made")[0] == 1
    assert second.status.metadata.attempt == 1
    second.remove()


# Section: limits


def test_limits_that_change(node: Node, pod: Pod) -> None:
    limits = {"memory_limit_in_bytes": 64 * MIB, "cpu_quota": 50_000, "cpu_period": 100_000}
    container = pod.run("limited", *FOREVER, linux={**linux(), "resources": limits})
    show = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max"
    assert container.shell(show).split() == [str(64 * MIB), "50000", "100000"]
    limits = {"memory_limit_in_bytes": 48 * MIB, "cpu_quota": 20_000, "cpu_period": 100_000}
    node.cri("UpdateContainerResources", container_id=container.id, linux=limits)
    assert container.shell(show).split() == [str(48 * MIB), "20000", "100000"]
    container.remove()


def test_too_much_memory(pod: Pod, one: Container) -> None:
    limits = {"memory_limit_in_bytes": 24 * MIB}
    hog = pod.run("hog", "tail", "/dev/zero", linux={**linux(), "resources": limits})
    status = hog.await_end()
    assert status.exit_code == 137
    await_true(lambda: hog.status.reason == "OOMKilled", "the reason of the end")
    hog.remove()
    assert one.running


# Section: users and rights


def test_a_user_without_rights(pod: Pod) -> None:
    script = "id -u; id -g; id -G; touch /x; grep -E 'CapEff|NoNewPrivs' /proc/self/status"
    rights = {"run_as_user": {"value": 1234}, "run_as_group": {"value": 5678}, "supplemental_groups": [77]}
    config = linux(readonly_rootfs=True, no_new_privs=True, capabilities={"drop_capabilities": ["ALL"]}, **rights)
    _, said = pod.once("user", script, linux=config)
    # What it says and its complaint are two streams, whose order in the log is anything.
    complaint = [line for line in said.splitlines() if line.startswith("touch:")]
    lines = [line for line in said.splitlines() if line not in complaint]
    assert lines[:2] == ["1234", "5678"] and "77" in lines[2].split()
    assert ["Read-only file system" in line for line in complaint] == [True]
    assert {tuple(line.split()) for line in lines[-2:]} == {("CapEff:", "0" * 16), ("NoNewPrivs:", "1")}


def test_capabilities(pod: Pod) -> None:
    show = "grep CapEff /proc/self/status"
    only = {"drop_capabilities": ["ALL"], "add_capabilities": ["NET_BIND_SERVICE"]}
    assert pod.once("caps", show, linux=linux(capabilities=only)) == (0, f"CapEff:\t{1 << 10:016x}\n")
    _, said = pod.once("default", show, linux=linux())
    assert said.split()[1] == "00000000a80425fb"


def test_a_privileged_container(pod: Pod) -> None:
    script = "grep CapEff /proc/self/status; mkdir /m && mount -t tmpfs none /m && echo 1 > /proc/sys/vm/swappiness"
    code, said = pod.once("root", script, linux=linux(privileged=True))
    ours = re.findall(r"CapEff:\t.*\n", Path("/proc/self/status").read_text())
    assert (code, said) == (0, ours[0])  # containerd gives what it has itself
    code, said = pod.once("plain", "mount -t tmpfs none /proc", linux=linux())
    assert (code and "ermission denied" in said) or "not permitted" in said


def test_seccomp(pod: Pod) -> None:
    script = "grep -w Seccomp: /proc/self/status; unshare -U true"
    code, said = pod.once("filtered", script, linux=linux(seccomp={"profile_type": "RuntimeDefault"}))
    assert code and said.startswith("Seccomp:\t2\n") and "Operation not permitted" in said
    code, said = pod.once("free", script, linux=linux(seccomp={"profile_type": "Unconfined"}))
    assert (code, said) == (0, "Seccomp:\t0\n")


# Section: environment and volumes


def test_environment(pod: Pod) -> None:
    envs = [{"key": "COLOUR", "value": "grün = green"}]
    code, said = pod.once("env", 'echo "$COLOUR"; pwd', envs=envs, working_dir="/made/here", linux=linux())
    assert (code, said) == (0, "grün = green\n/made/here\n")


def test_volumes(pod: Pod, tmp_path: Path) -> None:
    for name in ("free", "fixed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "there").write_text(f"{name}\n")
    (tmp_path / "file").write_text("")
    mounts = [
        volume(tmp_path / "free", "/free"),
        volume(tmp_path / "fixed", "/fixed", readonly=True),
        volume(tmp_path / "file", "/dev/termination-log"),
    ]
    script = "cat /free/there /fixed/there; echo new > /free/new; echo done > /dev/termination-log; echo x > /fixed/new"
    code, said = pod.once("volumes", script, mounts=mounts, linux=linux())
    assert code and said.startswith("free\nfixed\n") and "Read-only file system" in said
    assert ((tmp_path / "free/new").read_text(), (tmp_path / "file").read_text()) == ("new\n", "done\n")
    assert sorted(path.name for path in (tmp_path / "fixed").iterdir()) == ["there"]


def test_a_configuration_directory(pod: Pod, tmp_path: Path) -> None:
    """As kubelet writes a ConfigMap: files are links through a link, which it replaces."""
    (tmp_path / "..1").mkdir()
    (tmp_path / "..1/key").write_text("value\n")
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "key").symlink_to("..data/key")
    mounts = [volume(tmp_path, "/etc/config", readonly=True)]
    assert pod.once("config", "cat /etc/config/key", mounts=mounts, linux=linux()) == (0, "value\n")


@pytest.fixture
def empty_dir(node: Node) -> Iterator[Path]:
    """An emptyDir of medium Memory, as kubelet makes it."""
    folder = node.pods / "uid/volumes/kubernetes.io~empty-dir/scratch"
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
    shutil.rmtree(node.pods / "uid")


def test_a_volume_in_memory(pod: Pod, empty_dir: Path) -> None:
    mounts = [volume(empty_dir, "/scratch")]
    first = pod.run("writer", *FOREVER, mounts=mounts, linux=linux())
    first.shell("echo kept > /scratch/file")
    assert pod.once("reader", "cat /scratch/file", mounts=mounts, linux=linux()) == (0, "kept\n")
    assert first.shell("df -T /scratch | tail -1").split()[1:3] == ["tmpfs", "8192"]
    first.remove()
    assert pod.once("late", "cat /scratch/file", mounts=mounts, linux=linux()) == (0, "kept\n")
    assert os.listdir(empty_dir) == []


# Section: logs


def test_logs(pod: Pod) -> None:
    script = "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done; echo oops >&2; printf open"
    container = pod.run("talks", "sh", "-c", script, linux=linux())
    container.await_end()
    assert container.said("stdout") == "".join(f"line {number}\n" for number in range(3000)) + "open"
    assert container.said("stderr") == "oops\n"
    container.remove()
    long = pod.run("long", "sh", "-c", "head -c 100000 /dev/zero | tr '\\0' x; echo", linux=linux())
    long.await_end()
    tags = [tag for _, tag, _ in long.log_lines()]
    assert tags[-1] == "F" and set(tags[:-1]) == {"P"}
    assert long.said() == "x" * 100_000 + "\n"
    long.remove()


def test_a_log_that_is_turned_over(node: Node, pod: Pod) -> None:
    container = pod.run("turned", "sh", "-c", "while :; do echo tick; sleep 0.2; done", linux=linux())
    await_true(lambda: container.log.exists() and "tick" in container.said(), "the first line")
    container.log.rename(old := container.log.with_suffix(".old"))
    node.cri("ReopenContainerLog", container_id=container.id)
    await_true(lambda: "tick" in container.said(), "a line in the new file")
    assert "tick" in old.read_text()
    container.remove()
