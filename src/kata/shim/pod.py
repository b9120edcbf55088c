"""The shim's state: one sandbox and the tasks in it. Called by `service`; everything may be called at once.

The lock guards the tables and is never held over anything that takes time. The first task's Create boots the virtual
machine; the end of that task takes it down, after its exit was told.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, cast

from kata.errors import KataError
from kata.log import LEVELS, Logger
from kata.management.durations import Durations
from kata.oci.annotations import PID_TARGET
from kata.paths import monitor_socket
from kata.protocol.generated.host import events_pb2
from kata.sandbox import health
from kata.sandbox.config import ContainerConfig
from kata.sandbox.errors import ConflictError, ExistsError, NotFoundError
from kata.sandbox.process import ProcessState
from kata.sandbox.reconcile import reconcile
from kata.sandbox.sandbox import Sandbox
from kata.sandbox.store import Record, Store, living
from kata.shim.bundle import annotations_of, read_checked, write_once
from kata.shim.configure import Configured, configure, container_spec
from kata.shim.events import timestamp
from kata.shim.hooks import HostHooks, network_namespace
from kata.shim.kind import BUNDLE_PATH, CONTAINER_TYPE, SANDBOX, Kind, kind_of
from kata.shim.memory import watch_memory
from kata.shim.owner import Owner
from kata.shim.portforward import Forwarder, start_forwarder
from kata.shim.rootfs import guest_rootfs, unmount_rootfs
from kata.shim.standin import StandIn, joined_pid
from kata.shim.stdio import require_fifos
from kata.shim.task import Creation, StdioNames, Task

if TYPE_CHECKING:
    from collections.abc import Callable

    from kata.management.server import ManagementServer
    from kata.oci.spec import LinuxResources, Spec
    from kata.protocol.generated.host import task_pb2
    from kata.sandbox.config import Rootfs
    from kata.sandbox.container import Container
    from kata.sandbox.process import Process
    from kata.shim.events import Publisher

TEARDOWN_TIMEOUT = 30.0
"""Seconds that Delete waits for the virtual machine to be gone."""
REMOVE_KILL_TIMEOUT = 10.0
CREATE_TIMEOUT = 120.0
"""Seconds for which requests wait that concern a task which is being created."""


class Pod:
    """The sandbox of this process, and its tasks by container id."""

    def __init__(
        self,
        namespace: str,
        publisher: Publisher,
        log: Logger,
        store: Store | None = None,
        rpcs: Durations | None = None,
    ) -> None:
        self._namespace = namespace
        self._owner = Owner()
        self._rpcs = rpcs or Durations()
        self._agent_rpcs = Durations()
        self._management: ManagementServer | None = None
        self._publisher = publisher
        self._log = log
        self._store = store or Store()
        self._lock = threading.Lock()
        self._tasks: dict[str, Task | Creation] = {}
        self._sandbox: Sandbox | None = None
        self._record: Record | None = None
        self._configured: Configured | None = None
        self._hold = -1
        self._forwarder: Forwarder | None = None
        self._down = threading.Event()
        self._down.set()

    # Section: a task's life

    def create(self, request: task_pb2.CreateTaskRequest) -> Task:
        """Create a task; the first one of a pod starts its sandbox. After a failure nothing of it is left."""
        creation = Creation(request)
        with self._lock:
            if request.id in self._tasks:
                raise ExistsError(f"task {request.id} exists already")
            self._tasks[request.id] = creation
        try:
            task = self._create(request)
            with self._lock:
                self._tasks[request.id] = task
        except BaseException:
            with self._lock:
                del self._tasks[request.id]
            raise
        finally:
            creation.ended.set()
        return task

    def task(self, container_id: str) -> Task:
        """The task of that id, once it is created. Raises NotFoundError."""
        found = self._find(container_id)
        if isinstance(found, Creation):
            found.ended.wait(CREATE_TIMEOUT)
            found = self._find(container_id)
        if not isinstance(found, Task):
            raise NotFoundError(f"task {container_id} not found")
        return found

    def state(self, container_id: str, exec_id: str) -> task_pb2.StateResponse:
        """What a process is and does, at once. Raises NotFoundError."""
        found = self._find(container_id)
        if isinstance(found, Creation) and not exec_id:
            return found.state(self.pid)
        return self.task(container_id).state(exec_id)

    def _find(self, container_id: str) -> Task | Creation | None:
        with self._lock:
            return self._tasks.get(container_id)

    def start(self, container_id: str) -> Task:
        """Start a task, once the guest has what is in its network namespace by now. Raises KataError."""
        task, sandbox = self.task(container_id), self._sandbox
        if sandbox is not None and sandbox.network is not None and not sandbox.network.catch_up():
            self._log.warn("a task starts before its network is ready", container=container_id)
        task.start()
        return task

    def delete(self, container_id: str, heard: Callable[[], bool] = lambda: True) -> Process:
        """Remove a task that has ended or never began. Returns once nothing of it is left on this host.

        Unless whoever asked is there to hear of it (`heard`) the task stays, and ConflictError is raised: a containerd
        that was killed meanwhile comes back, finds the task, and could not delete what is forgotten here.
        """
        task = self.task(container_id)
        init = task.container.init
        if init.state is ProcessState.RUNNING:
            raise ConflictError(f"task {container_id} still runs", hint="kill it first")
        if init.state is ProcessState.CREATED:
            task.abandon()
            if init.wait(REMOVE_KILL_TIMEOUT) is None and task.kind.makes_sandbox:
                self._take_down()
        if task.kind.makes_sandbox:
            self._down.wait(TEARDOWN_TIMEOUT)
        if not heard():
            raise ConflictError(f"nobody hears that task {container_id} is deleted", hint="delete it again")
        self._remove(task)
        self._publisher.publish(
            events_pb2.TaskDelete(
                container_id=container_id,
                pid=task.pid,
                exit_status=init.exit_code or 0,
                exited_at=timestamp(init.exited_at or time.time()),
            )
        )
        return init

    def pause(self, container_id: str) -> None:
        """Freeze a task. Raises ConflictError unless it runs."""
        self.task(container_id).container.pause()
        self._publisher.publish(events_pb2.TaskPaused(container_id=container_id))

    def resume(self, container_id: str) -> None:
        """Let a task go on. Raises ConflictError unless it runs."""
        self.task(container_id).container.resume()
        self._publisher.publish(events_pb2.TaskResumed(container_id=container_id))

    def update(self, container_id: str, resources: LinuxResources) -> None:
        """Give a task other limits. Raises ConflictError when it has ended."""
        self.task(container_id)
        sandbox = self._sandbox
        if sandbox is None:
            raise ConflictError(f"task {container_id} has ended")
        sandbox.update_container(container_id, resources)

    @property
    def tasks(self) -> list[Task]:
        """Those that were created and not deleted."""
        with self._lock:
            return [task for task in self._tasks.values() if isinstance(task, Task)]

    @property
    def idle(self) -> bool:
        """Whether there is no task, not even one that is being created."""
        with self._lock:
            return not self._tasks

    @property
    def pid(self) -> int:
        """The process that containerd may take for the tasks': the virtual machine's."""
        sandbox = self._sandbox
        return sandbox.pids[0] if sandbox is not None and sandbox.pids else os.getpid()

    def close(self) -> None:
        """Take the sandbox down, whatever runs in it."""
        self._take_down()

    # Section: creating

    def _create(self, request: task_pb2.CreateTaskRequest) -> Task:
        spec = read_checked(request.bundle)
        kind = kind_of(request.id, annotations_of(spec))
        require_fifos(kind, request.stdin, request.stdout, request.stderr)
        configured = configure(kind, spec, request.options) if kind.makes_sandbox else None
        config = self._running(kind).config if configured is None else configured.sandbox
        hooks = HostHooks(request.id, request.bundle, spec, self._log)
        root = spec.get("root", {}).get("path", "")
        stand_in = None if kind.makes_sandbox else StandIn(config.netns)
        try:
            with guest_rootfs(request.bundle, request.rootfs, config, root) as rootfs:
                container = self._create_container(request, spec, kind, rootfs, configured, hooks, stand_in)
        except BaseException:
            if stand_in:
                stand_in.close()
            unmount_rootfs(request.bundle)
            hooks.removed()
            raise
        names = StdioNames(request.stdin, request.stdout, request.stderr)
        task = Task(
            container,
            request.bundle,
            kind,
            names,
            namespace=self._namespace,
            pid=self.pid,
            stand_in=stand_in,
            hooks=hooks,
            told=self._publisher.publish,
            ended=self._on_end,
        )
        self._publisher.publish(
            events_pb2.TaskCreate(
                container_id=task.id,
                bundle=task.bundle,
                rootfs=request.rootfs,
                io=events_pb2.TaskIO(**names._asdict(), terminal=request.terminal),
                pid=task.pid,
            )
        )
        return task

    def _create_container(
        self,
        request: task_pb2.CreateTaskRequest,
        spec: Spec,
        kind: Kind,
        rootfs: Rootfs,
        configured: Configured | None,
        hooks: HostHooks,
        stand_in: StandIn | None,
    ) -> Container:
        """In the running sandbox, or in one that is started for it as `configured`.

        Hooks come first: what they do to the pod's network, the machine boots with. A network namespace that has no
        name they find by the machine's process, so then they come after it.
        """
        nameless = configured is not None and not network_namespace(spec)
        if not nameless:
            hooks.create(stand_in.pid if stand_in else self.pid)
        config = ContainerConfig(
            id=request.id,
            spec=cast("dict[str, object]", container_spec(configured or self._configured, spec)),
            rootfs=rootfs,
            annotations={CONTAINER_TYPE: kind.name, BUNDLE_PATH: request.bundle, **self._pid_target(spec)},
        )
        if configured is None:
            return self._running(kind).create_container(config)
        sandbox = self._start_sandbox(configured, kind, spec, config)
        self._manage(sandbox, request.bundle)
        try:
            if nameless:
                hooks.create(self.pid)
            return sandbox.create_container(config)
        except BaseException:
            self._take_down()
            raise

    def _pid_target(self, spec: Spec) -> dict[str, str]:
        """The annotation for a container that joins the processes of another one of this pod, or nothing."""
        pid = joined_pid(spec)
        found = [task.id for task in self.tasks if task.pid == pid and not task.kind.makes_sandbox]
        return {PID_TARGET: found[0]} if found else {}

    def _running(self, kind: Kind) -> Sandbox:
        if self._sandbox is None or self._down.is_set():
            raise NotFoundError(f"sandbox {kind.sandbox_id} is not running", layer="VMM")
        return self._sandbox

    def _start_sandbox(self, configured: Configured, kind: Kind, spec: Spec, container: ContainerConfig) -> Sandbox:
        if self._sandbox is not None:
            raise ConflictError(f"this shim has a sandbox already: {self._sandbox.config.id}")
        self._configured, config = configured, configured.sandbox
        if configured.config.runtime.enable_debug:
            self._log.level = LEVELS["debug"]
        for warning in configured.config.warnings:
            self._log.warn("configuration", finding=warning)
        record = Record(
            name=config.id,
            image=annotations_of(spec).get("io.kubernetes.cri.image-name", ""),
            command=list(spec["process"].get("args", [])),
            sandbox=config,
            container=container,
            manager="containerd",
            namespace=self._namespace,
            auto_remove=True,
            created_at=time.time(),
        )
        self._clear_up()
        self._hold = self._store.create(record)
        self._store.claim(self._hold)
        self._record = record
        sandbox = Sandbox(config, self._log, self._observe)
        try:
            self._owner.run(sandbox.start)
            record.processes = living(sandbox.pids)
            record.accelerator, record.status, record.started_at = sandbox.accelerator, "running", time.time()
            self._store.write(record)
        except BaseException:
            sandbox.stop(graceful=False)
            self._release()
            raise
        self._sandbox = sandbox
        if config.netns and kind.name == SANDBOX:
            self._forwarder = start_forwarder(config.netns, self._log)
        self._down.clear()
        watching = (sandbox, lambda container_id: container_id in self._tasks, self._publisher)
        threading.Thread(target=watch_memory, args=watching, name="oom", daemon=True).start()
        patience = configured.config.agent.health_check_request_timeout_ms / 1000
        threading.Thread(target=self._watch_health, args=(sandbox, patience), name="health", daemon=True).start()
        return sandbox

    def _clear_up(self) -> None:
        """After sandboxes that died with their containerd, so that nobody else has done it."""
        try:
            for sandbox_id in reconcile(self._store):
                self._log.warn("cleared up after a dead sandbox", id=sandbox_id)
        except (KataError, OSError) as error:
            self._log.warn("cannot clear up after a dead sandbox", error=error)

    def _observe(self, request: str, milliseconds: float) -> None:
        self._agent_rpcs.observe(request, milliseconds)
        self._log.debug("agent", request=request, ms=round(milliseconds, 1))

    def _manage(self, sandbox: Sandbox, bundle: str) -> None:
        """Open the sandbox's management socket, and say where it is the way upstream does. Containers run without."""
        from kata.management.serve import serve

        try:
            self._management = serve(sandbox, sandbox.config.id, self._rpcs, self._agent_rpcs, self._log)
            write_once(bundle, "monitor_address", f"unix://{monitor_socket(sandbox.config.id)}")
        except OSError as error:
            self._log.warn("there is no management socket", error=error)

    # Section: the end

    def _on_end(self, task: Task) -> None:
        if task.container.init.error:
            self._log.error("a task did not end by itself", container=task.id, error=task.container.init.error)
        if task.kind.makes_sandbox:
            self._take_down()

    def _take_down(self) -> None:
        with self._lock:
            sandbox, self._sandbox = self._sandbox, None
        if sandbox is None:
            self._down.wait(TEARDOWN_TIMEOUT)
            return
        self._stop(sandbox, graceful=True)

    def _stop(self, sandbox: Sandbox, *, graceful: bool) -> None:
        try:
            if self._forwarder is not None:
                self._forwarder.close()
            sandbox.stop(graceful=graceful)
            self._release()
        finally:
            self._down.set()

    def _watch_health(self, sandbox: Sandbox, patience: float) -> None:
        """Wait until the sandbox is lost; then every task has ended, and nothing of it stays on this host. Tasks that
        run notice it by the end of the connection to their agent; those that were not started are told.
        """
        reason = health.watch(sandbox, patience, self._log)
        with self._lock:
            if self._sandbox is not sandbox:
                return  # it was taken down by us
            self._sandbox = None
        self._log.error("the sandbox is lost", reason=reason)
        self._stop(sandbox, graceful=False)
        for task in self.tasks:
            task.abandon()

    def _release(self) -> None:
        management, self._management = self._management, None
        if management is not None:
            management.close()
        if self._record is not None:
            self._store.remove(self._record.sandbox.id)
            os.close(self._hold)
            self._record, self._hold = None, -1

    def _remove(self, task: Task) -> None:
        sandbox = self._sandbox
        try:
            if sandbox is not None and not task.kind.makes_sandbox:
                sandbox.remove_container(task.id)
        except KataError as error:
            self._log.warn("a container could not be removed in its guest", container=task.id, error=error)
        unmount_rootfs(task.bundle)
        task.release()
        with self._lock:
            self._tasks.pop(task.id, None)
