"""`kata run` in real virtual machines: what the README promises, seen from outside."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import tarfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.cli import kata, leftovers, ps, start, vmm_pids
from tests.unit.images.crafted import entry, image, tar

pytestmark = [pytest.mark.vm, pytest.mark.root, pytest.mark.usefixtures("busybox")]


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    assert leftovers() == []
    yield
    for sandbox in ps("-a"):
        kata("rm", "-f", sandbox["id"])
    assert leftovers() == []


def test_the_guest_has_a_kernel_of_its_own() -> None:
    done = kata("run", "--rm", "busybox", "sh", "-c", "uname -r; exit 7")
    assert done.stdout.strip()
    assert done.stdout.strip().decode() != os.uname().release
    assert (done.stderr, done.returncode) == (b"", 7)


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("sh", "-c", "sh -c 'kill -9 $$'; exit $?"), 137, b""),
        (("no-such-program",), 127, b"no-such-program"),
        (("/etc/passwd",), 126, b"passwd"),
    ],
)
def test_exit_codes(words: tuple[str, ...], code: int, text: bytes) -> None:
    done = kata("run", "--rm", "busybox", *words)
    assert done.returncode == code, done.stderr
    assert text in done.stderr


def test_a_hundred_megabytes_through_stdin() -> None:
    data = os.urandom(1 << 20) * 100
    done = kata("run", "--rm", "-i", "busybox", "sha256sum", stdin=data, check=True)
    assert done.stdout.split()[0].decode() == hashlib.sha256(data).hexdigest()


def test_ten_megabytes_through_stdout_and_streams_apart() -> None:
    script = "dd if=/dev/zero bs=1M count=10 2>/dev/null; echo problem >&2"
    done = kata("run", "--rm", "busybox", "sh", "-c", script, check=True)
    assert done.stdout == bytes(10 << 20)
    assert done.stderr == b"problem\n"


@pytest.fixture
def with_volumes(tmp_path: Path) -> Iterator[str]:
    """An image with two volumes: one with another user's content behind a link, one that the image does not have."""
    applets = [entry(f"bin/{name}", type=tarfile.SYMTYPE, linkname="busybox") for name in ("sh", "cat", "stat")]
    layer = tar(
        entry("bin/busybox", Path("/bin/busybox").read_bytes(), mode=0o755),
        *applets,
        entry("data", type=tarfile.DIRTYPE, uid=999, gid=998, mode=0o2750),
        entry("data/sub", type=tarfile.DIRTYPE, uid=999, gid=998, mode=0o700),
        entry("data/sub/file", b"from the image\n", uid=999, gid=998, mode=0o600),
        entry("link", type=tarfile.SYMTYPE, linkname="data"),
    )
    image(tmp_path / "layout", layer, config={"Volumes": {"/link": {}, "/new/one": {}}})
    kata("image", "import", os.fspath(tmp_path / "layout"), "with-volumes", check=True)
    yield "with-volumes"
    kata("image", "rm", "with-volumes", check=True)


def test_image_volumes_are_writable_though_the_root_is_not(with_volumes: str) -> None:
    script = (
        "cat /link/sub/file; stat -c '%n %u %g %a' /data /data/sub /data/sub/file /new/one;"
        "echo a >/data/mine && echo b >/new/one/mine && echo written; echo c >/file || echo refused"
    )
    done = kata("run", "--rm", "--read-only", with_volumes, "sh", "-c", script, check=True)
    assert done.stdout.decode().splitlines() == [
        "from the image",
        "/data 999 998 2750",
        "/data/sub 999 998 700",
        "/data/sub/file 999 998 600",
        "/new/one 0 0 755",
        "written",
        "refused",
    ]


def test_volumes_of_the_host_in_place_of_an_images_and_at_a_new_place(with_volumes: str, tmp_path: Path) -> None:
    for name in ("given", "new"):
        (tmp_path / name).mkdir()
    (tmp_path / "new" / "file").write_text("from the host\n")
    volumes = ("-v", f"{tmp_path}/given:/data", "-v", f"{tmp_path}/new:/new/place")
    script = "echo kept >/link/file; cat /new/place/file"
    done = kata("run", "--rm", "--read-only", *volumes, with_volumes, "sh", "-c", script, check=True)
    assert (tmp_path / "given" / "file").read_text() == "kept\n"
    assert done.stdout == b"from the host\n"


def test_without_a_network_and_input_there_is_none() -> None:
    words = ("run", "--rm", "--network", "none", "busybox", "sh", "-c", "ls /sys/class/net; cat")
    assert kata(*words, stdin=b"unseen", check=True).stdout.split() == [b"lo"]


def test_what_the_command_line_asks_for_is_what_the_container_gets() -> None:
    script = "id -u; id -g; pwd; hostname; echo $A$B; touch /x 2>&1; echo >/tmp/y && echo writable;"
    script += "nproc; awk '/MemTotal/ {print $2}' /proc/meminfo; cat /sys/fs/cgroup/memory.max"
    done = kata(
        *("run", "--rm", "-u", "1000:1000", "-w", "/tmp", "--hostname", "box", "-e", "A=1", "-e", "B"),
        *("--memory", "512m", "--cpus", "2", "--read-only", "--entrypoint", "sh", "busybox", "-c", script),
        env={"B": "2"},
    )
    lines = done.stdout.decode().splitlines()
    assert lines[:5] == ["1000", "1000", "/tmp", "box", "12"]
    assert "Read-only" in lines[5]
    cpus, total, limit = map(int, lines[-3:])
    assert (cpus, limit) == (2, 512 << 20)
    assert 400_000 < total <= 524_288


@pytest.mark.parametrize("way", ["virtio-fs", "virtio-9p"])
def test_volumes(way: str, tmp_path: Path) -> None:
    (tmp_path / "rw").mkdir()
    (tmp_path / "ro").mkdir()
    (tmp_path / "ro" / "file").write_text("from the host")
    (tmp_path / "single").write_text("one file")
    script = "cat /ro/file /single; echo x >/ro/file; echo from the guest >/rw/file"
    done = kata(
        *("run", "--rm", "--shared-fs", way),
        *("-v", f"{tmp_path}/rw:/rw", "-v", f"{tmp_path}/ro:/ro:ro", "-v", f"{tmp_path}/single:/single"),
        *("busybox", "sh", "-c", script),
    )
    assert done.stdout == b"from the hostone file"
    assert b"Read-only" in done.stderr
    assert (tmp_path / "ro" / "file").read_text() == "from the host"
    assert (tmp_path / "rw" / "file").read_text() == "from the guest\n"


def test_a_web_server_answers_on_a_published_port(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("hello from the guest")
    port = free_port()
    kata(
        *("run", "-d", "--name", "web", "-p", f"{port}:80", "-v", f"{tmp_path}:/www:ro"),
        *("busybox", "httpd", "-f", "-p", "80", "-h", "/www"),
        check=True,
    )
    assert fetch(f"http://127.0.0.1:{port}/index.html") == b"hello from the guest"
    [sandbox] = ps()
    assert sandbox["ports"] == [f"127.0.0.1:{port}:80/tcp"]
    metrics = kata("metrics", "web", check=True).stdout
    assert b"kata_hypervisor_threads " in metrics and b"kata_agent_threads " in metrics
    assert b"has no debug console" in kata("console", "web", "--", "true").stderr
    kata("stop", "-t", "1", "web", check=True)
    [sandbox] = ps("-a")
    assert sandbox["status"] == "stopped"


def test_two_at_once() -> None:
    words = ("run", "--rm", "busybox", "sh", "-c", "echo $(hostname)")
    both = [start(*words, stdin=subprocess.DEVNULL) for _ in range(2)]
    said = [process.communicate(timeout=180) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert said[0][0] != said[1][0]


def test_detached_with_exec_logs_stop_and_rm() -> None:
    script = "echo one; echo two >&2; trap 'echo bye; exit 3' TERM; while :; do sleep 0.1; done"
    sandbox_id = kata("run", "-d", "--name", "one", "busybox", "sh", "-c", script, check=True).stdout.decode().strip()
    assert kata("exec", "one", "echo", "inside", check=True).stdout == b"inside\n"
    said = kata("exec", "one", "sh", "-c", "ip -o -4 addr show eth0; ip route; cat /etc/resolv.conf", check=True).stdout
    for words in (b"10.0.2.15/24", b"default via 10.0.2.2 dev eth0", b"nameserver 10.0.2.3\n"):
        assert words in said, "the network is up, and the host looks names up"
    assert kata("exec", "-i", sandbox_id[:8], "cat", stdin=b"through", check=True).stdout == b"through"
    assert kata("exec", "one", "sh", "-c", "exit 9").returncode == 9
    assert kata("exec", "one", "no-such-program").returncode == 127
    assert (
        kata("exec", "-u", "nobody", "-e", "A=b", "-w", "/tmp", "one", "sh", "-c", "echo $A $PWD $(id -un)").stdout
        == b"b /tmp nobody\n"
    )
    logs = kata("logs", "one", check=True)
    assert (logs.stdout, logs.stderr) == (b"one\n", b"two\n")
    assert kata("rm", "one").returncode == 1
    kata("stop", "one", check=True)
    [sandbox] = ps("-a")
    assert (sandbox["status"], sandbox["exit_code"]) == ("stopped", 3)
    assert kata("logs", "one", check=True).stdout == b"one\nbye\n"
    assert kata("exec", "one", "true").returncode == 125
    kata("rm", "one", check=True)
    assert ps("-a") == []


def test_logs_are_followed_to_the_end_and_a_name_is_taken_once() -> None:
    script = "for i in 1 2 3; do echo $i; sleep 1; done"
    kata("run", "-d", "--name", "talker", "busybox", "sh", "-c", script, check=True)
    again = kata("run", "--name", "talker", "busybox", "true")
    assert again.returncode == 125
    assert b"taken" in again.stderr and b"hint:" in again.stderr
    assert kata("logs", "-f", "talker", check=True).stdout == b"1\n2\n3\n"
    assert kata("logs", "--tail", "1", "talker", check=True).stdout == b"3\n"


def test_a_directory_is_an_image(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    shutil.copy("/bin/busybox", tmp_path / "bin" / "sh")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\nme:x:7:8::/:/bin/sh\n")
    done = kata("run", "--rm", "-u", "me", str(tmp_path), "/bin/sh", "-c", "echo from $(id -u):$(id -g)", check=True)
    assert done.stdout == b"from 7:8\n"


def test_sigterm_is_forwarded() -> None:
    script = "trap 'echo got it; exit 5' TERM; echo ready; while :; do sleep 0.1; done"
    process = start("run", "--rm", "busybox", "sh", "-c", script, stdin=subprocess.DEVNULL)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert (out, process.returncode) == (b"got it\n", 5)


def test_the_client_killed_changes_nothing_and_the_supervisor_killed_is_told_and_cleared_up() -> None:
    process = start("run", "--name", "kept", "busybox", "sh", "-c", "echo ready; sleep 1000")
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.kill()
    process.communicate()
    [sandbox] = ps("-a")
    assert (sandbox["name"], sandbox["status"]) == ("kept", "running")
    assert kata("exec", "kept", "echo", "alive", check=True).stdout == b"alive\n"
    [qemu] = vmm_pids()
    supervisor = int(Path(f"/proc/{qemu}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(supervisor, signal.SIGKILL)
    wait_for(lambda: vmm_pids() == [])
    [sandbox] = ps("-a")
    assert (sandbox["status"], sandbox["exit_code"]) == ("stopped", 137)
    assert "killed" in sandbox["error"]
    kata("rm", "kept", check=True)
    assert leftovers() == []


def test_the_client_killed_while_the_guest_boots() -> None:
    process = start("run", "--rm", "--name", "early", "busybox", "true", stdin=subprocess.DEVNULL)
    wait_for(lambda: vmm_pids() != [])
    process.kill()
    process.communicate()
    wait_for(lambda: ps("-a") == [])
    wait_for(lambda: leftovers() == [])


def test_the_vmm_killed_is_told() -> None:
    process = start("run", "--name", "victim", "busybox", "sh", "-c", "echo ready; sleep 1000")
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    [qemu] = vmm_pids()
    os.kill(qemu, signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 137
    assert b"kata: guest: the virtual machine ended (QEMU: killed by signal 9)" in err


def test_a_guest_that_never_answers_is_given_up_with_its_console(tmp_path: Path) -> None:
    done = kata("run", "--rm", "--no-template", "--boot-timeout", "1", "busybox", "true")
    assert done.returncode == 125
    assert b"kata: guest:" in done.stderr
    assert b"hint:" in done.stderr


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("run", "--rm", "no-such-image-anywhere", "true"), b"no-such-image-anywhere"),
        (("run", "--rm", "/nowhere/image.tar", "true"), b"/nowhere/image.tar"),
        (("run", "--rm", "--memory", "16m", "busybox", "true"), b"too small"),
        (("run", "--rm", "--no-such-option", "busybox"), b"--no-such-option"),
        (("run", "--rm", "-v", "/nowhere:/x", "busybox", "true"), b"/nowhere"),
        (("run", "--rm", "-u", "nobody-here", "busybox", "true"), b"nobody-here"),
        (("run",), b"IMAGE"),
    ],
)
def test_bad_input_is_one_clear_line_and_a_hint(words: tuple[str, ...], text: bytes) -> None:
    done = kata(*words)
    assert done.returncode == 125
    assert text in done.stderr
    assert b"hint:" in done.stderr


def test_a_machine_that_the_kernel_cannot_drive_is_refused() -> None:
    done = kata("run", "--rm", "--machine", "microvm", "busybox", "true")
    assert done.returncode == 125
    assert b"kata kernel build" in done.stderr


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def fetch(url: str, timeout: float = 30.0) -> bytes:
    deadline = time.monotonic() + timeout
    while True:
        try:
            with contextlib.closing(urllib.request.urlopen(url, timeout=5)) as reply:
                data: bytes = reply.read()
                return data
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def wait_for(condition: object, timeout: float = 60.0) -> None:
    assert callable(condition)
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, leftovers()
        time.sleep(0.1)
