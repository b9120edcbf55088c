"""The agent as the first process: of namespaces instead of a machine, where "power off" ends them by SIGINT."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kata.protocol.client import Client
from kata.protocol.generated import agent_pb2
from kata.protocol.transport import dial

pytestmark = pytest.mark.root

SRC = Path(__file__).parents[2] / "src"
UNSHARE = ["unshare", "--mount", "--pid", "--ipc", "--uts", "--cgroup", "--net", "--fork", "--kill-child"]
# Nothing mounted that the agent should mount itself. /dev is not empty, as the kernel leaves it, but has no vsock.
INNER = """
set -e
mount --make-rprivate /
mount -t proc proc /proc
mount --bind "$1" /proc/cmdline
umount -R -l /sys
mount -t tmpfs -o mode=755 tmpfs /dev
# The agent mounts over /tmp and /run: a checkout below one of them must be reached by another way.
mount -t tmpfs tmpfs /mnt
mkdir /mnt/src /mnt/site
mount --bind "$2" /mnt/src
mount --bind "$3" /mnt/site
for node in "null 3" "zero 5" "random 8" "urandom 9"; do mknod "/dev/${node% *}" c 1 "${node#* }"; done
shift 3
exec "$@"
"""


class Guest:
    """An agent that believes to be a guest's first process; `console` is all that it wrote so far."""

    def __init__(self, folder: Path, cmdline: str) -> None:
        (folder / "cmdline").write_text(cmdline)
        agent = [os.path.realpath(sys.executable), "-S", "-m", "kata.agent"]
        self.process = subprocess.Popen(
            [
                *UNSHARE,
                "sh",
                "-c",
                INNER,
                "sh",
                str(folder / "cmdline"),
                str(SRC),
                sysconfig.get_path("purelib"),
                *agent,
            ],
            env={**os.environ, "PYTHONPATH": "/mnt/src:/mnt/site"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.console = ""

    def wait_for(self, text: str) -> None:
        assert self.process.stdout is not None
        deadline = time.monotonic() + 20.0
        while text not in self.console:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            data = os.read(self.process.stdout.fileno(), 65536) if ready else b""
            assert data, f"{text!r} never came: {self.console}"
            self.console += data.decode()

    @property
    def pid(self) -> int:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return int(children.split()[0])

    def end(self) -> int:
        """The rest of the console, and how the first process ended (128 + signal, as unshare tells it)."""
        out, _ = self.process.communicate(timeout=20)
        self.console += out.decode()
        return self.process.returncode


@pytest.fixture
def boot(tmp_path: Path) -> Iterator[list[Guest]]:
    started: list[Guest] = []
    yield started
    for guest in started:
        guest.process.kill()
        guest.process.communicate()


POWERED_OFF = (128 + signal.SIGINT, -signal.SIGINT)


@pytest.mark.parametrize(
    ("cmdline", "sentence"),
    [
        ("quiet", "neither a virtio-serial port named agent.channel.0 nor a vsock device"),
        ("agent.hotplug_timeout=soon", "agent.hotplug_timeout=soon is malformed"),
    ],
)
def test_what_goes_wrong_is_on_the_console_and_the_power_goes_off(
    tmp_path: Path, boot: list[Guest], cmdline: str, sentence: str
) -> None:
    guest = Guest(tmp_path, cmdline)
    boot.append(guest)
    assert guest.end() in POWERED_OFF
    assert sentence in guest.console
    assert "Traceback" not in guest.console


@pytest.mark.parametrize("way", ["SIGTERM", "SIGINT", "DestroySandbox"])
def test_boot_serve_power_off(tmp_path: Path, boot: list[Guest], way: str) -> None:
    guest = Guest(tmp_path, "console=ttyS0 agent.server_addr=unix:///run/agent.sock")
    boot.append(guest)
    guest.wait_for("serving")
    root = Path(f"/proc/{guest.pid}/root")
    points = Path(f"/proc/{guest.pid}/mountinfo").read_text()
    mounted = {line.split(" ")[4]: line.split(" - ")[1].split(" ")[0] for line in points.splitlines()}
    assert {path: mounted.get(path) for path in ("/sys", "/run", "/tmp", "/dev/pts", "/dev/shm", "/sys/fs/cgroup")} == {
        "/sys": "sysfs",
        "/run": "tmpfs",
        "/tmp": "tmpfs",
        "/dev/pts": "devpts",
        "/dev/shm": "tmpfs",
        "/sys/fs/cgroup": "cgroup2",
    }
    assert os.readlink(root / "dev/fd") == "/proc/self/fd"
    assert (root / "run").stat().st_mode & 0o7777 == 0o755
    assert (root / "tmp").stat().st_mode & 0o7777 == 0o1777
    client = Client(dial(f"unix://{root}/run/agent.sock", 5.0))
    details = client.call("grpc.AgentService/GetGuestDetails", agent_pb2.GuestDetailsRequest(), timeout=10.0)
    assert details.agent_details.init_daemon  # type: ignore[attr-defined]
    interfaces = client.call("grpc.AgentService/ListInterfaces", agent_pb2.ListInterfacesRequest(), timeout=10.0)
    assert "lo" in [entry.name for entry in interfaces.Interfaces]  # type: ignore[attr-defined]
    if way == "DestroySandbox":
        client.call("grpc.AgentService/DestroySandbox", agent_pb2.DestroySandboxRequest(), timeout=10.0)
    else:
        os.kill(guest.pid, getattr(signal, way))
    assert guest.end() in POWERED_OFF
    client.close()
