"""The sandbox: what its containers share (namespaces, resolv.conf, storages, guest hooks), and the table of
them.

One object per agent, made by `__main__`, used by `service`. `_lock` guards the tables and is never held over
anything that blocks. What happens inside one container is `container`'s business.
"""

from __future__ import annotations

import os
import re
import signal
import stat
import threading
from typing import NamedTuple

from kata.agent import system
from kata.agent.adapt import HOOK_KINDS, Adaptation, adapt_spec
from kata.agent.container import Container
from kata.agent.crun import Crun
from kata.agent.errors import AgentError, AlreadyExists, BadRequest, UnknownContainer, WrongState
from kata.agent.oom import OomWatcher
from kata.agent.uevents import Uevents
from kata.linux import mounts, syscalls
from kata.linux.fds import write_file
from kata.oci.annotations import PID_TARGET

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kata.agent.config import Config
    from kata.agent.devices.hotplug import Hotplug
    from kata.agent.memagent import MemoryAgent
    from kata.agent.policy import Policy
    from kata.agent.storages.table import StorageTable
    from kata.linux.reaper import Reaper
    from kata.log import Logger
    from kata.oci.spec import Spec
    from kata.protocol.generated import agent_pb2

FOLDER = "/run/kata-containers"
NAMESPACES = "/run/sandbox-ns"
RESOLV_CONF = "/etc/resolv.conf"
CONTAINER_ID = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
DESTROY_TIMEOUT = 60.0
SANDBOX_ID = ""
"""Holds the sandbox's own storages in the table; no container can have this id."""


class Limits(NamedTuple):
    """What a host without usable cgroups cannot do; all True in a guest."""

    cgroups: bool = True
    """False: crun makes no cgroups at all, and limits of containers are not applied."""
    device_rules: bool = True
    """False: device rules are left out (loading them needs CAP_SYS_RESOURCE)."""


class Sandbox:
    """Everything that the agent knows."""

    def __init__(
        self, config: Config, reaper: Reaper, log: Logger, *, shut_down: Callable[[], None], limits: Limits
    ) -> None:
        self.config = config
        self.reaper = reaper
        self.log = log
        self.oom = OomWatcher()
        self.uevents = Uevents(log=log)
        self.uevents.start()
        self.policy: Policy | None = None
        """Which requests are answered; None for all. Replaced as a whole, with `policy_change` held."""
        self.policy_change = threading.Lock()
        self.memory_agent: MemoryAgent | None = None
        """Gives memory back; None unless it is enabled and the kernel can do it, see `no_memory_agent`."""
        self.no_memory_agent: AgentError = WrongState(
            "the memory agent is not enabled", hint="give the kernel parameter agent.mem_agent_enable"
        )
        self.guest_hooks: dict[str, Sequence[str]] = {}
        self._limits = limits
        options = [] if limits.cgroups else ["--cgroup-manager", "disabled"]
        self._crun = Crun(reaper, f"{FOLDER}/crun", options)
        self._shut_down = shut_down
        self._lock = threading.Lock()
        self._sandbox_id: str | None = None
        self._namespaces: dict[str, str] = {}
        self._pid_owner = ""
        self._containers: dict[str, Container] = {}
        self._pci: dict[str, dict[str, str]] = {}
        self._storages: StorageTable | None = None

    # Section: the sandbox itself

    def create(self, request: agent_pb2.CreateSandboxRequest) -> None:
        """Set up what containers share. The same sandbox again is fine, another one AlreadyExists."""
        if not self._claim(request.sandbox_id):
            return
        try:
            self._set_up(request)
        except BaseException:
            with self._lock:
                self._sandbox_id = None
            raise
        self.log.info("sandbox created", sandbox=request.sandbox_id)

    def destroy(self) -> None:
        """Remove all containers, release what blocks, and have the agent end."""
        with self._lock:
            left = list(self._containers.values())
        errors = [error for container in left if (error := self._remove_quietly(container)) is not None]
        if self._storages is not None:
            errors += release_all(self._storages)
        self.oom.close()
        self._shut_down()
        for error in errors:
            self.log.error("a container could not be removed", error=error)

    @property
    def hotplug(self) -> Hotplug:
        """Finds devices that the host announces. Its room is imported at first use."""
        from kata.agent.devices.hotplug import Hotplug

        return Hotplug(self.uevents, self.config.hotplug_timeout)

    @property
    def storages(self) -> StorageTable:
        """The table of mounted storages; made, and its room imported, at first use."""
        with self._lock:
            if self._storages is None:
                from kata.agent.storages.context import StorageContext
                from kata.agent.storages.table import StorageTable

                self._storages = StorageTable(StorageContext(self.hotplug, FOLDER, self.log))
            return self._storages

    # Section: containers

    def container(self, container_id: str) -> Container:
        """A container of the sandbox. Raises UnknownContainer."""
        with self._lock:
            found = self._containers.get(container_id)
        if found is None:
            raise UnknownContainer(container_id)
        return found

    def create_container(self, request: agent_pb2.CreateContainerRequest) -> None:
        """Make a container ready to start; after a failure nothing of it is left."""
        container_id = request.container_id
        container = self._register(container_id)
        try:
            self._build(container, request)
        except BaseException:
            if left := container.abandon():
                self.log.error("a container was not undone", container=container_id, error=left)
            self._forget(container_id)
            raise
        if container.cgroup and self._limits.cgroups:
            self.oom.watch(container_id, container.cgroup)
        self.log.info("container created", container=container_id)

    def remove_container(self, container_id: str, timeout: float | None) -> None:
        """Remove a container and all that belongs to it. Raises ContainerTimeout after `timeout` seconds."""
        self.container(container_id).remove(timeout, lambda: self._forget(container_id))

    def pci_map(self, container_id: str) -> dict[str, str]:
        """Host PCI address to guest PCI address, for the container's devices."""
        with self._lock:
            return self._pci.get(container_id, {})

    def cgroups(self) -> dict[str, str]:
        """The cgroups that containers have of their own, by container id."""
        with self._lock:
            found = {name: container.cgroup for name, container in self._containers.items() if container.cgroup}
        return found if self._limits.cgroups else {}

    def _register(self, container_id: str) -> Container:
        if not CONTAINER_ID.fullmatch(container_id) or len(container_id) > 255:
            raise BadRequest(f"Invalid container id {container_id!r}")
        if container_id in ("crun", "crun-scratch", "sandbox", "shared", "image", "virtual-volumes"):
            raise BadRequest(f"Invalid container id {container_id!r}: the name is the agent's own")
        made = Container(container_id, FOLDER, self._crun, pipe_size=self.config.container_pipe_size)
        with self._lock:
            if container_id in self._containers:
                raise AlreadyExists(f"container {container_id} exists")
            self._containers[container_id] = made
        return made

    def _forget(self, container_id: str) -> None:
        self.oom.forget(container_id)
        with self._lock:
            self._containers.pop(container_id, None)
            self._pci.pop(container_id, None)
            offered = self._pid_owner == container_id
            if offered:
                self._pid_owner = ""
                self._namespaces.pop("pid", None)
        if offered:  # a pid namespace whose first process is gone can only be left
            mounts.unmount(f"{NAMESPACES}/pid")

    def _build(self, container: Container, request: agent_pb2.CreateContainerRequest) -> None:
        from kata.oci.convert import spec_from_proto

        spec = spec_from_proto(request.OCI)
        container.prepare_bundle()
        spec = self._add_devices(container, request, spec)
        if request.storages:
            container.teardown.callback(self.storages.release, container.container_id)
            self.storages.add(request.storages, container.container_id)
        container.mount_rootfs(spec.get("root", {}).get("path", ""))
        if request.shared_mounts:
            spec = self._share_mounts(container, request, spec)
        container.lsms = system.security_modules()
        shared = self._shared_namespaces(pid=request.sandbox_pidns)
        if target := spec.get("annotations", {}).get(PID_TARGET):
            shared["pid"] = self._pid_namespace_of(target)
        adaptation = Adaptation(
            container_id=container.container_id,
            rootfs=container.rootfs,
            namespaces=shared,
            guest_hooks=self.guest_hooks,
            device_rules=self._limits.cgroups and self._limits.device_rules,
            lsms=container.lsms,
            root_disk=system.root_disk(),
        )
        container.create(adapt_spec(spec, adaptation))
        self._offer_pid_namespace(container)

    def _share_mounts(self, container: Container, request: agent_pb2.CreateContainerRequest, spec: Spec) -> Spec:
        from kata.agent import sharedmounts

        names = {container.container_id, *container_names(spec.get("annotations", {}))}
        folder = f"{container.bundle}/shared"
        container.teardown.callback(sharedmounts.detach, folder)
        made = []
        for number, entry in enumerate(sharedmounts.for_container(request.shared_mounts, names)):
            pid = self._find_named(entry.src_ctr).process("").exit.pid
            made.append(sharedmounts.attach(entry, pid, f"{folder}/{number}", in_thread))
        return {**spec, "mounts": [*spec.get("mounts", []), *made]}

    def _find_named(self, name: str) -> Container:
        """The container of this id, or with this name in its annotations. Raises UnknownContainer."""
        with self._lock:
            found = list(self._containers.values())
        for container in found:
            if name == container.container_id or name in container_names(container.annotations):
                return container
        raise UnknownContainer(name)

    def _add_devices(self, container: Container, request: agent_pb2.CreateContainerRequest, spec: Spec) -> Spec:
        visible = self.config.visible_cdi_devices
        asks_for_cdi = visible or any(key.startswith("cdi.k8s.io/") for key in spec.get("annotations", {}))
        if not request.devices and not asks_for_cdi:
            return spec
        from kata.agent.devices.batch import adapt_devices
        from kata.agent.devices.context import CdiSettings, DeviceContext

        settings = CdiSettings(self.config.cdi_timeout, visible) if asks_for_cdi else None
        adapted = adapt_devices(request.devices, spec, DeviceContext(self.hotplug, self.log, settings))
        with self._lock:
            self._pci[container.container_id] = adapted.pci
        return adapted.spec

    # Section: namespaces

    def _shared_namespaces(self, *, pid: bool) -> dict[str, str]:
        with self._lock:
            shared = dict(self._namespaces)
        if not pid:
            shared.pop("pid", None)
        return shared

    def _pid_namespace_of(self, container_id: str) -> str:
        """Where the pid namespace of a container that runs is. Raises UnknownContainer, WrongState."""
        first = self.container(container_id).process("").exit
        if first.wait(0) is not None:
            raise WrongState(f"the container {container_id} has ended, whose processes were to be joined")
        return f"/proc/{first.pid}/ns/pid"

    def _offer_pid_namespace(self, container: Container) -> None:
        """The first container's pid namespace is the sandbox's; containers that share one join it."""
        with self._lock:
            if self._pid_owner or self._sandbox_id is None:
                return
            self._pid_owner = container.container_id
        path = f"{NAMESPACES}/pid"
        pin_namespace(f"/proc/{container.process('').exit.pid}/ns/pid", path)
        with self._lock:
            self._namespaces["pid"] = path

    # Section: setting up

    def _claim(self, sandbox_id: str) -> bool:
        with self._lock:
            if self._sandbox_id is not None and self._sandbox_id != sandbox_id:
                raise AlreadyExists(f"this agent runs the sandbox {self._sandbox_id}")
            fresh = self._sandbox_id is None
            self._sandbox_id = sandbox_id
        return fresh

    def _set_up(self, request: agent_pb2.CreateSandboxRequest) -> None:
        mounts.unmount_below(FOLDER)
        mounts.remove_tree(FOLDER)
        os.makedirs(f"{FOLDER}/sandbox", mode=0o755)
        for module in request.kernel_modules:
            system.load_module(self.reaper, module.name, module.parameters)
        self._make_namespaces(request.hostname)
        if request.storages:
            self.storages.add(request.storages, SANDBOX_ID)
        if request.guest_hook_path:
            self.guest_hooks = self._scan_hooks(request.guest_hook_path)
        if request.dns:
            write_resolv_conf(request.dns)

    def _make_namespaces(self, hostname: str) -> None:
        mounts.unmount_below(NAMESPACES)
        os.makedirs(NAMESPACES, mode=0o755, exist_ok=True)
        made = {kind: f"{NAMESPACES}/{kind}" for kind in ("ipc", "uts")}
        in_thread(lambda: _unshare_and_pin(made, hostname))
        with self._lock:
            self._namespaces = made

    def _scan_hooks(self, folder: str) -> dict[str, Sequence[str]]:
        try:
            return find_hooks(folder)
        except OSError as error:
            self.log.warn("guest hooks cannot be read", folder=folder, error=error)
            return {}

    def _remove_quietly(self, container: Container) -> Exception | None:
        try:
            container.remove(DESTROY_TIMEOUT, lambda: self._forget(container.container_id))
        except (AgentError, OSError, WrongState) as error:
            return error
        return None


def release_all(storages: StorageTable) -> list[Exception]:
    """Unmount every storage that is left; what failed on the way."""
    try:
        storages.release_all()
    except AgentError as error:
        return [error]
    return []


def _unshare_and_pin(paths: dict[str, str], hostname: str) -> None:
    """In a thread of its own: new ipc and uts namespaces that live on as bind mounts when the thread ends."""
    syscalls.unshare(syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWUTS)
    if hostname:
        syscalls.sethostname(hostname)
    for kind, path in paths.items():
        pin_namespace(f"/proc/thread-self/ns/{kind}", path)


def pin_namespace(source: str, target: str) -> None:
    """Keep a namespace alive as a bind mount on the file `target`. Raises OSError."""
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    mounts.bind(source, target)


def in_thread(work: Callable[[], None]) -> None:
    """Do something that changes the calling thread for ever, in one that ends. Raises what `work` raises."""
    errors: list[BaseException] = []

    def catch() -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - raised again by the caller's thread
            errors.append(error)

    thread = threading.Thread(target=catch, name="namespaces", daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]


def find_hooks(folder: str) -> dict[str, Sequence[str]]:
    """The programs in the sub-folders of a guest hook directory, by kind, in order of name.

    Raises OSError.
    """
    found: dict[str, Sequence[str]] = {}
    for kind in HOOK_KINDS:
        inside = f"{folder}/{kind}"
        names = sorted(os.listdir(inside)) if os.path.isdir(inside) else []
        found[kind] = [path for name in names if _is_program(path := f"{inside}/{name}")]
    return found


def _is_program(path: str) -> bool:
    info = os.stat(path)
    return stat.S_ISREG(info.st_mode) and bool(info.st_mode & 0o111)


def write_resolv_conf(lines: Sequence[str]) -> None:
    """Give the guest its name servers: /etc may be read-only, so a file of ours is bound over.

    Raises OSError.
    """
    path = f"{FOLDER}/sandbox/resolv.conf"
    write_file(path, "".join(f"{line}\n" for line in lines).encode(), 0o644)
    mounts.unmount(RESOLV_CONF)
    mounts.bind(path, RESOLV_CONF)


def container_names(annotations: dict[str, str]) -> set[str]:
    """What the container is called in its pod, by its annotations."""
    from kata.agent.sharedmounts import NAMES

    return {annotations[key] for key in NAMES if annotations.get(key)}


def check_signal(signo: int) -> int:
    """A signal number that Linux knows (0 only asks whether the process is there). Raises BadRequest."""
    if not 0 <= signo <= signal.SIGRTMAX:
        raise BadRequest(f"{signo} is no signal")
    return signo
