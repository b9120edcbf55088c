"""The zygote: waits with everything loaded, and forks a child for each asker. One thread, so that it may fork.

It ends by itself when nobody asked for a while, when its socket is removed (which is how to end it by hand), and when
a file that it has loaded is another one now: what was upgraded must not be run in its old form.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import sys
from collections.abc import Callable

from kata.linux.inotify import Inotify
from kata.linux.peer import peer_uid
from kata.zygote.child import become
from kata.zygote.context import describe, name_of
from kata.zygote.launch import LOCK_FD
from kata.zygote.message import LIMIT, Request, decode

IDLE_TIMEOUT = 600.0
"""Seconds without an asker after which it ends: it costs some 25 MiB."""
READ_TIMEOUT = 0.5
"""Seconds that one asker may keep the others waiting."""
BACKLOG = 128

Run = Callable[[list[str]], int]
"""What a child does: the program's main, which takes sys.argv and returns the exit code."""


def serve(folder: str, name: str, load: Callable[[], None], run: Run, *, idle: float = IDLE_TIMEOUT) -> int:
    """Be the zygote of the context `name`; `launch` has made `folder` and the lock. The exit code. Raises OSError.

    `load` imports what children need. Only time that nobody wants is spent on it: the start of a sandbox is going on.
    """
    os.closerange(LOCK_FD + 1, os.sysconf("SC_OPEN_MAX"))
    os.chdir("/")
    _in_idle_time(load)
    if name_of(describe()) != name:
        return 1  # it was started by something between that changes what is inherited: nobody would be served rightly
    if len(os.listdir("/proc/self/task")) > 1:
        return 1  # something that was loaded has a thread, whose locks a child would find taken for ever
    files = loaded_files()
    gc.collect()
    gc.freeze()  # or the collector would write to every object, and no page would stay shared
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children are nobody's to wait for: askers hear how they ended
    path = os.path.join(folder, name)
    with contextlib.ExitStack() as place, _listen(path) as listener, Inotify() as changes:
        changes.watch(folder)
        inode = os.lstat(path).st_ino
        place.callback(os.close, LOCK_FD)
        # Whoever has it open already may lock it, and be the second of two: the older sees its socket replaced then.
        place.callback(_remove, f"{path}.lock")
        place.callback(lambda: _remove(path) if _inode(path) == inode else None)
        _answer(listener, changes, lambda: _inode(path) == inode, lambda: unchanged(files), place.close, run, idle)
    return 0


def loaded_files() -> dict[bytes, bytes]:
    """The files of everything that is loaded, and of the interpreter, with what changes when they do."""
    paths = [sys.executable, *(getattr(module, "__file__", None) or "" for module in sys.modules.values())]
    return {path: _state(path) for path in map(os.fsencode, filter(None, paths))}


def unchanged(files: dict[bytes, bytes]) -> bool:
    """Whether they still are what they were.

    Looked at for each child, so it may touch nothing but its own texts: Python counts references in the objects
    themselves, and each page that the zygote writes to is one that it shares no longer.
    """
    return all(_state(path) == state for path, state in files.items())


def _state(path: bytes) -> bytes:
    try:
        status = os.stat(path)
    except OSError:
        return b""
    return b"%d %d %d" % (status.st_ino, status.st_size, status.st_mtime_ns)


def _in_idle_time(load: Callable[[], None]) -> None:
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    try:
        load()
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def _listen(path: str) -> socket.socket:
    """A socket there; what a dead one has left is replaced, which the lock makes safe."""
    _remove(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        os.fchmod(listener.fileno(), 0o600)
        listener.bind(path)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _inode(path: str) -> int:
    try:
        return os.lstat(path).st_ino
    except OSError:
        return 0


def _answer(
    listener: socket.socket,
    changes: Inotify,
    wanted: Callable[[], bool],
    fresh: Callable[[], bool],
    make_room: Callable[[], None],
    run: Run,
    idle: float,
) -> None:
    """Fork for one asker after the other, until it is time to end. `make_room` is called before an asker is told so."""
    ready = select.poll()
    ready.register(listener, select.POLLIN)
    ready.register(changes, select.POLLIN)
    while ready.poll(idle * 1000):
        changes.drain()
        if not wanted():
            return
        try:
            asker, _ = listener.accept()
        except OSError:
            continue  # it was the folder, or an asker that has gone again
        with asker:
            asker.settimeout(READ_TIMEOUT)
            if not fresh():
                with contextlib.suppress(OSError):
                    asker.recv(LIMIT)  # or the kernel would tell it of a broken connection, and not what we say
                make_room()  # the asker starts the next one
                _say(asker, b"the zygote had loaded files that have changed")
                return
            _fork(asker, run)


def _fork(asker: socket.socket, run: Run) -> None:
    try:
        request = _receive(asker)
    except (OSError, ValueError) as error:
        _say(asker, f"the zygote cannot read what it is asked: {error}".encode())
        return
    try:
        pid = os.fork()
    except OSError as error:
        _say(asker, f"the zygote cannot fork: {error}".encode())
        return
    if pid == 0:
        become(asker, request, run)


def _receive(asker: socket.socket) -> Request:
    if peer_uid(asker.fileno()) != os.geteuid():
        raise ValueError("another user asks")
    return decode(asker.recv(LIMIT))


def _say(asker: socket.socket, words: bytes) -> None:
    with contextlib.suppress(OSError):
        asker.send(words)
