"""Huge pages for hugetlbfs storages: counted out of the guest's memory, given back with the mount.

`memory` asks for them, `mounter` alone reserves and gives back. Storages with the same page size share the kernel's
one pool, so each adds its own pages to it (upstream sets the pool and takes an earlier storage's pages away).
"""

from __future__ import annotations

import os
import threading
from typing import NamedTuple

from kata.agent.storages.errors import InvalidStorage, StorageError, UnsupportedStorage
from kata.linux.fds import read_text, write_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_POOL = threading.Lock()  # nr_hugepages is read and written back; nothing else waits here


class HugePages(NamedTuple):
    """`number` pages of the pool whose sysfs folder is `pool` (Documentation/admin-guide/mm/hugetlbpage.rst)."""

    pool: str
    number: int


def ask_for(values: Mapping[str, str], sysfs: str) -> HugePages:
    """The pages that the options `pagesize` and `size` (bytes) need. Raises InvalidStorage, UnsupportedStorage."""
    page, size = (_bytes(key, values.get(key, "")) for key in ("pagesize", "size"))
    if page % 1024 or size % page:
        raise InvalidStorage(f"size={size} is no whole number of pages of {page} bytes")
    pool = f"{sysfs}/kernel/mm/hugepages/hugepages-{page // 1024}kB"
    if not os.path.isdir(pool):
        raise UnsupportedStorage(f"the guest's kernel has no huge pages of {page} bytes")
    return HugePages(pool, size // page)


def reserve(pages: HugePages) -> None:
    """Add the pages to their pool. Raises StorageError when memory does not suffice: the pool is as before then."""
    with _POOL:
        before = _count(pages)
        _set(pages, before + pages.number)
        got = _count(pages) - before
        if got < pages.number:
            _set(pages, before)
            raise StorageError(
                f"only {max(got, 0)} of {pages.number} huge pages could be had",
                hint="Give the sandbox more memory, or ask for the pages earlier.",
            )


def give_back(pages: HugePages) -> None:
    """Take the pages out of their pool again. Raises OSError."""
    with _POOL:
        _set(pages, max(0, _count(pages) - pages.number))


def _bytes(key: str, text: str) -> int:
    if not text.isascii() or not text.isdecimal() or not 0 < int(text) < 1 << 63:
        raise InvalidStorage(f"hugetlbfs needs {key}=<bytes>, not {text!r}")
    return int(text)


def _count(pages: HugePages) -> int:
    return int(read_text(f"{pages.pool}/nr_hugepages"))


def _set(pages: HugePages, count: int) -> None:
    write_text(f"{pages.pool}/nr_hugepages", str(count))
