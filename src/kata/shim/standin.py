"""What a container of a pod is on the host: a thread of the shim that does nothing, and whose number is its own.

All containers of a pod are in one virtual machine, but containerd has to tell them apart by process id: a container
that joins another's processes (`kubectl debug --target`) is made with the path /proc/<pid>/ns/pid and no other word
about whose they are. A thread has a folder in /proc as a process has (proc(5)); it is in the pod's network namespace,
so `nsenter -n -t <pid>` finds what it would find in a container of runc. Made by `pod`, one a container.
"""

from __future__ import annotations

import os
import re
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from kata.linux.syscalls import CLONE_NEWNET, setns

if TYPE_CHECKING:
    from kata.oci.spec import Spec

PID_NAMESPACE = re.compile(r"/proc/([0-9]+)/ns/pid")


class StandIn:
    """The thread, from now until `close`. `netns`: the network namespace that it enters, by its path; or none."""

    def __init__(self, netns: str = "") -> None:
        self._end = threading.Event()
        thread = threading.Thread(target=self._live, args=(netns,), name="stand-in", daemon=True)
        thread.start()
        self.pid = thread.native_id or 0

    def close(self) -> None:
        """Let the thread end. Idempotent."""
        self._end.set()

    def _live(self, netns: str) -> None:
        with suppress(OSError):  # where there is none, or it is gone, the number alone will do
            _enter(netns)
        self._end.wait()


def _enter(netns: str) -> None:
    # O_NONBLOCK: a FIFO in its place must not keep us waiting.
    namespace = os.open(netns, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        setns(namespace, CLONE_NEWNET)
    finally:
        os.close(namespace)


def joined_pid(spec: Spec) -> int:
    """The process on this host whose pid namespace the container joins; 0 when no path says so."""
    for entry in spec.get("linux", {}).get("namespaces", []):
        found = PID_NAMESPACE.fullmatch(entry.get("path", "")) if entry.get("type") == "pid" else None
        if found:
            return int(found[1])
    return 0
