"""Settings of configuration.toml whose effect shows only in a guest that was started with them. One boot."""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kata import paths
from tests.containerd.conftest import await_nothing_left
from tests.helpers.containerd import Containerd

pytestmark = [pytest.mark.containerd, pytest.mark.root]

NAME = "settings"
POLICY = Path(__file__).parents[2] / "docs/policies/allow-all-except-exec-process.rego"
CONFIG = """
[hypervisor.qemu]
path = "{folder}/qemu-system-mine"
enable_debug = true
enable_iothreads = true
block_device_aio = "io_uring"
block_device_cache_set = true
block_device_cache_direct = true
num_queues = 2
entropy_source = "/dev/random"
machine_accelerators = "mem-merge=off"
cpu_features = "pmu=off,-rdrand"
[agent.kata]
kernel_modules = ["sd_mod", "virtio_mem"]
dial_timeout_ms = 500
request_timeout_ms = 50000
policy = '''
{policy}'''
[factory]
enable_template = false
[runtime]
enable_debug = true
create_container_timeout = 100
"""


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Open to the VMM's user, as pytest's own folders are not."""
    with tempfile.TemporaryDirectory(prefix="kata-test-") as path:
        os.chmod(path, 0o755)
        yield Path(path)


@pytest.fixture(scope="module")
def sandbox(daemon: Containerd, folder: Path) -> Iterator[Containerd]:
    """A running container of a sandbox with these settings."""
    (folder / "qemu-system-mine").symlink_to("/usr/bin/qemu-system-x86_64")
    (folder / "configuration.toml").write_text(CONFIG.format(folder=folder, policy=POLICY.read_text()))
    script = "ls /sys/module; grep -m1 flags /proc/cpuinfo; sleep 100000"
    options = ("--runtime-config-path", str(folder / "configuration.toml"), "--log-uri", f"file://{folder}/output")
    daemon.run(NAME, "sh", "-c", script, options=options)
    yield daemon
    daemon.remove(NAME)
    assert await_nothing_left(daemon) == []


def await_text(path: Path, pattern: str) -> str:
    deadline = time.monotonic() + 60
    while not re.search(pattern, text := path.read_text() if path.exists() else ""):
        assert time.monotonic() < deadline, f"{pattern} is not in {text[-4000:]}"
        time.sleep(0.2)
    return text


def test_the_vmm_is_what_the_operator_said(sandbox: Containerd) -> None:
    pid = int((paths.vm_dir() / NAME / "pid").read_text())
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    assert words[0].endswith("/qemu-system-mine")
    line = " ".join(words)
    for wanted in (
        '"aio":"io_uring"',
        '"direct":true',
        '"iothread":"disks"',
        '"num-queues":2',
        '"filename":"/dev/random"',
        ",mem-merge=off",
        ",-rdrand",
        "quiet",
        "debug",
    ):
        assert wanted in line, wanted


def test_the_guest_has_them(sandbox: Containerd, folder: Path) -> None:
    words = await_text(folder / "output", "flags").split()
    assert {"sd_mod", "virtio_mem", "fpu"} <= set(words) and "rdrand" not in words


def test_a_policy_holds_from_the_start(sandbox: Containerd) -> None:
    done = sandbox.exec(NAME, "denied", "true")
    assert done.returncode and b"ExecProcessRequest is blocked by policy" in done.stderr


def test_the_log_says_more(sandbox: Containerd) -> None:
    text = await_text(sandbox.log, "reading guest console")
    assert re.search(r'msg="reading guest console" .*vmconsole=".*Linux version', text)
    assert re.search(r"level=debug msg=agent .*request=grpc.CreateContainerRequest ms=", text)
