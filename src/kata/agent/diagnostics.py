"""GetDiagnosticData: the termination log of a container, for hosts that share no file system with the guest.

Called by `service.observe`. The file belongs to the container, which may put a link, a device or a pipe in its
place: it is resolved below its own folder only, opened without blocking, and read only when it is a regular file.
"""

from __future__ import annotations

import os
import stat

from kata.agent.errors import BadRequest, WrongState
from kata.linux.confine import ConfinedDir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata.oci.spec import Spec

TERMINATION_LOG = "termination_log"
PATH_ANNOTATION = "io.kubernetes.container.terminationMessagePath"
LIMIT = 4096
"""Bytes, the kubelet's own limit for a termination message."""


def read(log_type: str, spec: Spec) -> str:
    """The data of one kind about the container with this spec. Raises BadRequest, WrongState, OSError."""
    if log_type != TERMINATION_LOG:
        raise BadRequest(f"GetDiagnosticData: unknown log_type {log_type!r}", hint=f"{TERMINATION_LOG} is the only one")
    return read_termination_log(source_of(spec))


def source_of(spec: Spec) -> str:
    """Where in the guest the termination log is. Raises BadRequest for a container without one."""
    path = spec.get("annotations", {}).get(PATH_ANNOTATION, "")
    if not path:
        raise BadRequest(f"GetDiagnosticData: the container has no annotation {PATH_ANNOTATION}")
    for mount in spec.get("mounts", ()):
        if mount.get("destination") == path and mount.get("source", "").startswith("/"):
            return mount["source"]
    raise BadRequest(f"GetDiagnosticData: the container has no mount at {path}")


def read_termination_log(path: str) -> str:
    """At most `LIMIT` bytes of a file that a container could write to. Raises WrongState, OSError."""
    folder, name = os.path.split(path)
    with ConfinedDir(folder) as confined:
        fd = confined.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise WrongState(f"the termination log {path} is no regular file")
        return os.pread(fd, LIMIT, 0).decode("utf-8", "replace")
    finally:
        os.close(fd)
