"""Drivers "ephemeral" and "local": directories in the guest's memory or on its own file system.

Called through the registry.
"""

from __future__ import annotations

from kata.agent.storages.context import GROUP_MODE, Directory, MountRequest
from kata.agent.storages.errors import InvalidStorage, UnsupportedStorage
from kata.agent.storages.hugepages import ask_for
from kata.linux.mountoptions import parse_options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from kata.agent.storages.context import StorageContext
    from kata.protocol.generated import agent_pb2

_LAST_ID = 0xFFFFFFFE  # 0xffffffff means "no change" to chown(2)


def handle_ephemeral(storage: agent_pb2.Storage, context: StorageContext, container_id: str) -> MountRequest:
    """A tmpfs or hugetlbfs; option `fsgid=<gid>` gives it to a group. Raises InvalidStorage, UnsupportedStorage."""
    if storage.fstype == "hugetlbfs":
        return _huge(storage, context)
    if storage.fstype not in ("", "tmpfs"):
        raise UnsupportedStorage(f"ephemeral storage of type {storage.fstype!r} is not supported by this agent")
    words, values = _split(storage.options, "fsgid")
    options = parse_options(words)
    return MountRequest(
        Directory(storage.mount_point),
        storage.source or "tmpfs",
        "tmpfs",
        options.flags,
        options.propagation,
        options.data,
        gid=_group(values.get("fsgid")),
    )


def _huge(storage: agent_pb2.Storage, context: StorageContext) -> MountRequest:
    """A hugetlbfs of `size=<bytes>` in pages of `pagesize=<bytes>`; both are the kernel's own options too."""
    words, values = _split(storage.options, "fsgid")
    options = parse_options(words)
    return MountRequest(
        Directory(storage.mount_point),
        storage.source or "nodev",
        "hugetlbfs",
        options.flags,
        options.propagation,
        options.data,
        gid=_group(values.get("fsgid")),
        pages=ask_for(_split(words, "pagesize", "size")[1], context.sysfs),
    )


def handle_local(storage: agent_pb2.Storage, context: StorageContext, container_id: str) -> MountRequest:
    """A plain directory with `mode=<octal>` and `fsgid=<gid>`; nothing is mounted. Raises InvalidStorage."""
    _, values = _split(storage.options, "mode", "fsgid")
    gid = _group(values.get("fsgid"))
    mode = GROUP_MODE if gid >= 0 else 0o755
    if "mode" in values:
        mode = _mode(values["mode"]) | (0o2000 if gid >= 0 else 0)
    return MountRequest(Directory(storage.mount_point, mode, gid), mounted=False)


def _split(options: Iterable[str], *keys: str) -> tuple[list[str], dict[str, str]]:
    """The options without those of these keys, and these by key."""
    words, values = [], {}
    for option in options:
        key, _, value = option.partition("=")
        if key in keys:
            values[key] = value
        else:
            words.append(option)
    return words, values


def _group(text: str | None) -> int:
    if text is None:
        return -1
    if not text.isascii() or not text.isdecimal() or int(text) > _LAST_ID:
        raise InvalidStorage(f"fsgid={text} is no group id")
    return int(text)


def _mode(text: str) -> int:
    try:
        mode = int(text, 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= 0o7777:
        raise InvalidStorage(f"mode={text} is no octal file mode")
    return mode
