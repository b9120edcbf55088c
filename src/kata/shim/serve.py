"""The process that stays: serves one pod's tasks on the socket that `start` has bound, until it is told to end.

Its mounts are its own: it leaves the host's mount namespace before its first thread, so that whatever happens to it,
nothing stays mounted.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import TYPE_CHECKING

from kata.linux.flag import Flag
from kata.linux.mounts import own_namespace
from kata.log import Logger
from kata.management.durations import Durations, Timed
from kata.protocol.generated.host import task_v3_pb2
from kata.protocol.messages import skip_helpers
from kata.protocol.server import Server
from kata.protocol.transport import SocketListener
from kata.sandbox import shimsockets
from kata.shim.events import Publisher
from kata.shim.service import TaskService, to_status
from kata.zygote.context import ORIGIN

if TYPE_CHECKING:
    import socket

    from kata.protocol.status import RpcError
    from kata.shim.arguments import Arguments
    from kata.shim.pod import Pod

assert task_v3_pb2.DESCRIPTOR is not None  # version 3 of the service is described there, and found by name
SERVICES = ("containerd.task.v2.Task", "containerd.task.v3.Task")
EVENTS_TIMEOUT = 5.0
ALONE_TIMEOUT = 15.0
"""Seconds after which a shim ends that has neither a task nor a client: a containerd that was killed between `start`
and its first request does not know of it."""


class Pods:
    """The process's one pod, which is made, and its rooms loaded, when it is first asked for."""

    def __init__(self, namespace: str, publisher: Publisher, log: Logger, rpcs: Durations) -> None:
        self._arguments = (namespace, publisher, log)
        self._rpcs = rpcs
        self._lock = threading.Lock()
        self._pod: Pod | None = None

    @property
    def pid(self) -> int:
        """The process that stands for the tasks; our own as long as there is no virtual machine."""
        return self._pod.pid if self._pod is not None else os.getpid()

    def get(self) -> Pod:
        """The pod."""
        with self._lock:
            if self._pod is None:
                from kata.shim.pod import Pod

                self._pod = Pod(*self._arguments, rpcs=self._rpcs)
            return self._pod


def serve(arguments: Arguments, origin: str, path: str, listener: socket.socket) -> int:
    """Serve until Shutdown or SIGTERM; the exit code."""
    skip_helpers()
    log = Logger(2, level="debug" if arguments.debug else "info", name="containerd-shim-v2", pid=os.getpid())
    log = log.bind(sandbox=arguments.id)
    try:
        return _serve(arguments, origin, path, listener, log)
    except Exception as error:  # noqa: BLE001 - nobody else is there to say it
        import traceback  # 4 ms of a start that hardly ever needs it

        log.error("the shim failed", error=error, trace=traceback.format_exc())
        return 1


def _serve(arguments: Arguments, origin: str, path: str, listener: socket.socket, log: Logger) -> int:
    loaded = len(sys.modules)
    own_namespace()
    stop = Flag()
    stop.set_on(signal.SIGTERM)
    publisher = Publisher(os.environ.get("TTRPC_ADDRESS", ""), arguments.namespace, log)
    rpcs = Durations()
    pods = Pods(arguments.namespace, publisher, log, rpcs)

    def explain(error: BaseException) -> RpcError:
        status = to_status(error)
        log.warn("a request failed", code=status.code.name, error=status.message)
        return status

    service = Timed(TaskService(pods, stop), rpcs)
    with Server(dict.fromkeys(SERVICES, service), explain, left=lambda: expect()) as server:

        def expect() -> None:
            timer = threading.Timer(ALONE_TIMEOUT, end_if_alone)
            timer.daemon = True
            timer.start()

        def end_if_alone() -> None:
            if not server.sessions and pods.get().idle:
                log.info("nobody comes, and there is no task")
                stop.set()

        expect()
        accepting = SocketListener(listener, path)
        threading.Thread(target=server.serve, args=(accepting,), name="task-service", daemon=True).start()
        log.info("serving", socket=path, origin=origin)
        pods.get()  # loads the sandbox's rooms while containerd connects and prepares its first request
        stop.wait()
        pods.get().close()
        publisher.close(EVENTS_TIMEOUT)
    shimsockets.forget(path)
    late = list(sys.modules)[loaded:] if origin == ORIGIN else []  # in the order in which they came
    log.info("ending", loaded_late=" ".join(late))  # what the zygote should have loaded
    return 0
