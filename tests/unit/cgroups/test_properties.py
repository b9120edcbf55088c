"""What systemd is told of a scope."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata.cgroups.limits import Limits, Rule, device_rules, writes
from kata.cgroups.mark import mark, read_mark
from kata.cgroups.path import Placement, placement
from kata.cgroups.properties import NO_LIMIT, bitmap, limit_properties, rule_properties, scope_properties

DEVICES = """Character devices:
  1 mem
  4 /dev/vc/0
  4 tty
136 pts
240 vfio

Block devices:
  1 ramdisk
  8 sd
"""


def test_a_scope() -> None:
    found = dict(scope_properties("a.slice", [4, 5], "what it is"))
    assert found["Slice"] == ("s", "a.slice") and found["PIDs"] == ("au", [4, 5])
    assert found["Delegate"] == ("b", True) and found["DefaultDependencies"] == ("b", False)
    assert found["TasksMax"] == ("t", 2**64 - 1)


@pytest.mark.parametrize(
    ("cpus", "expected"),
    [("0", b"\x01"), ("0-3", b"\x0f"), ("1,3", b"\x0a"), ("8", b"\x00\x01"), ("0,9-10", b"\x01\x06"), ("", b"")],
)
def test_bitmaps(cpus: str, expected: bytes) -> None:
    assert bitmap(cpus) == expected


@given(st.sets(st.integers(0, 4095), min_size=1))
def test_any_bitmap_has_its_numbers(numbers: set[int]) -> None:
    found = bitmap(",".join(map(str, sorted(numbers))))
    assert {8 * index + bit for index, byte in enumerate(found) for bit in range(8) if byte >> bit & 1} == numbers
    assert found[-1] != 0


@given(st.floats(0.0001, 512))
def test_the_quota_is_what_the_kernel_is_told(cpu: float) -> None:
    """systemd divides by the period of a second and multiplies by the kernel's: the same number comes out."""
    ((_, (_, told)),) = limit_properties(Limits(cpu), {"cpu": 1})[0]
    quota = next(int(write.value) for write in writes(Limits(cpu), 1) if write.file == "cpu.cfs_quota_us")
    assert isinstance(told, int) and told * 100_000 // 1_000_000 == quota


def test_limits_by_version() -> None:
    limits = Limits(0.5, 1 << 20, "0-1", "0")
    v1 = dict.fromkeys(("cpu", "memory", "cpuset"), 1)
    assert limit_properties(limits, v1) == [[("CPUQuotaPerSecUSec", ("t", 500_000)), ("MemoryLimit", ("t", 1 << 20))]]
    assert limit_properties(limits, dict.fromkeys(v1, 2)) == [
        [("CPUQuotaPerSecUSec", ("t", 500_000))],
        [("AllowedCPUs", ("ay", b"\x03")), ("AllowedMemoryNodes", ("ay", b"\x01"))],
    ]
    assert limit_properties(Limits(), v1) == [
        [("CPUQuotaPerSecUSec", ("t", NO_LIMIT)), ("MemoryLimit", ("t", NO_LIMIT))]
    ]
    assert limit_properties(limits, {}) == []


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (Rule("c", 1, 3), [("/dev/char/1:3", "rwm")]),
        (Rule("u", 1, 3, "r"), [("/dev/char/1:3", "r")]),
        (Rule("b", 8, 0, "rw"), [("/dev/block/8:0", "rw")]),
        (Rule("c", 136, -1), [("char-pts", "rwm")]),
        (Rule("c", 4, -1), [("char-/dev/vc/0", "rwm"), ("char-tty", "rwm")]),
        (Rule("b", 1, -1), [("block-ramdisk", "rwm")]),
        (Rule("c", -1, -1, "m"), [("char-*", "m")]),
        (Rule("a", -1, -1), [("block-*", "rwm"), ("char-*", "rwm")]),
        (Rule("c", 99, -1), []),
        (Rule("p", 1, 1), []),
    ],
)
def test_rules(rule: Rule, expected: list[tuple[str, str]]) -> None:
    assert rule_properties([rule], DEVICES)[1:] == ([("DeviceAllow", ("a(ss)", expected))] if expected else [])


def test_no_rule_never_takes_back_the_others() -> None:
    assert rule_properties([], DEVICES) == [("DevicePolicy", ("s", "strict"))]
    assert rule_properties(device_rules([240]), "")[0] == ("DevicePolicy", ("s", "strict"))


@pytest.mark.parametrize(
    ("given_path", "together", "expected", "folders"),
    [
        (
            "kubepods-pod1.slice:cri-containerd:abc",
            False,
            Placement(
                "/kubepods.slice/kubepods-pod1.slice/cri-containerd-abc.scope",
                "/kata_overhead.slice/kata_overhead-id1.scope",
                scopes=True,
            ),
            Placement("/kubepods.slice/kubepods-pod1.slice/kata_cri-containerd-abc.scope", "/kata_overhead/id1"),
        ),
        (
            "-.slice::abc",
            True,
            Placement("/abc.scope", scopes=True),
            Placement("/kata_abc.scope"),
        ),
        (
            "a.slice:x:b.slice",
            True,
            Placement("/a.slice/kata_b.slice"),
            Placement("/a.slice/kata_b.slice"),
        ),
    ],
)
def test_scopes_and_their_folders(given_path: str, together: bool, expected: Placement, folders: Placement) -> None:
    assert placement(given_path, "id1", together=together) == expected
    assert expected.folders() == folders == folders.folders()


@given(st.text("ab:./-", max_size=20), st.booleans())
def test_marks_say_where_all_of_it_is(given_path: str, together: bool) -> None:
    place = placement(given_path, "id1", together=together)
    for variant in (place, place.folders()):
        assert ".." not in variant.sandbox.split("/") and variant.sandbox.startswith("/")
        entry = read_mark(mark("/state/id1", variant).encode())
        assert entry is not None and entry == ("/state/id1", variant)


@pytest.mark.parametrize("text", ["/a\n/b", "/a\n/b\n\nelse", "/a\n/b\n\nscopes\n", "a\n/b\n", "/a\nb\n", "folder", ""])
def test_no_mark_of_a_sandbox(text: str) -> None:
    assert read_mark(text.encode()) is None
