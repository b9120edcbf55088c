"""What links, filters and queueing disciplines of ours are called: by that, and by that alone, they are known again."""

from __future__ import annotations

import re

from kata.linux.rtnetlink import Link

COOKIE = b"kata"
"""What filters of ours carry."""
LIMIT_HANDLE = 0x6B61_0000
"""The handle of rate limits of ours: "ka" as two letters."""

_OURS = re.compile(r"(tap|ifb)[0-9]{1,7}_kata")
_KINDS = frozenset({"tun", "macvtap", "ifb"})
_MODULUS = 10_000_000  # a name has 15 bytes at most


def tap_name(index: int) -> str:
    """The tap or macvtap that is joined to the interface `index`."""
    return f"tap{index % _MODULUS}_kata"


def ifb_name(index: int) -> str:
    """The link through which a rate limit has what arrives at the interface `index` pass."""
    return f"ifb{index % _MODULUS}_kata"


def is_ours(link: Link) -> bool:
    """Whether we made this link."""
    return link.kind in _KINDS and _OURS.fullmatch(link.name) is not None
