"""One container: bundle, crun's state, its first process and its execs, from create to removal.

Called by `service` through `sandbox`. Locking: `_lock` guards the fields only and is never held over anything
that blocks; who may do what is decided by `state`. Adapting the spec is `adapt`'s business, streams
`process`'s.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time

from kata.agent import rootfs
from kata.agent.adapt import adapt_exec, limited_by
from kata.agent.errors import (
    AgentError,
    AlreadyExists,
    ContainerTimeout,
    UnknownProcess,
    Unsupported,
    WrongState,
)
from kata.agent.process import Plumbing, Process
from kata.agent.teardown import Teardown
from kata.linux import cgroup, cgroup1, mounts
from kata.linux.fds import read_text, write_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from kata.agent.crun import Crun
    from kata.oci import spec as oci

KILL_TIMEOUT = 30.0
"""Seconds for a container's processes to be gone after SIGKILL."""

CREATING, CREATED, RUNNING, REMOVING = "creating", "created", "running", "removing"


class Container:
    """A container of the sandbox. `teardown` collects what has to be undone, in reverse order, at removal."""

    def __init__(self, container_id: str, folder: str, crun: Crun, *, pipe_size: int = 0) -> None:
        self.container_id = container_id
        self.bundle = f"{folder}/{container_id}"
        self.rootfs = f"{self.bundle}/rootfs"
        self.cgroup = ""
        """Its folder in cgroup v2; "" in a guest with v1."""
        self.legacy: dict[str, str] = {}
        """Its folders in cgroup v1, by controller; none in a guest with v2."""
        self.lsms: tuple[str, ...] = ()
        self.state = CREATING
        self.teardown = Teardown()
        self._crun = crun
        self._consoles = f"{folder}/.consoles"
        self._pipe_size = pipe_size
        self._cgroups_path = ""
        """The cgroup that creation makes, as in the spec."""
        self._lock = threading.Lock()
        self._init: Process | None = None
        self._execs: dict[str, Process | None] = {}
        self._spec: oci.Spec = {}
        self._removal: Removal | None = None

    # Section: making it

    def prepare_bundle(self) -> None:
        """Make the bundle's folders. Raises OSError."""
        os.makedirs(self.bundle, mode=0o755, exist_ok=True)
        self.teardown.callback(self._remove_bundle)
        os.makedirs(self.rootfs, mode=0o755, exist_ok=True)

    def mount_rootfs(self, source: str) -> None:
        """Make the root file system at `source` (a path of the guest) visible in the bundle.

        Raises OSError, and BadRequest for one that crun must not see.
        """
        if os.path.realpath(source) != os.path.realpath(self.rootfs):
            mounts.bind(source, self.rootfs, recursive=True)
            self.teardown.callback(mounts.unmount_below, self.rootfs)
        rootfs.check(self.rootfs)

    def create(self, spec: oci.Spec) -> None:
        """Have crun make the container from the adapted spec. Raises ContainerError with what crun said."""
        process = spec.get("process", {})
        wanted = spec.get("linux", {}).get("cgroupsPath", "")
        # One that is there already has somebody else in it.
        self._cgroups_path = "" if wanted and cgroup_exists(wanted) else wanted
        check_limits(spec.get("linux", {}).get("resources", {}))
        write_file(f"{self.bundle}/config.json", json.dumps(spec).encode())
        self.teardown.callback(self._close_processes)
        self.teardown.callback(self._delete)
        with Plumbing(
            terminal=process.get("terminal", False), folder=self._consoles, pipe_size=self._pipe_size
        ) as plumbing:
            ended = self._crun.create(self.container_id, self.bundle, plumbing)
            made = Process(self.container_id, ended, plumbing.streams())
        with self._lock:
            self._spec, self._init, self.state = spec, made, CREATED
        if cgroup1.is_mounted():
            self.legacy = cgroup1.folders_of(ended.pid)
        else:
            self.cgroup = cgroup.cgroup_of(ended.pid)

    @property
    def annotations(self) -> dict[str, str]:
        """Those of its specification; none before it is created."""
        with self._lock:
            return dict(self._spec.get("annotations", {}))

    # Section: its life

    def start(self) -> None:
        """Let the first process go on to the command. Raises WrongState, ContainerError."""
        self._require(CREATED)
        self._crun.start(self.container_id, hooks=bool(self._spec.get("hooks", {}).get("poststart")))
        with self._lock:
            if self.state == CREATED:
                self.state = RUNNING

    def exec(self, exec_id: str, process: oci.Process) -> None:
        """Start another process under `exec_id`, which must be new. Raises AlreadyExists, ContainerError."""
        self._require(RUNNING)
        self._reserve(exec_id)
        try:
            made = self._start_exec(exec_id, adapt_exec(process, self._spec.get("process", {}), self.lsms))
        except BaseException:
            with self._lock:
                self._execs.pop(exec_id, None)
            raise
        with self._lock:
            self._execs[exec_id] = made
            orphaned = self.state == REMOVING
        if orphaned:
            made.close()
            raise WrongState(f"container {self.container_id} is being removed")

    def process(self, exec_id: str) -> Process:
        """The exec, or the first process for an empty id or the container's own. Raises UnknownProcess."""
        with self._lock:
            found = self._init if exec_id in ("", self.container_id) else self._execs.get(exec_id)
        if found is None:
            raise UnknownProcess(f"process {exec_id!r} not found in container {self.container_id}")
        return found

    @property
    def spec(self) -> oci.Spec:
        """What crun was given; empty before the container is created."""
        with self._lock:
            return self._spec

    def drop_spent(self, exec_id: str) -> None:
        """Forget an exec that nobody can want anything from any more."""
        with self._lock:
            found = self._execs.get(exec_id)
            if found is None or not found.spent():
                return
            del self._execs[exec_id]
        found.close()

    def signal(self, exec_id: str, signo: int) -> None:
        """Send a signal: to an exec, or to the first process with the rules of a container's init.

        SIGKILL for init ends every process of the container. SIGTERM for an init that would not even see it
        (the kernel drops signals with default action for the first process of a pid namespace) becomes
        SIGKILL. That the init is gone already is no error; for an exec it is ProcessLookupError.
        """
        target = self.process(exec_id)
        if target is not self._init:
            target.exit.send(signo)
            return
        if signo == signal.SIGTERM and not handles_signal(target.exit.pid, signo):
            signo = signal.SIGKILL
        if signo == signal.SIGKILL:
            self._kill_all()
            return
        try:
            target.exit.send(signo)
        except ProcessLookupError:
            pass

    def pause(self) -> None:
        """Freeze it. Raises WrongState, ContainerError."""
        self._require(RUNNING)
        self._crun.pause(self.container_id)

    def resume(self) -> None:
        """Thaw it. Raises WrongState, ContainerError."""
        self._require(RUNNING)
        self._crun.resume(self.container_id)

    def update(self, resources: oci.LinuxResources) -> None:
        """Apply new limits; which devices it may use stays as it was created. Raises WrongState, ContainerError."""
        self._require(CREATED, RUNNING)
        check_limits(resources)
        path = f"{self.bundle}/resources-{os.urandom(4).hex()}.json"
        # crun would put device rules in the place of those from the creation, the guest's own among them.
        limits = {key: value for key, value in resources.items() if key != "devices"}
        write_file(path, json.dumps(limits).encode())
        try:
            self._crun.update(self.container_id, path)
        finally:
            os.unlink(path)

    # Section: its end

    def remove(self, timeout: float | None, done: Callable[[], None]) -> None:
        """Undo everything, then call `done`. After `timeout` seconds ContainerTimeout; the removal goes on.

        Several callers share one removal. After a failure (the first one is raised, the rest was done all the
        same) another call tries again.
        """
        with self._lock:
            if self.state == CREATING:
                raise WrongState(f"container {self.container_id} is being created")
            self.state = REMOVING
            if self._removal is None or self._removal.failed:
                self._removal = Removal(self.teardown, done)
            removal = self._removal
        removal.wait(timeout, self.container_id)

    def abandon(self) -> Exception | None:
        """Undo a creation that failed half way; what could not be undone, which is left."""
        self.state = REMOVING
        try:
            self.teardown.close()
        except (OSError, AgentError) as error:
            return error
        return None

    def _delete(self) -> None:
        if self._init is not None:
            self._kill_all()
            if self._init.exit.wait(KILL_TIMEOUT) is None:
                raise ContainerTimeout(f"the processes of {self.container_id} did not end after SIGKILL")
            self._crun.delete(self.container_id)
            return
        try:
            self._crun.delete(self.container_id)
        finally:
            self._clear_away()

    def _clear_away(self) -> None:
        """What a crun that was killed half way leaves, and its delete may not find: processes, cgroup, state."""
        deadline = time.monotonic() + KILL_TIMEOUT
        path = f"{cgroup.ROOT}{self._cgroups_path}"
        if cgroup1.is_mounted():
            folders = cgroup1.folders_at(self._cgroups_path) if self._cgroups_path else {}
            if folders:
                cgroup1.kill(folders)
            for folder in set(map(os.path.realpath, folders.values())):
                cgroup.remove(folder, deadline)
        elif self._cgroups_path and os.path.isdir(path):
            cgroup.kill(path)
            cgroup.remove(path, deadline)
        self._crun.forget(self.container_id)

    def _kill_all(self) -> None:
        """SIGKILL every process of the container: by its cgroup, unless that is the agent's own as well.

        The cgroup is of no use afterwards: what is cloned straight into it (CLONE_INTO_CGROUP, as crun does) dies
        at once, seen on Linux 6.18. crun's delete removes it before anybody can make a container there again.
        """
        assert self._init is not None
        if self.cgroup and self.cgroup != cgroup.cgroup_of(os.getpid()):
            try:
                cgroup.kill(self.cgroup)
            except FileNotFoundError:
                pass  # gone together with its last process
        elif self.legacy and self.legacy != cgroup1.folders_of(os.getpid()):
            try:
                cgroup1.kill(self.legacy)
            except FileNotFoundError:
                pass  # likewise
        try:
            self._init.exit.send(signal.SIGKILL)
        except ProcessLookupError:
            pass

    def _close_processes(self) -> None:
        with self._lock:
            found = [self._init, *self._execs.values()]
            self._execs.clear()
        for process in found:
            if process is not None:
                process.close()

    def _remove_bundle(self) -> None:
        mounts.unmount_below(self.bundle)
        mounts.remove_tree(self.bundle)

    def _start_exec(self, exec_id: str, process: oci.Process) -> Process:
        path = f"{self.bundle}/process-{os.urandom(4).hex()}.json"
        write_file(path, json.dumps(process).encode())
        try:
            with Plumbing(
                terminal=process.get("terminal", False), folder=self._consoles, pipe_size=self._pipe_size
            ) as plumbing:
                ended = self._crun.exec(self.container_id, path, plumbing)
                return Process(exec_id, ended, plumbing.streams())
        finally:
            os.unlink(path)

    def _reserve(self, exec_id: str) -> None:
        self.drop_spent(exec_id)
        with self._lock:
            if exec_id in self._execs or exec_id in ("", self.container_id):
                raise AlreadyExists(f"process {exec_id!r} exists in container {self.container_id}")
            self._execs[exec_id] = None

    def _require(self, *states: str) -> None:
        with self._lock:
            if self.state not in states:
                wanted = " or ".join(states)
                raise WrongState(f"container {self.container_id} is {self.state}, it must be {wanted}")


class Removal:
    """One run of a teardown in a thread of its own, for any number of waiting callers."""

    def __init__(self, teardown: Teardown, done: Callable[[], None]) -> None:
        self._teardown = teardown
        self._done = done
        self._ended = threading.Event()
        self._error: BaseException | None = None
        threading.Thread(target=self._run, name="removal", daemon=True).start()

    @property
    def failed(self) -> bool:
        """Whether it has ended with an error."""
        return self._error is not None

    def wait(self, timeout: float | None, container_id: str) -> None:
        """Until it has ended.

        Raises ContainerTimeout after `timeout` seconds, or the teardown's own error.
        """
        if not self._ended.wait(timeout):
            raise ContainerTimeout(f"ETIME: removing container {container_id} takes longer than {timeout} s")
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            self._teardown.close()
            self._done()
        except Exception as error:  # noqa: BLE001 - carried over to the waiting threads
            self._error = error
        finally:
            self._ended.set()


def cgroup_exists(path: str) -> bool:
    """Whether there is a cgroup at this path of a spec."""
    return bool(cgroup1.folders_at(path)) if cgroup1.is_mounted() else os.path.isdir(f"{cgroup.ROOT}{path}")


def check_limits(resources: oci.LinuxResources) -> None:
    """Raise Unsupported for a limit that this guest's cgroup v1 cannot have; crun would only miss a folder."""
    missing = cgroup1.lacking(limited_by(resources)) if cgroup1.is_mounted() else []
    if missing:
        raise Unsupported(
            f"this guest's kernel has no controller {missing[0]} for cgroup v1",
            hint="use cgroup v2, or a kernel with CONFIG_MEMCG_V1 and CONFIG_CPUSETS_V1",
        )


def handles_signal(pid: int, signo: int) -> bool:
    """Whether process `pid` blocks, ignores or catches a signal (/proc/<pid>/status, proc(5)).

    A process that is gone handles nothing.
    """
    try:
        status = read_text(f"/proc/{pid}/status")
    except OSError:
        return False
    return bool(signal_masks(status) >> (signo - 1) & 1)


def signal_masks(status: str) -> int:
    """The signals that a /proc/<pid>/status says are blocked, ignored or caught, as one bit mask."""
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    mask = 0
    for name in ("SigBlk", "SigIgn", "SigCgt"):
        mask |= int(fields.get(name, "0").strip(), 16)
    return mask
