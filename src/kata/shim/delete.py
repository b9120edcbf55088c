"""`delete`: containerd's call for a task whose shim is gone or never answered. Undoes everything that is left.

It prints one DeleteResponse, and must succeed whatever it finds: a failure here leaves containerd with a task that it
cannot get rid of.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from kata.errors import KataError
from kata.factory import leftovers
from kata.log import Logger
from kata.oci.ids import is_id
from kata.protocol.generated.host import task_pb2
from kata.sandbox import shimsockets
from kata.sandbox.errors import NotFoundError, SandboxError
from kata.sandbox.reconcile import kill, remove_leftovers
from kata.sandbox.store import Store
from kata.shim.address import SOCKET_DIR, socket_path
from kata.shim.bundle import annotations_of, read_checked, read_spec
from kata.shim.events import timestamp
from kata.shim.hooks import HostHooks
from kata.shim.kind import BUNDLE_PATH, Kind, kind_of
from kata.shim.rootfs import unmount_rootfs

if TYPE_CHECKING:
    from kata.shim.arguments import Arguments

KILLED = 137
"""The exit status of a task that ended with its shim: 128 and SIGKILL."""


def delete(arguments: Arguments) -> bytes:
    """Clear up after a task; the serialised DeleteResponse."""
    bundle = arguments.bundle or os.getcwd()
    kind = _kind(arguments.id, bundle)
    if kind.makes_sandbox and is_id(kind.sandbox_id):
        _remove_sandbox(Store(), kind.sandbox_id, bundle)
        leftovers.sweep()  # once the shim is gone, which may have been making a template
        shimsockets.remove_dead(socket_path(arguments.address, arguments.namespace, kind.sandbox_id, SOCKET_DIR))
        shimsockets.sweep()
    unmount_rootfs(bundle)
    _run_hooks(arguments.id, bundle)
    return task_pb2.DeleteResponse(exit_status=KILLED, exited_at=timestamp(time.time())).SerializeToString()


def _kind(container_id: str, bundle: str) -> Kind:
    """What it was; a bundle that is gone or damaged says nothing, and then its sandbox is looked for by its own id."""
    try:
        return kind_of(container_id, annotations_of(read_spec(bundle)))
    except KataError:
        return Kind("", container_id)


def _run_hooks(container_id: str, bundle: str) -> None:
    """Those that come after a container, unless its shim was there to run them."""
    try:
        spec = read_checked(bundle)
    except KataError:
        return  # no container was ever made of it
    HostHooks(container_id, bundle, spec, Logger(2, name="containerd-shim-v2", pid=os.getpid())).removed()


def _remove_sandbox(store: Store, sandbox_id: str, bundle: str) -> None:
    store.sweep()
    if not _is_of(store, sandbox_id, bundle):
        return
    holder = store.holder(sandbox_id)  # a shim that does not answer any more
    if holder is not None:
        kill(holder)
    try:
        remove_leftovers(store, sandbox_id)
    except NotFoundError:
        pass


def _is_of(store: Store, sandbox_id: str, bundle: str) -> bool:
    """Whether the sandbox of that id was made for this bundle: another namespace may have one of the same id, which
    is why ours has not come to life. A record that cannot be read is nobody else's."""
    try:
        record = store.read(sandbox_id)
    except SandboxError:
        return True
    path = record.container.annotations.get(BUNDLE_PATH, bundle)
    return record.manager == "containerd" and os.path.realpath(path) == os.path.realpath(bundle)
