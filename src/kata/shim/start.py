"""`start`: find the pod's shim or fork one, and tell containerd where it listens.

containerd takes everything on standard output *and* standard error as the answer, so nothing but the address may be
written here. The child is forked from this very process (one interpreter start for both); it must not keep the
parent's streams, or containerd would wait for their end. No thread may exist before the fork.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from typing import TYPE_CHECKING, NoReturn

from kata.linux.closing import close_all_but
from kata.sandbox import shimsockets
from kata.shim.address import SOCKET_DIR, bind, socket_path
from kata.shim.bundle import annotations_of, read_spec, write_once
from kata.shim.kind import kind_of
from kata.zygote.context import ORIGIN
from kata.zygote.launch import launch

if TYPE_CHECKING:
    from kata.shim.arguments import Arguments

LOG_FIFO = "log"
PR_SCHED_CORE, PR_SCHED_CORE_CREATE, PR_SCHED_CORE_SCOPE_THREAD_GROUP = 62, 1, 1  # linux/prctl.h


def start(arguments: Arguments, origin: str) -> str:
    """The address of the shim that serves this container; it is running when this returns.

    `origin` says where this process comes from: a zygote, or why none. In that case there is one the next time.

    Raises KataError and OSError. In the forked child this does not return.
    """
    bundle = os.getcwd()
    kind = kind_of(arguments.id, annotations_of(read_spec(bundle)))
    path = socket_path(arguments.address, arguments.namespace, kind.sandbox_id, SOCKET_DIR)
    address = f"unix://{path}"
    if kind.makes_sandbox:
        note = shimsockets.note(path)
        listener = bind(path)
        if listener is not None:
            write_once(bundle, "shim.pid", str(_fork(arguments, origin, path, listener, note)))
            if origin != ORIGIN:
                launch()
    write_once(bundle, "address", address)
    return address


def _fork(arguments: Arguments, origin: str, path: str, listener: socket.socket, note: int) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        _become_server(arguments, origin, path, listener, note)
    listener.close()
    return pid


def _become_server(arguments: Arguments, origin: str, path: str, listener: socket.socket, note: int) -> NoReturn:
    status = 1
    try:
        os.setsid()
        os.umask(0o077)
        _settle(os.getcwd())
        close_all_but(0, 1, 2, listener.fileno(), note)
        from kata.shim.serve import serve

        status = serve(arguments, origin, path, listener)
    finally:
        os._exit(status)


def _settle(bundle: str) -> None:
    """Away from the parent's streams, folder, cores and signals."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    log = _open_log(os.path.join(bundle, LOG_FIFO), null)
    for fd, source in ((0, null), (1, log), (2, log)):
        os.dup2(source, fd)
    os.chdir("/")
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    _prefer_others_in_need()
    if os.environ.get("SCHED_CORE"):
        _own_core()


def _open_log(path: str, otherwise: int) -> int:
    """containerd's FIFO for our log. It is open for reading too, so that a restart of containerd loses nothing, and
    never blocks: what does not fit is lost."""
    try:
        return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return otherwise


def _prefer_others_in_need() -> None:
    """When memory runs out, the kernel should take us before containerd, as its own shims arrange it."""
    try:
        with open(f"/proc/{os.getppid()}/oom_score_adj") as file:
            score = int(file.read())
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write(str(min(score + 1, 1000)))
    except (OSError, ValueError):
        pass  # lowering it needs CAP_SYS_RESOURCE; nothing depends on it


def _own_core() -> None:
    """Core scheduling: no hyper-thread of ours is shared with other pods (kernel, core-scheduling.rst)."""
    from kata.linux import syscalls

    try:
        syscalls.prctl(PR_SCHED_CORE, PR_SCHED_CORE_CREATE, 0, PR_SCHED_CORE_SCOPE_THREAD_GROUP, 0)
    except OSError:
        pass  # a kernel without it
