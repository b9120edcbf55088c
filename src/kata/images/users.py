"""From `--user` or an image's `User` to numbers, by the image's own passwd and group files.

The rules are Docker's (moby/sys/user, GetExecUser): a number is always an id, never a name; the first matching
line counts; an unknown name is an error, an unknown number is not. Everything here is hostile text: a line that
is not exactly well-formed is no line (guessing is how CVE-2026-30892 ran processes as the wrong user). Pure
functions, called by whoever builds a container's process. Never read files here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from kata.images.errors import UnknownUserError

MAX_ID = 2**32 - 2
"""The highest user and group id: 2^32-1 means "unchanged" to chown(2) and setresuid(2)."""
MAX_GROUPS = 65536
"""NGROUPS_MAX of linux/limits.h."""


class ResolvedUser(msgspec.Struct, frozen=True):
    """Whom a process runs as. `username` is empty and `home` is `/` where the passwd file says nothing."""

    uid: int
    gid: int
    additional_gids: tuple[int, ...] = ()
    home: str = "/"
    username: str = ""


class _Account(NamedTuple):
    name: str
    uid: int
    gid: int
    home: str


class _Group(NamedTuple):
    name: str
    gid: int
    members: str


def resolve_user(user: str, passwd: str, group: str) -> ResolvedUser:
    """Numbers for `name`, `uid`, `name:group`, `uid:gid` (or a mix); nothing means root.

    With a group given, no additional groups. Raises UnknownUserError.
    """
    wanted, colon, wanted_group = user.partition(":")
    if ":" in wanted_group or (colon and not (wanted and wanted_group)):
        raise UnknownUserError(f"{user[:80]!r} is not USER or USER:GROUP", hint="for example nobody or 1000:1000")
    account = _find_account(wanted or "0", passwd)
    if colon:
        return ResolvedUser(account.uid, _find_group(wanted_group, group), (), account.home, account.name)
    additional = tuple(_memberships(account.name, group))
    return ResolvedUser(account.uid, account.gid, additional, account.home, account.name)


def _find_account(wanted: str, passwd: str) -> _Account:
    uid = _number(wanted)
    for account in _accounts(passwd):
        if account.uid == uid if uid is not None else account.name == wanted:
            return account
    if uid is None:
        raise UnknownUserError(
            f"the image has no user {wanted[:80]!r}", hint="use a number, or a name from the image's /etc/passwd"
        )
    return _Account("", uid, 0, "/")


def _find_group(wanted: str, text: str) -> int:
    gid = _number(wanted)
    if gid is not None:
        return gid
    for group in _groups(text):
        if group.name == wanted:
            return group.gid
    raise UnknownUserError(
        f"the image has no group {wanted[:80]!r}", hint="use a number, or a name from the image's /etc/group"
    )


def _memberships(name: str, text: str) -> dict[int, None]:
    """The groups that list `name`, each once, in the file's order."""
    gids = {group.gid: None for group in _groups(text) if name and name in group.members.split(",")}
    if len(gids) > MAX_GROUPS:
        raise UnknownUserError(f"the image puts {name[:80]!r} into {len(gids)} groups; {MAX_GROUPS} are possible")
    return gids


def _accounts(text: str) -> Iterator[_Account]:
    for fields in _lines(text, 7):
        uid, gid = _line_id(fields[2]), _line_id(fields[3])
        if uid is not None and gid is not None:
            home = fields[5] if fields[5].startswith("/") and "\0" not in fields[5] else "/"
            yield _Account(fields[0], uid, gid, home)


def _groups(text: str) -> Iterator[_Group]:
    for fields in _lines(text, 4):
        gid = _line_id(fields[2])
        if gid is not None:
            yield _Group(fields[0], gid, fields[3])


def _lines(text: str, count: int) -> Iterator[list[str]]:
    """Lines with exactly `count` fields and a name. Only "\\n" ends a line: str.splitlines knows ten more ways."""
    for line in text.split("\n"):
        fields = line.split(":")
        if len(fields) == count and fields[0]:
            yield fields


def _number(text: str) -> int | None:
    """An id given by the caller, or None when `text` is a name. Raises UnknownUserError when out of range."""
    if not _is_digits(text):
        return None
    value = _line_id(text)
    if value is None:
        raise UnknownUserError(f"{text[:80]!r} is no user or group id", hint=f"ids go from 0 to {MAX_ID}")
    return value


def _line_id(text: str) -> int | None:
    """An id of a file's line, or None when it is none."""
    digits = text.lstrip("0") or "0"
    if not _is_digits(text) or len(digits) > 10 or int(digits) > MAX_ID:
        return None
    return int(digits)


def _is_digits(text: str) -> bool:
    return text.isascii() and text.isdigit()
