"""Mount options as people write them (mount(8)) to the flags and the text that mount(2) takes.

Called by whoever mounts what somebody else describes. Options are read in order, so the last of two that contradict
counts; a word that is not in the table is the file system's own. Never look at the file system type here.
"""

from __future__ import annotations

from typing import NamedTuple

from kata.linux import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

SET: dict[str, int] = {
    "ro": syscalls.MS_RDONLY,
    "nosuid": syscalls.MS_NOSUID,
    "nodev": syscalls.MS_NODEV,
    "noexec": syscalls.MS_NOEXEC,
    "sync": syscalls.MS_SYNCHRONOUS,
    "remount": syscalls.MS_REMOUNT,
    "mand": syscalls.MS_MANDLOCK,
    "dirsync": syscalls.MS_DIRSYNC,
    "nosymfollow": syscalls.MS_NOSYMFOLLOW,
    "noatime": syscalls.MS_NOATIME,
    "nodiratime": syscalls.MS_NODIRATIME,
    "bind": syscalls.MS_BIND,
    "rbind": syscalls.MS_BIND | syscalls.MS_REC,
    "silent": syscalls.MS_SILENT,
    "relatime": syscalls.MS_RELATIME,
    "iversion": syscalls.MS_I_VERSION,
    "strictatime": syscalls.MS_STRICTATIME,
    "lazytime": syscalls.MS_LAZYTIME,
}
CLEAR: dict[str, int] = {
    "rw": syscalls.MS_RDONLY,
    "suid": syscalls.MS_NOSUID,
    "dev": syscalls.MS_NODEV,
    "exec": syscalls.MS_NOEXEC,
    "async": syscalls.MS_SYNCHRONOUS,
    "nomand": syscalls.MS_MANDLOCK,
    "symfollow": syscalls.MS_NOSYMFOLLOW,
    "atime": syscalls.MS_NOATIME,
    "diratime": syscalls.MS_NODIRATIME,
    "loud": syscalls.MS_SILENT,
    "norelatime": syscalls.MS_RELATIME,
    "noiversion": syscalls.MS_I_VERSION,
    "nostrictatime": syscalls.MS_STRICTATIME,
    "nolazytime": syscalls.MS_LAZYTIME,
}
PROPAGATION: dict[str, int] = {
    "shared": syscalls.MS_SHARED,
    "slave": syscalls.MS_SLAVE,
    "private": syscalls.MS_PRIVATE,
    "unbindable": syscalls.MS_UNBINDABLE,
    "rshared": syscalls.MS_SHARED | syscalls.MS_REC,
    "rslave": syscalls.MS_SLAVE | syscalls.MS_REC,
    "rprivate": syscalls.MS_PRIVATE | syscalls.MS_REC,
    "runbindable": syscalls.MS_UNBINDABLE | syscalls.MS_REC,
}
# Words for mount(8) and fstab alone; no kernel knows them.
_IGNORED = frozenset(
    ("", "defaults", "auto", "noauto", "nofail", "_netdev", "user", "nouser", "users", "owner", "group")
)
_IGNORED_PREFIXES = ("x-", "X-", "comment=", "io.katacontainers.")


class MountOptions(NamedTuple):
    """Options as mount(2) takes them; `propagation` needs a call of its own."""

    flags: int = 0
    propagation: int = 0
    data: str = ""


def parse_options(options: Iterable[str]) -> MountOptions:
    """The options in the kernel's form. Words for mount(8) alone and for Kata's own use are left out."""
    flags = propagation = 0
    data = []
    for option in options:
        if option in SET:
            flags |= SET[option]
        elif option in CLEAR:
            flags &= ~CLEAR[option]
        elif option in PROPAGATION:
            propagation = PROPAGATION[option]
        elif option not in _IGNORED and not option.startswith(_IGNORED_PREFIXES):
            data.append(option)
    return MountOptions(flags, propagation, ",".join(data))
