"""Choosing a guest CID, without a vhost-vsock device: the ioctl is a parameter."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from itertools import islice

import pytest

from kata.hypervisor.errors import HypervisorError
from kata.hypervisor.vsock import FIRST_CID, LAST_CID, SET_GUEST_CID, candidates, claim_cid, random_cid


def busy(*taken: int) -> Callable[[int, int], None]:
    def assign(_fd: int, cid: int) -> None:
        if cid in taken:
            raise OSError(errno.EADDRINUSE, "in use")

    return assign


@pytest.mark.parametrize(
    ("start", "taken", "expected"),
    [
        (100, (), 100),
        (100, (100, 101), 102),
        (LAST_CID, (LAST_CID,), LAST_CID - 1),
        (LAST_CID - 1, (LAST_CID - 1, LAST_CID, LAST_CID - 2), LAST_CID - 3),
    ],
)
def test_search_goes_up_then_down(start: int, taken: tuple[int, ...], expected: int) -> None:
    claimed = claim_cid(start, device=os.devnull, assign=busy(*taken))
    assert claimed.cid == expected
    os.close(claimed.fd)


def test_the_reserved_numbers_are_never_tried() -> None:
    assert list(islice(candidates(LAST_CID), 2)) == [LAST_CID, LAST_CID - 1]
    assert all(FIRST_CID <= random_cid() <= LAST_CID for _ in range(1000))


def test_request_number_is_the_kernels() -> None:
    write, size, kind, number = 1, 8, 0xAF, 0x60
    assert write << 30 | size << 16 | kind << 8 | number == SET_GUEST_CID


def test_another_error_ends_the_search_and_leaks_nothing() -> None:
    before = len(os.listdir("/proc/self/fd"))

    def refuse(_fd: int, _cid: int) -> None:
        raise OSError(errno.EPERM, "no")

    with pytest.raises(HypervisorError, match="no vsock address"):
        claim_cid(5, device=os.devnull, assign=refuse)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_host_without_vhost_vsock() -> None:
    with pytest.raises(HypervisorError, match="cannot be opened") as caught:
        claim_cid(device="/nonexistent/vhost-vsock")
    assert "serial" in caught.value.hint
