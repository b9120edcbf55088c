"""What containers could make of their guest, and a guest's root of its host, tried in a whole VM.

Seccomp filters, device rules and namespaces are those of the guest's real kernel here. What a container is given of
the runtime that starts it: test_processes.py; what is behind planted links: test_roots.py, test_files.py.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import pytest

from kata import paths
from kata.oci.spec import Spec
from kata.sandbox.spec import ALLOWED_DEVICES
from tests.helpers.arena import Arena, Edit

pytestmark = [pytest.mark.vm, pytest.mark.root]

ADMIN = ("SYS_ADMIN", "MKNOD", "DAC_OVERRIDE", "SYS_RAWIO", "SYS_CHROOT", "CHOWN", "FOWNER", "KILL", "SETUID", "SETGID")
ALL = (
    *("AUDIT_CONTROL", "AUDIT_READ", "AUDIT_WRITE", "BLOCK_SUSPEND", "BPF", "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH"),
    *("FOWNER", "FSETID", "IPC_LOCK", "IPC_OWNER", "KILL", "LEASE", "LINUX_IMMUTABLE", "MAC_ADMIN", "MAC_OVERRIDE"),
    *("MKNOD", "NET_ADMIN", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_RAW", "PERFMON", "SETFCAP", "SETGID", "SETPCAP"),
    *("SETUID", "SYS_ADMIN", "SYS_BOOT", "SYS_CHROOT", "SYS_MODULE", "SYS_NICE", "SYS_PACCT", "SYS_PTRACE"),
    *("SYS_RAWIO", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "SYSLOG", "WAKE_ALARM"),
)
EVERY_NODE = """
mount -t tmpfs nodes /tmp; cd /tmp
for kind in block char; do for path in /sys/dev/$kind/*; do
    number=${path##*/}; letter=${kind%${kind#?}}
    mknod $letter$number $letter ${number%:*} ${number#*:} || echo no mknod
    (: < $letter$number) 2>/dev/null && echo read $letter$number
    (: > $letter$number) 2>/dev/null && echo written $letter$number
done; done; ls | wc -l
"""
OVERWRITE = """
for disk in vda vdb; do
    [ -e /dev/$disk ] || mknod /dev/$disk b $(tr : ' ' < /sys/class/block/$disk/dev)
    head -c 4096 /dev/$disk | wc -c; blockdev --setrw /dev/$disk
    for how in conv=fsync oflag=direct; do dd if=/dev/zero of=/dev/$disk bs=4096 count=4 $how && echo WRITTEN; done
    echo evil > /dev/$disk && echo WRITTEN
done 2>&1
echo end
"""
ROADS = """
import errno, os, select, socket
found = []
for family, name in ((40, "vsock"), (16, "netlink")):
    try:
        sock = socket.socket(family, socket.SOCK_STREAM if family == 40 else socket.SOCK_RAW)
    except OSError:
        continue
    sock.settimeout(1)
    for cid in (1, 2) if family == 40 else ():
        for port in (22, 1024, 1025, 1026, 2024, 9999):
            try:
                socket.socket(40).connect((cid, port))
                found.append(f"vsock {cid}:{port}")
            except OSError:
                pass
for address in (("10.0.2.2", 22), ("169.254.169.254", 80), ("192.168.0.1", 80)):
    try:
        socket.socket().connect(address)
        found.append(f"{address}")
    except OSError as error:
        if error.errno != errno.ENETUNREACH:
            found.append(f"{address}: {error}")
found += [f"link {name}" for name in os.listdir("/sys/class/net") if name != "lo"]
for device in os.listdir("/sys/bus/pci/devices"):
    if open(f"/sys/bus/pci/devices/{device}/class").read().startswith("0x02"):
        found.append(f"a NIC: {device}")
ports = [name for name in os.listdir("/dev") if name.startswith(("vport", "hvc", "ttyS")) and name != "ttyS0"]
for path in (f"/dev/{name}" for name in ports):
    try:
        fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY)
        os.write(fd, b'{"execute": "qmp_capabilities"}\\r\\n')
        if select.select([fd], [], [], 0.3)[0]:
            found.append(f"{path} says {os.read(fd, 200)}")
    except OSError:
        pass
names = (open(f"/sys/class/virtio-ports/{name}/name").read().strip() for name in os.listdir("/sys/class/virtio-ports"))
print(len(ports), found, *sorted(names))
"""
CONFINED = """
grep -E '^(Seccomp|NoNewPrivs|CapBnd):' /proc/self/status | tr -d '\\t' | tr '\\n' ' '
unshare -U true || unshare -m true || unshare -Urm true || echo no namespaces
mount -t tmpfs x /tmp || mount -o remount,rw /sys || echo no mounts
for path in /proc/kcore /proc/keys /proc/timer_list; do head -c 1 $path | wc -c; done | tr '\\n' ' '
ls -A /sys/firmware | wc -l
for path in /proc/sys/kernel/core_pattern /proc/sys/kernel/modprobe /proc/sysrq-trigger /sys/kernel/uevent_helper \
    /sys/fs/cgroup/cgroup.procs /proc/irq/default_smp_affinity; do echo x > $path && echo WRITTEN $path; done
dmesg | head -n 1; echo end
"""


def privileged(spec: Spec, *names: str, devices: bool = False) -> Spec:
    """These capabilities, no filter, no masks; `devices`: all of them, as a privileged container has."""
    held = [f"CAP_{name}" for name in names]
    process = {**spec["process"], "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), held)}
    linux = {
        key: value for key, value in spec["linux"].items() if key not in ("seccomp", "maskedPaths", "readonlyPaths")
    }
    if devices:
        linux["resources"] = {"devices": [{"allow": True, "access": "rwm"}]}
    return cast(Spec, {**spec, "process": process, "linux": linux})


def admin(spec: Spec) -> Spec:
    return privileged(spec, *ADMIN)


def all_of_it(spec: Spec) -> Spec:
    return privileged(spec, *ALL, devices=True)


def run(arena: Arena, name: str, edit: Edit, script: str) -> list[str]:
    """All lines that a shell says as a container's first process."""
    container = arena.start(name, arena.root(f"{name}-{os.urandom(2).hex()}"), edit, "sh", "-c", script)
    said = arena.said(name, "")
    assert container.id == name
    return f"{said.out}{said.err}".splitlines()


@contextmanager
def hosts_files_unchanged() -> Iterator[None]:
    """The guest's image and the templates, by their content."""
    folders = [paths.assets_dir(), paths.templates_dir()]

    def look() -> dict[str, tuple[int, str]]:
        files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
        assert len(files) > 3
        return {str(path): (path.stat().st_mtime_ns, digest(path)) for path in files}

    before = look()
    yield
    assert look() == before


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha1").hexdigest()


def test_cve_2020_2023_nodes_of_every_device_of_the_guest(arena: Arena) -> None:
    """CVE-2020-2023: a container that may do much, but for devices, makes a node of each that there is and opens it."""
    lines = run(arena, "nodes", admin, EVERY_NODE)
    assert int(lines[-1]) > 100 and "no mknod" not in lines
    allowed = {f"{kind}{major}:{minor}" for kind, major, minor, _ in ALLOWED_DEVICES if minor is not None}
    opened = {line.split()[1] for line in lines[:-1]}
    assert opened - allowed == set()
    assert {"c1:3", "c1:5"} <= opened, "else nothing was tried"


def test_cve_2020_2025_a_privileged_container_at_the_guests_disk(arena: Arena) -> None:
    """CVE-2020-2025, CVE-2026-24834: all capabilities and devices; the guest's own disk is not among them."""
    with hosts_files_unchanged():
        lines = run(arena, "privileged", all_of_it, OVERWRITE)
        assert "WRITTEN" not in lines and lines[-1] == "end", lines
        assert "head: /dev/vda: Operation not permitted" in lines and "4096" in lines, "the other disk is read"


def test_cve_2020_2025_a_guests_root_at_its_disks(arena: Arena) -> None:
    """CVE-2020-2025: by the guest's Linux alone it fails; that the host opened it read-only: test_qemu_machine.py."""
    script = "mount -o remount,rw / && echo WRITTEN; echo x > /evil && echo WRITTEN"
    with hosts_files_unchanged():
        lines = arena.guest(OVERWRITE + script).out.splitlines()
        assert "WRITTEN" not in lines and lines.count("4096") == 2, lines


def test_a_guests_root_finds_no_way_to_the_host(arena: Arena) -> None:
    """Without a network: no NIC, no vsock, no port but the agent's two, and nothing there that speaks QMP."""
    said = arena.guest(f"python3.11 - <<'END'\n{ROADS}\nEND\n").out
    count, _, rest = said.partition(" ")
    assert count.isdecimal() and int(count) >= 5, said
    assert rest == "[] agent.channel.0 agent.debug.0", said


def without_new_rights(spec: Spec) -> Spec:
    return cast(Spec, {**spec, "process": {**spec["process"], "noNewPrivileges": True}})


def test_an_ordinary_container_is_confined(arena: Arena) -> None:
    """CVE-2022-0492 and its like: what `kata run` gives. Filter, masks, no namespaces; the same for more processes."""
    lines = run(arena, "ordinary", lambda spec: spec, CONFINED)
    assert lines[0].split()[1:] == ["NoNewPrivs:0", "Seccomp:2", "no", "namespaces"], lines
    assert int(lines[0].split()[0].partition(":")[2], 16) >> 21 & 1 == 0, "CAP_SYS_ADMIN"
    assert lines[1:3] == ["no mounts", "0 0 0 0"], lines
    assert not [line for line in lines if line.startswith("WRITTEN")] and "end" in lines, lines
    arena.start("more", arena.root("more"))
    assert arena.exec("more", CONFINED).out.splitlines()[:3] == lines[:3]


@pytest.mark.parametrize("asked", [False, True])
def test_no_new_privileges_when_asked(asked: bool, arena: Arena) -> None:
    """For the first process, and for others by what they ask themselves."""
    flag = "grep ^NoNewPrivs: /proc/self/status"
    [said] = run(arena, "first", lambda spec: without_new_rights(spec) if asked else spec, flag)
    assert said.split() == ["NoNewPrivs:", str(int(asked))]
    arena.start("more", arena.root(f"more-{asked}"))
    assert arena.exec("more", flag, noNewPrivileges=asked).out.split() == ["NoNewPrivs:", str(int(asked))]


def with_users(spec: Spec) -> Spec:
    """A privileged container in a user namespace: root is user 100000 of the guest."""
    maps = [{"containerID": 0, "hostID": 100_000, "size": 65_536}]
    namespaces = [*spec["linux"]["namespaces"], {"type": "user"}]
    linux = {**spec["linux"], "namespaces": namespaces, "uidMappings": maps, "gidMappings": maps}
    return cast(Spec, {**spec, "linux": linux})


def test_a_user_namespace_when_asked(arena: Arena) -> None:
    """All capabilities in it are none over the guest: no node is made, nothing of its kernel is written to."""
    script = "cat /proc/self/uid_map; mknod /tmp/x c 1 1 || mknod /x c 1 1 || echo no nodes; "
    lines = run(arena, "users", lambda spec: with_users(all_of_it(spec)), script + CONFINED)
    assert lines[0].split() == ["0", "100000", "65536"] and lines[1] == "no nodes", lines
    assert "Seccomp:0" in lines[2] and "end" in lines, lines
    assert not [line for line in lines if line.startswith("WRITTEN")], lines
    arena.remove("users")
    arena.start("users", arena.root("users2"), with_users)
    owner = arena.guest("for p in /proc/[0-9]*; do grep -q 100000 $p/uid_map && grep ^Uid: $p/status; done").out
    assert owner.split() == ["Uid:", *["100000"] * 4], owner
