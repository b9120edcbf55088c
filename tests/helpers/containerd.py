"""A containerd of the tests' own: private folders and sockets, our shim on its PATH, and `ctr` to drive it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path

from google.protobuf.message import Message

from kata.protocol.client import Client
from kata.protocol.generated.host import task_pb2
from kata.protocol.transport import dial
from tests.helpers.cli import kata

ROOT = Path(__file__).parents[2]
RUNTIME = "io.containerd.kata.v2"
IMAGE = "docker.io/library/busybox:latest"
PAUSE = "localhost/pause:latest"
START_TIMEOUT = 30.0
TIMEOUT = 180

CONFIG = """
version = 2
root = "{folder}/root"
state = "{folder}/state"
[grpc]
  address = "{folder}/c.sock"
[ttrpc]
  address = "{folder}/t.sock"
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  disable_apparmor = true
  sandbox_image = "{pause}"
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{folder}/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = "kata"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.kata]
    runtime_type = "{runtime}"
    privileged_without_host_devices = true
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.together]
    runtime_type = "{runtime}"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.together.options]
      TypeUrl = "runtimeoptions.v1.Options"
      ConfigPath = "{folder}/together.toml"
"""


class Containerd:
    """A running daemon below `folder`, a short path (a unix socket's has at most 107 bytes).

    `netns`: the network namespace that it takes for the host's, by its path. `inside`: what to run it with,
    so that it is somewhere else.
    """

    def __init__(self, folder: Path, netns: str = "", inside: Sequence[str] = ()) -> None:
        self.folder = folder
        self.namespace = "default"
        self._prefix = ["nsenter", f"--net={netns}"] if netns else list(inside)
        self.log = folder / "containerd.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> Path:
        """containerd's own socket."""
        return self.folder / "c.sock"

    @property
    def pid(self) -> int:
        """The daemon's process id."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it and wait until it answers."""
        config = self.folder / "config.toml"
        (self.folder / "together.toml").write_text("[hypervisor.qemu]\n[runtime]\nsandbox_cgroup_only = true\n")
        config.write_text(CONFIG.format(folder=self.folder, pause=PAUSE, runtime=RUNTIME))
        path = f"{ROOT / 'bin'}:{os.environ['PATH']}"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._prefix, "containerd", "-c", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PATH": path},
                start_new_session=True,
            )
        deadline = time.monotonic() + START_TIMEOUT
        while self.ctr("version", check=False).returncode:
            assert self._process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End the daemon; its shims go on."""
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(30)

    def import_image(self) -> None:
        """Give it the busybox image of the local store, under its long name."""
        archive = self.folder / "busybox.tar"
        kata("image", "export", "busybox", str(archive), check=True)
        self.ctr("image", "import", "--base-name", IMAGE.removesuffix(":latest"), str(archive))

    def import_pause(self) -> None:
        """Give it the image of pods' first containers, made here: busybox, which waits and reaps."""
        archive = self.folder / "pause.tar"
        write_image(archive, PAUSE, ["/bin/sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1000 & wait; done"])
        self.ctr("image", "import", str(archive))

    def ctr(
        self, *words: str, stdin: bytes = b"", check: bool = True, timeout: float = TIMEOUT
    ) -> subprocess.CompletedProcess[bytes]:
        """Run ctr to its end."""
        command = ["ctr", "--address", str(self.address), "--namespace", self.namespace, *words]
        done = subprocess.run(command, input=stdin, capture_output=True, timeout=timeout, check=False)
        assert not check or done.returncode == 0, f"{words}: {done.returncode}\n{done.stderr.decode()}"
        return done

    def popen(self, *words: str, **options: object) -> subprocess.Popen[bytes]:
        """Start ctr and leave it running."""
        command = ["ctr", "--address", str(self.address), "--namespace", self.namespace, *words]
        return subprocess.Popen(command, **options)  # type: ignore[call-overload,no-any-return]

    def run(self, name: str, *command: str, options: tuple[str, ...] = ()) -> None:
        """A detached container that runs `command`."""
        self.ctr("run", "-d", "--runtime", RUNTIME, *options, IMAGE, name, *command)

    def exec(self, name: str, exec_id: str, *command: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """One more process in a container, to its end; any exit code."""
        return self.ctr("task", "exec", "--exec-id", exec_id, name, *command, stdin=stdin, check=False)

    def status(self, name: str) -> str:
        """What `ctr task ls` says of a task; empty when there is none."""
        for line in self.ctr("task", "ls").stdout.decode().splitlines()[1:]:
            if line.split()[0] == name:
                return line.split()[2]
        return ""

    def await_status(self, name: str, status: str, timeout: float = 60.0) -> None:
        """Until the task is that."""
        deadline = time.monotonic() + timeout
        while self.status(name) != status:
            assert time.monotonic() < deadline, f"{name} is {self.status(name)!r}, not {status}"
            time.sleep(0.2)

    def remove(self, name: str) -> None:
        """Kill and remove a container, whatever it does."""
        self.ctr("task", "kill", "-s", "KILL", name, check=False)
        self.await_end(name)
        self.ctr("task", "delete", name, check=False)
        self.ctr("container", "rm", name, check=False)

    def await_end(self, name: str) -> None:
        """Until the task is stopped or gone."""
        deadline = time.monotonic() + 60.0
        while self.status(name) not in ("STOPPED", ""):
            assert time.monotonic() < deadline, f"{name} still runs"
            time.sleep(0.2)

    def update(self, name: str, **resources: object) -> None:
        """Task.Update, as the kubelet's changes reach a shim; `ctr` has no command for it."""
        request = task_pb2.UpdateTaskRequest(id=name)
        request.resources.type_url = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources"
        request.resources.value = json.dumps(resources).encode()
        self._ask_shim(name, "Update", request)

    def start_task(self, name: str) -> None:
        """Task.Start of one that was created and whose client died then: `ctr task start` would create it again."""
        self._ask_shim(name, "Start", task_pb2.StartRequest(id=name))

    def shims(self) -> list[int]:
        """The shims that this daemon has started."""
        return self._processes(b"-namespace")

    def cleaners(self) -> list[int]:
        """Those of them that only clear up after another, which is gone."""
        return sorted(set(self._processes(b"delete")) & set(self.shims()))

    def clients(self) -> list[int]:
        """Every ctr that talks to it now."""
        return self._processes(b"ctr")

    def _ask_shim(self, name: str, method: str, request: Message) -> None:
        bundle = self.folder / "state/io.containerd.runtime.v2.task" / self.namespace / name
        with Client(dial((bundle / "address").read_text(), 10.0)) as client:
            client.call(f"containerd.task.v2.Task/{method}", request, timeout=180.0)

    def _processes(self, word: bytes) -> list[int]:
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
                if str(self.address).encode() in words and word in words:
                    found.append(int(entry.name))
        return sorted(found)


def write_image(archive: Path, name: str, entrypoint: list[str]) -> None:
    """An image of one layer that holds busybox alone, in the form of `docker save`."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        tar.add(shutil.which("busybox") or "", "bin/busybox")
        for applet in ("sh", "sleep"):
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname, link.mode = tarfile.LNKTYPE, "bin/busybox", 0o755
            tar.addfile(link)
    data = layer.getvalue()
    config = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine],
        "os": "linux",
        "config": {"Entrypoint": entrypoint, "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(data).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    with tarfile.open(archive, "w") as tar:
        for path, content in (
            ("layer.tar", data),
            ("config.json", json.dumps(config).encode()),
            ("manifest.json", json.dumps(manifest).encode()),
        ):
            info = tarfile.TarInfo(path)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def write_root(folder: Path) -> None:
    """A root file system that holds busybox and its applets."""
    (folder / "bin").mkdir(parents=True)
    for name in ("proc", "dev", "sys", "tmp"):
        (folder / name).mkdir()
    busybox = shutil.copy(shutil.which("busybox") or "", folder / "bin/busybox")
    for applet in subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split():
        if applet != "busybox":
            os.link(busybox, folder / "bin" / applet)
