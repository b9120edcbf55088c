"""Saving a machine's state to a file, and going on from it: QEMU's migration, without the memory.

Called by `machine.py`. Memory is a file of its own (x-ignore-shared, qapi/migration.json): what is written here is the
devices' state, less than a megabyte.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kata.hypervisor.errors import QmpProtocolError, StartError
from kata.hypervisor.qemu.qmp import excerpt

if TYPE_CHECKING:
    from kata.hypervisor.machine import Saved
    from kata.hypervisor.qemu.qmp import QmpClient

TIMEOUT = 30.0
"""Seconds; a hundredth of one is usual."""
CAPABILITIES = ("x-ignore-shared", "events")
ENDED = ("completed", "failed", "cancelled")


def save(qmp: QmpClient, state_fd: int) -> None:
    """Stop the guest's CPUs and write to `state_fd`. Raises QmpError; nothing of use is in the file then."""
    _prepare(qmp)
    qmp.execute("stop", timeout=TIMEOUT)
    qmp.execute("getfd", {"fdname": "state"}, fds=[state_fd], timeout=TIMEOUT)
    qmp.execute("migrate", {"uri": "fd:state"}, timeout=TIMEOUT)
    _await_end(qmp, "saved")


def restore(qmp: QmpClient, saved: Saved) -> None:
    """Load from the files, which QEMU has inherited; the guest does not run yet. Raises QmpError, StartError.

    QEMU ends by itself when the state is of another machine.
    """
    try:
        if saved.complete is not None:
            saved.complete()  # devices look into the guest's memory as soon as they are there
    except OSError as error:
        raise StartError(f"the memory of the template cannot be copied: {error}", layer="host") from error
    _prepare(qmp)
    # QEMU would announce the guest's addresses, which are its template's yet. And a guest that is asked to announce
    # them itself may hang for good while its agent sets them: Linux 6.12's virtio_net waits for that work when an
    # interface is closed (virtnet_close), with the lock held that the work waits for.
    qmp.execute("migrate-set-parameters", {"announce-rounds": 0}, timeout=TIMEOUT)
    qmp.execute("migrate-incoming", {"uri": f"fd:{saved.state_fd}"}, timeout=TIMEOUT)
    _await_end(qmp, "restored")


def _prepare(qmp: QmpClient) -> None:
    wanted = [{"capability": name, "state": True} for name in CAPABILITIES]
    qmp.execute("migrate-set-capabilities", {"capabilities": wanted}, timeout=TIMEOUT)


def _await_end(qmp: QmpClient, what: str) -> None:
    event = qmp.wait_event("MIGRATION", timeout=TIMEOUT, accept=lambda event: event.data.get("status") in ENDED)
    if event.data.get("status") != "completed":
        raise QmpProtocolError(f"the machine could not be {what}", detail=excerpt(event.data))
