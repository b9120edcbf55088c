"""A sandbox for attackers: containers of any specification, a root shell of its guest, and its agent's protocol.

It is the product's own `Sandbox`, restored from a template, so that one costs about a second. Whoever attacks has what
a hostile guest has: the guest's root, and every request to the agent. What is attacked is looked at from the host.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, cast

from google.protobuf.message import Message

from kata import paths
from kata.ctl import console
from kata.log import Logger
from kata.oci.spec import Mount, Process, Spec
from kata.sandbox import spec as specs
from kata.sandbox.config import ContainerConfig, GuestAssets, Rootfs, SandboxConfig, SharedFs, SharedRootfs, Sharing
from kata.sandbox.container import Container
from kata.sandbox.sandbox import Sandbox
from tests.helpers.containerd import write_root

TIMEOUT = 60.0
Edit = Callable[[Spec], Spec]
"""What a test makes of an ordinary specification."""


class Said(NamedTuple):
    """How a process ended, and what it said."""

    code: int
    out: str
    err: str = ""


class Arena:
    """A running sandbox. Context manager. `folder` is empty; host directories for it are made there."""

    def __init__(self, folder: Path, image: Path, *, share: SharedFs | None = "virtio-fs", **options: object) -> None:
        self.folder = folder
        self._count = 0
        assets = paths.assets_dir()
        fields: dict[str, object] = {
            "id": f"arena-{os.urandom(4).hex()}",
            "hostname": "arena",
            "assets": GuestAssets(str(assets / "vmlinuz"), str(assets / "initrd.img"), str(image)),
            "network": "none",
            "share": share is not None,
            "sharing": Sharing(way=share or "virtio-fs"),
            "shm_bytes": 1 << 20,
            "debug_console": True,
            "template": True,
            **options,
        }
        self.log = os.open(folder / "runtime.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)
        self.sandbox = Sandbox(SandboxConfig(**fields), Logger(self.log))  # type: ignore[arg-type]

    def __enter__(self) -> Arena:
        self.sandbox.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.sandbox.stop()
        os.close(self.log)

    @property
    def directory(self) -> Path:
        """The VM's folder on the host."""
        return paths.vm_dir() / self.sandbox.config.id

    def root(self, name: str) -> Path:
        """A new root file system with busybox in it."""
        path = self.folder / "roots" / name
        write_root(path)
        return path

    def config(self, name: str, rootfs: Rootfs | Path, edit: Edit, *args: str) -> ContainerConfig:
        """An ordinary container that `edit` has changed."""
        process = specs.ProcessOptions(args=args or ("sleep", "100000"), env=(specs.DEFAULT_PATH,))
        made = edit(specs.container(specs.ContainerOptions(id=name, process=process, hostname="arena")))
        root = SharedRootfs(str(rootfs)) if isinstance(rootfs, Path) else rootfs
        return ContainerConfig(id=name, spec=cast("dict[str, object]", made), rootfs=root)

    def create(self, name: str, rootfs: Rootfs | Path, edit: Edit = lambda spec: spec, *args: str) -> Container:
        """A container that waits for its start."""
        return self.sandbox.create_container(self.config(name, rootfs, edit, *args))

    def start(self, name: str, rootfs: Rootfs | Path, edit: Edit = lambda spec: spec, *args: str) -> Container:
        """A container that runs."""
        container = self.create(name, rootfs, edit, *args)
        container.start(lambda _: None)
        return container

    def remove(self, name: str) -> None:
        """Take a container down."""
        self.sandbox.remove_container(name)

    def exec(self, name: str, script: str, **changes: object) -> Said:
        """A shell's script in a container; `changes` are fields of the process."""
        options = specs.ProcessOptions(args=("sh", "-c", script), env=(specs.DEFAULT_PATH,))
        return self.execute(name, cast("Process", {**specs.process(options), **changes}))

    def execute(self, name: str, process: Process) -> Said:
        """One more process of a container, to its end."""
        self._count += 1
        exec_id = f"e{self._count}"
        agent = self.sandbox.agent
        agent.exec_process(name, exec_id, process)
        return self.said(name, exec_id)

    def said(self, name: str, exec_id: str) -> Said:
        """All that a process has said, and its exit code."""
        agent = self.sandbox.agent
        streams = []
        for stderr in (False, True):
            data = b""
            while piece := agent.ask_output(name, exec_id, stderr=stderr, size=65536)():
                data += piece
            streams.append(data.decode(errors="replace"))
        return Said(agent.ask_end(name, exec_id)(), *streams)

    def guest(self, script: str) -> Said:
        """A shell's script as the guest's root, outside of all containers; both outputs as one."""
        output = io.BytesIO()
        with console.connect(self.sandbox.console_url) as connection:
            code = console.run(connection, script, output)
        return Said(code, output.getvalue().decode(errors="replace").strip("\n"))

    def call(self, method: str, request: Message, service: str = "grpc.AgentService") -> Message:
        """Any request to the agent, as it is. Raises RpcError."""
        forwarded = self.sandbox.agent.forward(f"{service}/{method}", request.SerializeToString(), TIMEOUT)
        from kata.protocol.messages import method as found

        return found(service, method).response.FromString(forwarded)


def mounted(*mounts: Mount) -> Edit:
    """These mounts behind the ordinary ones."""
    return lambda spec: {**spec, "mounts": [*spec.get("mounts", []), *mounts]}


def bind(source: object, destination: str, *options: str) -> Mount:
    """A bind mount of the host's."""
    return {
        "destination": destination,
        "type": "bind",
        "source": str(source),
        "options": ["rbind", *(options or ("rw",))],
    }
