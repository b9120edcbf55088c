"""What no guest ever sees of its host, whoever asks for it by whatever name: the kernel's own file systems, our state.

Called for every path that is shared, once it is open, so that links, `..` and other names for the same place make no
difference. What the operator lets a tenant have beyond that (hostPath volumes) is for the container manager to say.
"""

from __future__ import annotations

import os

from kata import paths
from kata.linux.mounts import mount_of
from kata.storage.errors import VolumeError

KERNELS = frozenset(
    (
        *("autofs", "binder", "binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts", "devtmpfs"),
        *("efivarfs", "fusectl", "mqueue", "nsfs", "proc", "pstore", "rpc_pipefs", "securityfs", "selinuxfs"),
        *("smackfs", "sysfs", "tracefs"),
    )
)
"""File systems that are no storage: whoever writes to them speaks to the host's kernel (proc(5), sysfs(5))."""
FOLDERS = ("/proc", "/sys", "/dev")
"""Where they are; what else is there (a tmpfs with cgroups below it) is part of them."""


def refuse(fd: int, path: str) -> None:
    """Raise VolumeError when an open path is one of those; `path` is its name for the message."""
    try:
        fstype = mount_of(fd)[0].fstype
        real = os.readlink(f"/proc/self/fd/{fd}")
    except OSError as error:
        raise VolumeError(f"nobody can say what the volume {path} is on: {error.strerror}", layer="host") from error
    if fstype in KERNELS or any(_is_below(real, folder) for folder in FOLDERS):
        raise VolumeError(
            f"the volume {path} is {fstype} of this host's kernel, which no guest is shown",
            hint="a guest has /proc, /sys and /dev of its own",
        )
    for ours in (paths.state_dir(), paths.data_dir()):
        if _is_below(real, os.path.realpath(ours)):
            raise VolumeError(f"the volume {path} is in {ours}, which holds what all sandboxes of this host depend on")


def _is_below(path: str, folder: str) -> bool:
    return f"{path}/".startswith(f"{folder}/")
