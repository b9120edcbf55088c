"""Volumes and devices of containers as `ctr` gives them: disks, direct volumes, volumes that change, erofs images."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kata import paths
from kata.storage import directvolumes
from tests.helpers.cli import kata
from tests.helpers.containerd import IMAGE, RUNTIME, Containerd
from tests.helpers.guestmemory import guest_memory, went_on

pytestmark = [pytest.mark.containerd, pytest.mark.root]

SIZE = 8 << 20
CONTENT = b"what is on the disk\n"
SEEN_TIMEOUT = 60.0


@pytest.fixture
def loops(tmp_path: Path) -> Iterator[list[str]]:
    """Two loop devices with a few bytes at their beginning."""
    made: list[str] = []
    try:
        for name in ("first", "second"):
            with (tmp_path / name).open("wb") as file:
                file.write(CONTENT)
                file.truncate(SIZE)
            command = ["losetup", "--find", "--show", str(tmp_path / name)]
            made.append(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())
        yield made
    finally:
        for device in made:
            subprocess.run(["losetup", "--detach", device], check=True)


def config_map(folder: Path) -> Path:
    """A ConfigMap as the kubelet makes one: a link to a link to a folder of this version."""
    volume = folder / "kubernetes.io~configmap" / "settings"
    (volume / "..first").mkdir(parents=True)
    (volume / "..first" / "key").write_text("one\n")
    (volume / "..data").symlink_to("..first")
    (volume / "key").symlink_to("..data/key")
    return volume


def update(volume: Path) -> None:
    """What the kubelet does: the new version beside the old one, then the link is replaced in one step."""
    (volume / "..second").mkdir()
    (volume / "..second" / "key").write_text("two\n")
    (volume / "..next").symlink_to("..second")
    (volume / "..next").rename(volume / "..data")
    (volume / "..first" / "key").unlink()
    (volume / "..first").rmdir()


def direct_volume(folder: Path) -> str:
    """A recorded direct volume: an ext4 in a file."""
    image, path = folder / "volume.img", folder / "published"
    with image.open("wb") as file:
        file.truncate(4 * SIZE)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
    path.mkdir()
    record = {"volume-type": "block", "device": str(image), "fstype": "ext4", "metadata": {"fsGroup": "1234"}}
    kata("direct-volume", "add", "--volume-path", str(path), "--mount-info", json.dumps(record), check=True)
    return str(path)


def bind(source: object, destination: str, access: str = "rw") -> tuple[str, str]:
    return "--mount", f"type=bind,src={source},dst={destination},options=rbind:{access}"


def test_disks_and_volumes_of_a_container(containerd: Containerd, tmp_path: Path, loops: list[str]) -> None:
    first, second = loops
    settings, published = config_map(tmp_path), direct_volume(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "file").write_text("a part of a volume\n")
    options = (
        *("--device", first),
        *bind(second, "/data/disk", "ro"),
        *bind(published, "/volume"),
        *bind(settings, "/settings", "ro"),
        *bind(tmp_path / "sub" / "file", "/etc/part", "ro"),
    )
    containerd.run("disks", "sleep", "10000", options=options)
    try:
        _disks_are_there(containerd, first)
        assert directvolumes.sandboxes(published) == ["disks"]
        refused = kata("direct-volume", "remove", "--volume-path", published)
        assert refused.returncode and b"in use by sandbox disks" in refused.stderr
        _settings_follow(containerd, settings)
    finally:
        containerd.remove("disks")
    assert directvolumes.sandboxes(published) == []
    kata("direct-volume", "remove", "--volume-path", published, check=True)
    with open(first, "rb") as disk:
        assert disk.read(7) == b"written"
    check = subprocess.run(["debugfs", "-R", "cat /new", str(tmp_path / "volume.img")], check=True, capture_output=True)
    assert check.stdout == b"kept\n"


def _disks_are_there(containerd: Containerd, first: str) -> None:
    script = f"""
        head -n 1 {first}; printf written | dd of={first} conv=notrunc,fsync 2>/dev/null && head -c 7 {first}; echo
        head -n 1 /data/disk; printf no 2>/dev/null > /data/disk || echo read-only
        cat /etc/part; (echo x > /etc/part) 2>/dev/null || echo part-read-only
        echo kept > /volume/new; sync; stat -c %g /volume/new; grep -c ' /volume ext4 ' /proc/mounts
        mknod /dev/other b 254 0; cat /dev/other 2>&1 >/dev/null || true
    """
    said = containerd.exec("disks", "e1", "sh", "-c", script)
    lines = said.stdout.decode().splitlines()
    assert lines[:3] == [CONTENT.decode().strip(), "written", CONTENT.decode().strip()], (lines, said.stderr)
    assert lines[3:] == [
        "read-only",
        "a part of a volume",
        "part-read-only",
        "1234",
        "1",
        "cat: can't open '/dev/other': Operation not permitted",
    ], said.stderr


def _settings_follow(containerd: Containerd, settings: Path) -> None:
    assert containerd.exec("disks", "e2", "cat", "/settings/key").stdout == b"one\n"
    # A copy in the guest's memory, where inotify works: on the share it sees nothing that the host does.
    assert containerd.exec("disks", "e3", "grep", "-c", " /settings tmpfs ", "/proc/mounts").stdout == b"1\n"
    update(settings)
    script = "while [ $(cat /settings/key) != two ]; do sleep 0.1; done; ls /settings/..data/"
    following = containerd.popen("task", "exec", "--exec-id", "w1", "disks", "sh", "-c", script, stdout=subprocess.PIPE)
    said, _ = following.communicate(timeout=SEEN_TIMEOUT)
    assert said == b"key\n"


def test_a_guest_that_shares_nothing(containerd: Containerd, tmp_path: Path) -> None:
    config = tmp_path / "configuration.toml"
    config.write_text('[hypervisor.qemu]\nshared_fs = "none"\nblock_device_driver = "virtio-scsi"\n')
    empty = tmp_path / "kubernetes.io~empty-dir" / "scratch"
    empty.mkdir(parents=True)
    (tmp_path / "hosts").write_text("10.0.0.9 elsewhere\n")
    options = (
        *("--runtime-config-path", str(config)),
        *bind(tmp_path / "hosts", "/etc/hosts", "ro"),
        *bind(config_map(tmp_path), "/settings", "ro"),
        *bind(empty, "/scratch"),
    )
    script = """
        grep -c virtiofs /proc/mounts; cat /etc/hosts /settings/key; echo here > /root/new; cat /root/new
        echo kept > /scratch/file; cat /scratch/file; ls -l /settings/key | grep -c -- '-> ..data/key'
    """
    words = ("run", "--rm", "--runtime", RUNTIME, *options, IMAGE)
    done = containerd.ctr(*words, "alone", "sh", "-c", script, check=False)
    assert done.stdout.decode().split("\n")[:-1] == ["0", "10.0.0.9 elsewhere", "one", "here", "kept", "1"], done.stderr
    assert list(empty.iterdir()) == []
    images = list((paths.cache_dir() / "snapshots").glob("*.erofs"))
    assert images and all(path.stat().st_mode & 0o777 == 0o600 for path in images)


def test_a_guest_that_shares_by_9p(containerd: Containerd, tmp_path: Path) -> None:
    """Root file system and volumes: files have the owners that the container gives them, what is read-only stays."""
    config = tmp_path / "configuration.toml"
    config.write_text('[hypervisor.qemu]\nshared_fs = "virtio-9p"\nmsize_9p = 131072\n')
    for name in ("data", "fixed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "there").write_text(f"{name}\n")
        (tmp_path / name / "there").chmod(0o600)
    settings = config_map(tmp_path)
    options = (
        *("--runtime-config-path", str(config)),
        *bind(tmp_path / "data", "/data"),
        *bind(tmp_path / "fixed", "/fixed", "ro"),
        *bind(settings, "/settings", "ro"),
    )
    containerd.run("nine", "sleep", "10000", options=options)
    try:
        said = containerd.exec("nine", "e1", "sh", "-c", NINEP_SCRIPT)
        assert said.stdout.decode().splitlines() == [
            *("data", "fixed", "9p msize=131072", "9p msize=131072", "1234:5678 640", "0:0 644"),
            *("read-only", "no device", "fifo", "mapped", "link", "gone"),
        ], said.stderr
        assert went_on(vmm("nine")) and guest_memory(vmm("nine")).name == "copy", "freed memory is cut out of it"
        update(settings)
        script = "while [ $(cat /settings/key) != two ]; do sleep 0.1; done; echo followed"
        assert containerd.exec("nine", "e2", "timeout", "20", "sh", "-c", script).stdout == b"followed\n"
    finally:
        containerd.remove("nine")
    written = (tmp_path / "data/mine").stat()
    assert (written.st_uid, written.st_gid, written.st_mode & 0o777) == (1234, 5678, 0o640)
    assert (tmp_path / "data/kept").read_text() == "kept\n"


def test_guests_that_share_by_9p_and_keep_what_they_free_have_one_memory(
    containerd: Containerd, tmp_path: Path
) -> None:
    config = tmp_path / "configuration.toml"
    config.write_text('[hypervisor.qemu]\nshared_fs = "virtio-9p"\nreclaim_guest_freed_memory = false\n')
    (tmp_path / "data").mkdir()
    options = ("--runtime-config-path", str(config), *bind(tmp_path / "data", "/data"))
    script = "ls /root/own 2>/dev/null; echo $0 >/root/own; chown 12:34 /root/own; cat /root/own; echo $0 >>/data/names"
    names = ("nine1", "nine2")
    try:
        for name in names:
            containerd.run(name, "sleep", "10000", options=options)
        first, second = (guest_memory(vmm(name)) for name in names)
        assert first == second and first.private
        for name in names:
            assert went_on(vmm(name))
            said = containerd.exec(name, "e", "sh", "-c", f"{script}; stat -c %u:%g /root/own", name)
            assert said.stdout.decode().split() == [name, "12:34"], said.stderr
    finally:
        for name in names:
            containerd.remove(name)
    assert (tmp_path / "data/names").read_text().split() == list(names)


def vmm(name: str) -> int:
    """The QEMU of a sandbox."""
    return int((paths.vm_dir() / name / "pid").read_text())


NINEP_SCRIPT = """
    cat /data/there /fixed/there
    for place in / /data; do
        awk -v place=$place '$2 == place { type = $3; options = $4 }
            END { sub(/.*msize=/, "msize=", options); sub(/,.*/, "", options); print type, options }' /proc/mounts
    done
    echo mine > /data/mine; chown 1234:5678 /data/mine; chmod 640 /data/mine; stat -c '%u:%g %a' /data/mine
    echo kept > /data/kept; stat -c '%u:%g %a' /data/kept
    (echo x > /fixed/new) 2>/dev/null || echo read-only
    mknod /data/device c 1 3 2>/dev/null || echo no device
    mkfifo /root/fifo && [ -p /root/fifo ] && echo fifo
    cp /bin/busybox /root/echo && /root/echo mapped
    ln -s there /data/link && [ "$(cat /data/link)" = data ] && rm /data/link && echo link
    exec 3>/root/open && rm /root/open && echo x >&3 && [ ! -e /root/open ] && echo gone
"""
