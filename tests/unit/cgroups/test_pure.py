"""Paths of both kinds of engines, what is written for which version, and which devices may be used."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata.cgroups.limits import Limits, Rule, Write, device_rules, majors, writes
from kata.cgroups.path import Placement, placement, sandbox_path


@pytest.mark.parametrize(
    ("given_path", "expected"),
    [
        ("/default/box", "/default/kata_box"),
        ("kubepods/burstable/pod1/abc", "/kubepods/burstable/pod1/kata_abc"),
        ("/box", "/kata_box"),
        ("/default/box/", "/default/kata_box"),
        ("", "/kata_id1"),
        ("/", "/kata_id1"),
        ("../../../etc", "/kata_etc"),
        (
            "kubepods-besteffort-pod1.slice:cri-containerd:abc",
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1.slice/kata_cri-containerd-abc.scope",
        ),
        ("system.slice::abc", "/system.slice/kata_abc.scope"),
        ("system.slice:docker:abc.scope", "/system.slice/kata_abc.scope"),
        (":docker:abc", "/system.slice/kata_docker-abc.scope"),
        ("-.slice:docker:abc", "/kata_docker-abc.scope"),
        ("/a:b:c/d", "/a:b:c/kata_d"),
    ],
)
def test_paths(given_path: str, expected: str) -> None:
    assert sandbox_path(given_path, "id1") == expected


@given(st.text(alphabet="ab./:-", max_size=30))
def test_no_path_leads_out_of_the_tree(given_path: str) -> None:
    path = sandbox_path(given_path, "id1")
    assert path.startswith("/") and ".." not in path.split("/") and path.rpartition("/")[2].startswith("kata_")


def test_together_or_apart() -> None:
    assert placement("/default/box", "id1", together=True) == Placement("/default/kata_box")
    assert placement("/default/box", "id1", together=False) == Placement("/default/kata_box", "/kata_overhead/id1")


def test_limits_of_v1_and_v2() -> None:
    limits = Limits(cpu=1.5, memory=1 << 26, cpus="0,2", nodes="0")
    assert writes(limits, 1) == [
        Write("cpuset", "cpuset.cpus", "0,2"),
        Write("cpuset", "cpuset.mems", "0"),
        Write("cpu", "cpu.cfs_period_us", "100000"),
        Write("cpu", "cpu.cfs_quota_us", "150000"),
        Write("memory", "memory.limit_in_bytes", "67108864"),
    ]
    assert writes(limits, 2)[2:] == [Write("cpu", "cpu.max", "150000 100000")], "no limit of memory for a whole VMM"
    assert [write.value for write in writes(Limits(), 1)] == ["100000", "-1", "-1"]
    assert writes(Limits(), 2) == [Write("cpu", "cpu.max", "max 100000")]
    assert writes(Limits(cpu=0.001), 2) == [Write("cpu", "cpu.max", "1000 100000")], "the kernel's least"


def test_devices() -> None:
    lines = [rule.line() for rule in device_rules([243])]
    assert {"c 1:3 rwm", "c 10:232 rwm", "c 136:* rwm", "c 243:* rwm", "b *:* rwm", "c *:* m"} <= set(lines)
    assert "c *:* rwm" not in lines and "a *:* rwm" not in lines
    assert Rule("c", 5, -1, "r").line() == "c 5:* r"
    table = "Character devices:\n  1 mem\n243 vfio\n\nBlock devices:\n  7 loop\n243 vfio\n"
    assert majors(table, "vfio") == [243]
    assert majors(table, "loop") == []
