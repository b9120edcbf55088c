"""A real systemd as the first process of namespaces of its own, with the host's kernel below it.

It has trees of cgroups that begin at a cgroup of ours, a bus, and no unit but what these need: nothing of the host's is
started, and nothing that it does can be seen from outside.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from kata.cgroups.hierarchy import Hierarchy, hierarchies

LAYOUTS = ("legacy", "hybrid", "unified")
"""systemd's words: its own tree is v1, v2 beside v1's controllers, or v2 alone."""

UNITS = {
    "tests.target": """
        [Unit]
        DefaultDependencies=no
        Wants=dbus.service
        """,
    "dbus.socket": """
        [Unit]
        DefaultDependencies=no
        [Socket]
        ListenStream=/run/dbus/system_bus_socket
        """,
    "dbus.service": """
        [Unit]
        DefaultDependencies=no
        Requires=dbus.socket
        [Service]
        ExecStart=/usr/bin/dbus-daemon --system --address=systemd: --nofork --nopidfile --systemd-activation
        """,
}

OUTSIDE = """
set -e
for root in $2; do echo 0 > $root/$1/cgroup.procs; done
exec unshare --cgroup --mount --pid --net --ipc --uts --fork --kill-child -- sh -c "$3" sh $4 "$5" "$6"
"""
INSIDE = """
set -e
mount --make-rprivate /
mount --bind /etc /etc
mount -o remount,bind,ro /etc
mkdir $UNITS/run
mount --rbind /run $UNITS/run
mount -t tmpfs tmpfs /run
for path in $3; do mkdir -p $path; mount --bind $UNITS$path $path; done
umount -l $UNITS/run
mount -t proc proc /proc
umount -R /sys/fs/cgroup
if [ $1 = unified ]; then
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
else
    mount -t tmpfs tmpfs /sys/fs/cgroup
    cd /sys/fs/cgroup
    for names in $2; do mkdir $names; mount -t cgroup -o $names cgroup $names; done
    mkdir systemd
    mount -t cgroup -o none,name=systemd cgroup systemd
    [ $1 = legacy ] || { mkdir unified; mount -t cgroup2 cgroup2 unified; }
    cd /
fi
mkdir /run/none
exec env -i container=kata-tests PATH=/usr/sbin:/usr/bin \\
    SYSTEMD_UNIT_PATH=$UNITS:/run/systemd/transient SYSTEMD_GENERATOR_PATH=/run/none \\
    SYSTEMD_ENVIRONMENT_GENERATOR_PATH=/run/none \\
    /lib/systemd/systemd --system --unit=tests.target --show-status=no --log-target=null
"""
ENTER = """
cd /sys/fs/cgroup
for file in $([ -e cgroup.procs ] && echo cgroup.procs || ls -d */cgroup.procs); do echo 0 > $file; done
cd /
exec "$@"
"""
START_TIMEOUT = 60.0


class Systemd:
    """One that runs."""

    def __init__(self, pid: int, layout: str) -> None:
        self.pid = pid
        """As the host sees its first process."""
        self.layout = layout

    def words(self, *words: str) -> list[str]:
        """A command of the host's to run a program among its processes, in the first cgroup of each tree."""
        return ["nsenter", "--target", str(self.pid), "--all", "sh", "-c", ENTER, "sh", *words]

    def run(self, *words: str) -> str:
        """What a program says that has ended well there."""
        done = subprocess.run(self.words(*words), capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout.strip()

    def property(self, unit: str, name: str) -> str:
        """What systemd says of a unit."""
        return self.run("systemctl", "show", "--value", f"--property={name}", unit)

    def cgroups(self, name: str) -> list[str]:
        """The cgroups of that name in all its trees."""
        return self.run("find", "/sys/fs/cgroup", "-type", "d", "-name", f"*{name}*").split()


@contextmanager
def running(layout: str, folder: Path, shared: Sequence[str] = ()) -> Iterator[Systemd]:
    """Start it and end it with all that it has; `folder` is for its units. Leaves nothing.

    Its /run is its own, but for the folders `shared`; its /etc is the host's, read-only: no identity is written there.
    """
    for name, text in UNITS.items():
        (folder / name).write_text("\n".join(line.strip() for line in text.splitlines()))
    trees = hierarchies(naming=True)
    name = f"kata-systemd-{uuid.uuid4().hex[:8]}"
    _make(name, trees)
    roots = " ".join(tree.root for tree in trees)
    controllers = " ".join(",".join(sorted(tree.controllers)) for tree in trees if tree.version == 1 and tree.bounds)
    inside = INSIDE.replace("$UNITS", os.fspath(folder))
    words = ["sh", "-c", OUTSIDE, "sh", name, roots, inside, layout, controllers, " ".join(shared)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    try:
        made = Systemd(_first_process(process), layout)
        _await(made)
        yield made
    finally:
        _end(process)
        _remove(name, trees)


def _make(name: str, trees: Sequence[Hierarchy]) -> None:
    for tree in trees:
        made = Path(tree.root, name)
        made.mkdir()
        for file in ("cpuset.cpus", "cpuset.mems"):
            if tree.version == 1 and (made / file).exists():
                (made / file).write_text(Path(tree.root, file).read_text())


def _first_process(process: subprocess.Popen[bytes]) -> int:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + START_TIMEOUT
    while process.poll() is None and time.monotonic() < deadline:
        for pid in children.read_text().split():
            if Path(f"/proc/{pid}/comm").read_text().strip() == "systemd":
                return int(pid)
        time.sleep(0.05)
    raise AssertionError("systemd does not start in namespaces here")


def _await(systemd: Systemd) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    said = ""
    while time.monotonic() < deadline:
        words = systemd.words(
            "sh", "-c", "busctl status org.freedesktop.systemd1 >/dev/null && systemctl is-system-running"
        )
        said = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False).stdout.strip()
        if said == "running":
            return
        time.sleep(0.1)
    raise AssertionError(f"systemd does not get ready: {said}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Its first process takes the others along; the kernel has ended them all before it is gone itself."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if process.poll() is None:
        for pid in children.read_text().split():
            os.kill(int(pid), signal.SIGKILL)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise


def _remove(name: str, trees: Sequence[Hierarchy]) -> None:
    for tree in trees:
        for folder, _, _ in os.walk(Path(tree.root, name), topdown=False):
            os.rmdir(folder)
