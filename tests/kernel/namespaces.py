"""Run a test's body in new namespaces, in a process of its own, so that nothing of it can stay on the machine."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable

from kata.linux import syscalls


def run_in_namespaces(body: Callable[[], None], flags: int) -> None:
    """Fork, unshare(`flags`), call `body`. Its failure fails the caller, with the child's traceback."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        status = 1
        try:
            syscalls.unshare(flags)
            if flags & syscalls.CLONE_NEWNS:
                syscalls.mount("none", "/", "", syscalls.MS_PRIVATE | syscalls.MS_REC)
            body()
            status = 0
        except BaseException:  # noqa: BLE001 - the child must not go on as a second pytest, whatever happened
            os.write(write, traceback.format_exc().encode()[-60000:])
        finally:
            os._exit(status)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        report = pipe.read().decode()
    _, status = os.waitpid(pid, 0)
    assert status == 0, report or f"the child ended with wait status {status}"
