"""What stands for a container on the host, and whose processes a path of it means."""

from __future__ import annotations

import os
import time
from typing import cast

import pytest

from kata.oci.spec import Spec
from kata.shim.standin import StandIn, joined_pid


def test_each_has_a_number_of_its_own_until_it_ends() -> None:
    one, two = StandIn(), StandIn("/no/such/namespace")
    assert len({one.pid, two.pid, os.getpid()}) == 3
    for made in (one, two):
        assert os.readlink(f"/proc/{made.pid}/ns/pid") == os.readlink("/proc/self/ns/pid")
    one.close()
    one.close()
    deadline = time.monotonic() + 10
    while os.path.exists(f"/proc/{one.pid}"):
        assert time.monotonic() < deadline, "the thread did not end"
    assert os.path.exists(f"/proc/{two.pid}")
    two.close()


@pytest.mark.parametrize(
    ("namespaces", "pid"),
    [
        ([{"type": "pid", "path": "/proc/123/ns/pid"}], 123),
        ([{"type": "net", "path": "/proc/123/ns/net"}, {"type": "pid"}], 0),
        ([{"type": "pid", "path": "/var/run/pidns/abc"}], 0),
        ([{"type": "pid", "path": "/proc/1/../2/ns/pid"}], 0),
        ([], 0),
    ],
)
def test_whose_processes(namespaces: list[dict[str, str]], pid: int) -> None:
    assert joined_pid(cast(Spec, {"linux": {"namespaces": namespaces}})) == pid
    assert joined_pid(cast(Spec, {})) == 0
