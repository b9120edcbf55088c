"""How QEMU loses its privileges before it runs: a `setpriv` prefix for its argv. Pure, but for one stat.

Whatever it runs as, it gets no capabilities, cannot gain any, and dies with the thread that started it
(PR_SET_PDEATHSIG follows the thread, not the process: prctl(2)), so `boot` belongs on a thread that lives as
long as the owner of the machine.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from kata.hypervisor.errors import HypervisorError

if TYPE_CHECKING:
    from collections.abc import Mapping

KVM_DEVICE = "/dev/kvm"
_UNLESS_ORPHANED = '[ "$PPID" = "$0" ] && exec "$@"'
"""A constant: what it runs comes as words of its own, never as text of a shell."""


def drop_privileges(
    uid: int | None,
    gid: int | None,
    *,
    accelerator: str,
    bind_low_ports: bool,
    root: bool | None = None,
    locked_memory: int = 0,
    netns: str = "",
    namespaces: Mapping[str, str] | None = None,
) -> list[str]:
    """The words to put before a VMM's argv.

    `bind_low_ports` keeps CAP_NET_BIND_SERVICE, for a published port below 1024. `root` is whether we may shrink the
    bounding set (by default: whether we are root). `locked_memory` are bytes that it may lock, which takes
    CAP_SYS_RESOURCE; 0 leaves that as it is. `netns` is the path of the network namespace that it runs in, empty for
    ours; `namespaces` are others, by nsenter's names. Raises HypervisorError when the accelerator is kvm and the user
    could not open its device.
    """
    entered = {**({"net": netns} if netns else {}), **(namespaces or {})}
    words = ["nsenter", *(f"--{name}={path}" for name, path in entered.items()), "--"] if entered else []
    words += ["prlimit", f"--memlock={locked_memory}:{locked_memory}"] if locked_memory else []
    words += ["setpriv", "--no-new-privs", "--pdeathsig", "KILL"]
    if root is None:
        root = os.geteuid() == 0
    if root:
        keep = ",+net_bind_service" if bind_low_ports else ""
        words += [f"--inh-caps=-all{keep}", f"--ambient-caps=-all{keep}", f"--bounding-set=-all{keep}"]
    if uid is not None and gid is not None:
        words += ["--reuid", str(uid), "--regid", str(gid)]
        words += ["--groups", str(_kvm_group())] if accelerator == "kvm" else ["--clear-groups"]
    # The signal is not sent for an owner that died before it was asked for: such a VMM must not come to life.
    return [*words, "--", "/bin/sh", "-c", _UNLESS_ORPHANED, str(os.getpid())]


def _kvm_group() -> int:
    status = os.stat(KVM_DEVICE)
    if status.st_gid == 0 or status.st_mode & 0o060 != 0o060:
        raise HypervisorError(
            f"{KVM_DEVICE} is not open to a group of its own, so an unprivileged QEMU cannot use it",
            hint=f"chgrp kvm {KVM_DEVICE} && chmod 660 {KVM_DEVICE}",
        )
    return status.st_gid
