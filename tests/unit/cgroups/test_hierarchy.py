"""Which trees a host has: v1, v2 and hybrid, from its table of mounts."""

from __future__ import annotations

import pytest

from kata.cgroups.hierarchy import Hierarchy, parse, path_in

CPU = "34 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct"
MEMORY = "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory"
AGAIN = "99 31 0:32 / /mnt/memory rw,relatime - cgroup cgroup rw,memory"
NAMED = "40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd"
UNIFIED = "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate"
ALONE = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot"
OTHER = "31 23 0:28 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755"

V1 = [
    Hierarchy("/sys/fs/cgroup/cpu,cpuacct", 1, frozenset({"cpu", "cpuacct"})),
    Hierarchy("/sys/fs/cgroup/memory", 1, frozenset({"memory"})),
]


@pytest.mark.parametrize(
    ("lines", "unified", "expected"),
    [
        ([OTHER, CPU, MEMORY, AGAIN, NAMED], "", V1),
        ([OTHER, CPU, MEMORY, NAMED, UNIFIED], "", V1),
        ([OTHER, CPU, MEMORY, NAMED, UNIFIED], "hugetlb", V1),
        ([CPU, UNIFIED], "memory hugetlb", [V1[0], Hierarchy("/sys/fs/cgroup/unified", 2, frozenset({"memory"}))]),
        (
            [ALONE],
            "cpuset cpu io memory",
            [Hierarchy("/sys/fs/cgroup", 2, frozenset({"cpuset", "cpu", "io", "memory"}))],
        ),
        ([OTHER], "", []),
    ],
    ids=["v1", "hybrid", "hybrid with a controller of no use", "controllers in both", "v2", "none"],
)
def test_trees_of_a_host(lines: list[str], unified: str, expected: list[Hierarchy]) -> None:
    assert parse("\n".join(lines), lambda _: frozenset(unified.split())) == expected


def test_a_process_has_a_path_in_each_tree() -> None:
    paths = {"memory": "/a", "cpu": "/b", "cpuacct": "/b", "": "/c"}
    assert path_in(Hierarchy("/m", 1, frozenset({"memory"})), paths) == "/a"
    assert path_in(Hierarchy("/c", 1, frozenset({"cpu", "cpuacct"})), paths) == "/b"
    assert path_in(Hierarchy("/u", 2, frozenset({"memory"})), paths) == "/c"
    assert path_in(Hierarchy("/p", 1, frozenset({"pids"})), paths) == "/"
