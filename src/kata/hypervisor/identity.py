"""A user id of its own for every VMM, so that one that is taken over can touch no other. Knows no hypervisor.

A claim is a small file `<state>/uids/<uid>` that names the owner's directory. The claim holds for as long as
that directory exists, so nothing has to run for a claim to end: what a crash leaves behind is taken over by
the next claim once the sandbox's directory is gone. The flock is held only while one file is looked at, and a
locked file is passed over, so that no claim ever waits.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import zlib
from collections.abc import Callable
from pathlib import Path

import msgspec

from kata.hypervisor.errors import IdentityError
from kata.paths import state_dir

FIRST_UID = 1_879_048_192
"""The first number above systemd's range for container users; unused by convention (systemd, UIDS-GIDS)."""

UID_COUNT = 65_536


class Identity(msgspec.Struct, frozen=True):
    """A user and a group that belong to one sandbox. `release` gives them back."""

    uid: int
    gid: int
    claim: str

    def release(self) -> None:
        """Give the ids back. Does nothing when that happened before."""
        _give_back(self.claim, lambda owner: True)


def claim_identity(owner: str, *, first: int = FIRST_UID, count: int = UID_COUNT) -> Identity:
    """Claim a uid and the gid of the same number for the sandbox whose directory is `owner` (it must exist).

    Raises IdentityError when all `count` ids from `first` on are taken.
    """
    claims = state_dir() / "uids"
    claims.mkdir(mode=0o700, parents=True, exist_ok=True)
    start = zlib.crc32(os.fsencode(owner)) % count
    for step in range(count):
        uid = first + (start + step) % count
        claim = str(claims / str(uid))
        if not _is_in_passwd(uid) and _take(claim, owner):
            return Identity(uid=uid, gid=uid, claim=claim)
    raise IdentityError(
        f"all {count} user ids from {first} on are in use",
        hint="stop some sandboxes, or configure a larger range",
    )


def release_identities(owner: str) -> None:
    """Give back what a sandbox that died held: every claim of `owner`, whose directory is gone by now."""
    for uid, found in claims().items():
        if found == owner:
            _give_back(str(state_dir() / "uids" / str(uid)), lambda now: now == owner and not os.path.isdir(now))


def claims() -> dict[int, str]:
    """The folder that each claimed user id is for, whether that is there or not."""
    found = {}
    try:
        names = os.listdir(state_dir() / "uids")
    except FileNotFoundError:
        return {}
    for name in names:
        try:
            found[int(name)] = os.fsdecode((state_dir() / "uids" / name).read_bytes())
        except (OSError, ValueError):
            continue  # it was given back meanwhile
    return found


def abandoned_claims() -> dict[int, str]:
    """Those whose folder is gone, or that were never said to be for one; one that is being made is passed over."""
    found = {}
    for uid in claims():
        fd = _open_locked(str(state_dir() / "uids" / str(uid)), os.O_RDWR)
        if fd is not None:
            owner = os.fsdecode(os.pread(fd, 4096, 0))
            if not os.path.isdir(owner):
                found[uid] = owner
            os.close(fd)
    return found


def _give_back(claim: str, wanted: Callable[[str], bool]) -> None:
    """Remove a claim if it is that owner's; looked at under its lock, since others take over what nobody needs."""
    fd = _open_locked(claim, os.O_RDWR)
    if fd is None:
        return
    try:
        if wanted(os.fsdecode(os.pread(fd, 4096, 0))):
            Path(claim).unlink()
    finally:
        os.close(fd)


def _is_in_passwd(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def _take(claim: str, owner: str) -> bool:
    fd = _open_locked(claim, os.O_RDWR | os.O_CREAT)
    if fd is None:
        return False
    try:
        holder = os.pread(fd, 4096, 0)
        if holder and os.path.isdir(holder):
            return False
        os.ftruncate(fd, 0)
        os.pwrite(fd, os.fsencode(owner), 0)
        return True
    finally:
        os.close(fd)


def _open_locked(path: str, flags: int) -> int | None:
    """The claim file, locked; None when it is gone, another process looks at it, or it was removed meanwhile."""
    try:
        fd = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    if os.fstat(fd).st_nlink == 0:
        os.close(fd)
        return None
    return fd
