"""shared_mounts of CreateContainer: a directory or mount of one container, seen in another of the same sandbox.

Called by `sandbox` while a container is made. The path is one of the source container's own, and hostile: it is
resolved in that container's mount namespace and root (RESOLVE_IN_ROOT), in a thread that ends with it. What is found
is cloned as a detached mount (open_tree(2)), attached in the bundle, and given to crun as an ordinary bind mount.
"""

from __future__ import annotations

import os

from kata.agent.errors import AgentError, BadRequest
from kata.linux import mounts, syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kata.oci.spec import Mount
    from kata.protocol.generated import agent_pb2

NAMES = ("io.kubernetes.cri.container-name", "io.kubernetes.cri-o.ContainerName", "io.kubernetes.container.name")
"""Annotations that hold what `src_ctr` and `dst_ctr` may call a container, besides its id."""


class SharedMountError(AgentError):
    """What is to be shared cannot be taken from its container."""


def for_container(shared: Sequence[agent_pb2.SharedMount], names: set[str]) -> list[agent_pb2.SharedMount]:
    """Those that are for the container of these names; all are checked. Raises BadRequest."""
    for entry in shared:
        if not entry.src_path.startswith("/") or not entry.dst_path.startswith("/"):
            raise BadRequest(f"shared mount {entry.name!r}: {entry.src_path!r} to {entry.dst_path!r} is not absolute")
        if "\0" in entry.src_path + entry.dst_path or not entry.src_ctr:
            raise BadRequest(f"shared mount {entry.name!r} does not say where it comes from")
    return [entry for entry in shared if not entry.dst_ctr or entry.dst_ctr in names]


def attach(
    entry: agent_pb2.SharedMount, pid: int, place: str, in_thread: Callable[[Callable[[], None]], None]
) -> Mount:
    """Mount `src_path` of the container whose first process is `pid` at `place`; the mount for the other's spec.

    The caller unmounts `place`. Raises SharedMountError.
    """
    found: list[int] = []
    try:
        namespace = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        try:
            in_thread(lambda: found.append(_clone(namespace, entry.src_path)))
        finally:
            os.close(namespace)
        is_directory = os.path.isdir(f"/proc/self/fd/{found[0]}")
        os.makedirs(place if is_directory else os.path.dirname(place), mode=0o700, exist_ok=True)
        if not is_directory:
            os.close(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        syscalls.move_mount(found[0], place)
    except OSError as error:
        raise SharedMountError(
            f"{entry.src_path} of container {entry.src_ctr} cannot be shared: {error.strerror}", detail=str(error)
        ) from error
    finally:
        for fd in found:
            os.close(fd)
    return {"destination": entry.dst_path, "type": "bind", "source": place, "options": ["rbind"]}


def detach(folder: str) -> None:
    """Undo all of `attach` below `folder`. Raises OSError."""
    mounts.unmount_below(folder)
    mounts.remove_tree(folder)


def _clone(namespace: int, path: str) -> int:
    """In a thread of its own: the mount tree at `path` of another mount namespace, detached."""
    syscalls.unshare(syscalls.CLONE_FS)  # setns(2) wants a root and working directory that no other thread shares
    syscalls.setns(namespace, syscalls.CLONE_NEWNS)
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        resolve = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS
        fd = syscalls.openat2(root, path, os.O_PATH, 0, resolve)
        try:
            return syscalls.open_tree(fd)
        finally:
            os.close(fd)
    finally:
        os.close(root)
