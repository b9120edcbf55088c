"""Hooks of a container on its host, under containerd: when they run, where, and what a failure does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.containerd import RUNTIME, Containerd, write_root
from tests.kernel.netns import Netns, connect, netns

pytestmark = [pytest.mark.containerd, pytest.mark.root]


@pytest.fixture
def pod() -> Iterator[Netns]:
    with netns("hooks") as made:
        yield made


def write_spec(folder: Path, pod: Netns | None, command: list[str], hooks: dict[str, Any]) -> str:
    """A specification whose root file system is a folder; the path of its file."""
    write_root(root := folder / "root")
    spec = {
        "ociVersion": "1.0.2",
        "process": {"args": command, "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}},
        "root": {"path": str(root)},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
        ],
        "hooks": hooks,
        "linux": {
            "namespaces": [
                {"type": "mount"},
                {"type": "pid"},
                {"type": "network", **({"path": pod.path} if pod else {})},
            ]
        },
    }
    (folder / "spec.json").write_text(json.dumps(spec))
    return str(folder / "spec.json")


def hook(script: str) -> list[dict[str, Any]]:
    return [{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]}]


def test_hooks_of_a_life(containerd: Containerd, pod: Netns, tmp_path: Path) -> None:
    note = f"readlink /proc/self/ns/net >> {tmp_path}/where; cat >> {tmp_path}/states; echo >> {tmp_path}/states"
    address = "ip addr add 10.77.0.9/24 dev eth0"  # what a prestart hook does to the network, the guest has
    hooks = {
        "prestart": hook(f"{address}; {note}"),
        "createRuntime": hook(note),
        "createContainer": hook(f"{note}; echo made > {tmp_path}/root/tmp/by-a-hook"),
        "poststart": hook(note),
        "poststop": hook(note),
    }
    with netns("out") as outside:
        connect(outside, pod)
        spec = write_spec(tmp_path, pod, ["sh", "-c", "ip addr show eth0; cat /tmp/by-a-hook; exit 5"], hooks)
        done = containerd.ctr("run", "--rm", "--runtime", RUNTIME, "--config", spec, "hooked", check=False)
    assert b"10.77.0.9/24" in done.stdout and done.stdout.endswith(b"made\n"), done.stderr.decode()
    assert done.returncode == 5
    states = [json.loads(line) for line in (tmp_path / "states").read_text().splitlines()]
    assert [state["status"] for state in states] == ["creating", "creating", "creating", "running", "stopped"]
    assert {state["id"] for state in states} == {"hooked"}
    assert all(state["pid"] > 0 for state in states[:4])
    where = (tmp_path / "where").read_text().split()
    assert len(where) == 5 and set(where) == {pod.command("readlink", "/proc/self/ns/net").strip()}


def test_a_hook_that_fails(containerd: Containerd, pod: Netns, tmp_path: Path) -> None:
    hooks = {"createRuntime": hook("echo no way >&2; exit 1"), "poststop": hook(f"echo x >> {tmp_path}/stopped")}
    spec = write_spec(tmp_path, pod, ["true"], hooks)
    done = containerd.ctr("run", "--runtime", RUNTIME, "--config", spec, "refused", check=False)
    containerd.ctr("container", "rm", "refused", check=False)
    assert done.returncode and b"createRuntime hook failed" in done.stderr and b"no way" in done.stderr
    assert (tmp_path / "stopped").read_text() == "x\n"


def test_hooks_that_find_the_network_by_the_process(containerd: Containerd, tmp_path: Path) -> None:
    """As nerdctl's and older Dockers' do: the namespace has no name, and what they put there the guest starts with."""
    script = f"""
        pid=$(sed 's/.*"pid": *\\([0-9]*\\).*/\\1/')
        inside() {{ nsenter --net=/proc/$pid/ns/net "$@"; }}
        [ $(readlink /proc/$pid/ns/net) != $(readlink /proc/self/ns/net) ] || exit 1
        inside ip link add eth0 type veth peer name peer0
        inside ip addr add 10.77.0.9/24 dev eth0
        inside ip link set eth0 up
        readlink /proc/$pid/exe > {tmp_path}/program
    """
    spec = write_spec(tmp_path, None, ["sh", "-c", "ip addr show eth0; exit 5"], {"createRuntime": hook(script)})
    done = containerd.ctr("run", "--rm", "--runtime", RUNTIME, "--config", spec, "nameless", check=False)
    assert b"10.77.0.9/24" in done.stdout and done.returncode == 5, done.stderr.decode()
    assert "qemu" in (tmp_path / "program").read_text()
