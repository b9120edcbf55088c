"""The batch of device updates: pure, in one pass, never twice, all or nothing."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kata.agent.edits import AddedNode, Edits
from kata.agent.updates import (
    GuestNode,
    SpecUpdate,
    UpdateError,
    apply_updates,
    merge_pci,
    translate_env,
)

NULL, ZERO, FULL = (1, 3), (1, 5), (1, 7)


def device(path: str, numbers: tuple[int, int], kind: str = "c", **more: Any) -> dict[str, Any]:
    return {"path": path, "type": kind, "major": numbers[0], "minor": numbers[1], **more}


def rule(numbers: tuple[int, int], kind: str = "c", *, allow: bool = True, access: str = "rw") -> dict[str, Any]:
    return {"allow": allow, "type": kind, "major": numbers[0], "minor": numbers[1], "access": access}


def given_rule(numbers: tuple[int, int], kind: str = "c") -> dict[str, Any]:
    return rule(numbers, kind, access="rwm")


def spec_of(devices: list[dict[str, Any]], rules: list[dict[str, Any]] | None = None) -> Any:
    linux: dict[str, Any] = {"devices": devices}
    if rules is not None:
        linux["resources"] = {"devices": rules}
    return {"ociVersion": "1.2.0", "linux": linux}


def update(path: str, numbers: tuple[int, int], kind: str = "c", **more: Any) -> SpecUpdate:
    return SpecUpdate(path, GuestNode(kind, *numbers), **more)


def rules_of(spec: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = spec["linux"]["resources"]["devices"]
    return found


def test_guest_numbers_that_are_other_devices_host_numbers() -> None:
    spec = spec_of([device("/dev/a", NULL), device("/dev/b", ZERO)], [rule(NULL), rule(ZERO)])
    adapted = apply_updates(spec, [update("/dev/a", ZERO), update("/dev/b", FULL)])
    assert adapted["linux"]["devices"] == [device("/dev/a", ZERO), device("/dev/b", FULL)]
    assert rules_of(adapted) == [rule(ZERO), rule(FULL), given_rule(ZERO), given_rule(FULL)]


def test_one_of_two_devices_leaves_the_other() -> None:
    spec = spec_of([device("/dev/a", NULL), device("/dev/b", ZERO)], [rule(NULL), rule(ZERO)])
    adapted = apply_updates(spec, [update("/dev/a", ZERO)])
    assert adapted["linux"]["devices"] == [device("/dev/a", ZERO), device("/dev/b", ZERO)]
    assert rules_of(adapted) == [rule(ZERO), rule(ZERO), given_rule(ZERO)]


def test_char_and_block_numbers_are_apart() -> None:
    spec = spec_of([device("/dev/c", (99, 99)), device("/dev/b", (99, 99), "b")], [rule((99, 99)), rule((99, 99), "b")])
    adapted = apply_updates(spec, [update("/dev/c", NULL)])
    assert adapted["linux"]["devices"] == [device("/dev/c", NULL), device("/dev/b", (99, 99), "b")]
    assert rules_of(adapted) == [rule(NULL), rule((99, 99), "b"), given_rule(NULL)]


def test_unbuffered_character_devices_are_character_devices() -> None:
    adapted = apply_updates(spec_of([device("/dev/u", NULL, "u")], [rule(NULL)]), [update("/dev/u", ZERO)])
    assert adapted["linux"]["devices"] == [device("/dev/u", ZERO, "u")]
    assert rules_of(adapted) == [rule(ZERO), given_rule(ZERO)]


def test_final_path_and_everything_else_of_the_device_stays() -> None:
    spec = spec_of([device("/dev/original", NULL, fileMode=0o640, uid=7, gid=8)])
    adapted = apply_updates(spec, [update("/dev/original", FULL, final_path="/dev/new")])
    assert adapted["linux"]["devices"] == [device("/dev/new", FULL, fileMode=0o640, uid=7, gid=8)]


def test_resources_are_made_when_the_spec_has_none() -> None:
    adapted = apply_updates(spec_of([device("/dev/a", NULL)]), [update("/dev/a", FULL)])
    assert rules_of(adapted) == [given_rule(FULL)]


def test_wildcard_rules_are_left_alone() -> None:
    wild: list[dict[str, Any]] = [
        {"allow": False, "access": "rwm"},
        {"allow": True, "type": "c", "major": 1, "access": "r"},
        {"allow": True, "type": "c", "minor": 3, "access": "r"},
        {"allow": True, "type": "c", "major": 1, "minor": None, "access": "r"},
        {"allow": True, "type": "a", "major": 1, "minor": 3, "access": "r"},
    ]
    adapted = apply_updates(spec_of([device("/dev/a", NULL)], wild), [update("/dev/a", FULL)])
    assert rules_of(adapted) == [*wild, given_rule(FULL)]


def test_minor_zero_is_a_number_like_others() -> None:
    adapted = apply_updates(
        spec_of([device("/dev/sda", (8, 0), "b")], [rule((8, 0), "b")]), [update("/dev/sda", (254, 0), "b")]
    )
    assert rules_of(adapted) == [rule((254, 0), "b"), given_rule((254, 0), "b")]


def test_numbers_beyond_eight_and_twenty_bits() -> None:
    spec = spec_of([device("/dev/a", (4095, 1048575), "b")], [rule((4095, 1048575), "b")])
    adapted = apply_updates(spec, [update("/dev/a", (511, 1048576), "b")])
    assert rules_of(adapted)[0] == rule((511, 1048576), "b")


def test_one_host_device_at_two_paths() -> None:
    spec = spec_of([device("/dev/a", NULL), device("/dev/b", NULL)], [rule(NULL)])
    adapted = apply_updates(spec, [update("/dev/a", FULL), update("/dev/b", FULL)])
    assert adapted["linux"]["devices"] == [device("/dev/a", FULL), device("/dev/b", FULL)]
    assert rules_of(adapted) == [rule(FULL), given_rule(FULL)]


def test_two_host_paths_that_become_one_are_one_node() -> None:
    spec = spec_of([device("/dev/vfio/7", NULL), device("/dev/alias", NULL)])
    updates = [update(path, FULL, final_path="/dev/vfio/0") for path in ("/dev/vfio/7", "/dev/alias")]
    assert apply_updates(spec, updates)["linux"]["devices"] == [device("/dev/vfio/0", FULL)]


REFUSED: list[tuple[str, Any, list[SpecUpdate]]] = [
    ("Missing devices in OCI spec: ", spec_of([device("/dev/a", NULL)]), [update("", NULL)]),
    ("Missing devices in OCI spec: /dev/b", spec_of([device("/dev/a", NULL)]), [update("/dev/b", NULL)]),
    ("Missing devices in OCI spec: /dev/a", {}, [update("/dev/a", NULL)]),
    ("Missing devices in OCI spec: /dev/a", {"linux": {}}, [update("/dev/a", NULL)]),
    ("Missing devices in OCI spec: /dev/a", spec_of([]), [update("/dev/a", NULL)]),
    (
        "Missing devices in OCI spec: /dev/x, /dev/y",
        spec_of([device("/dev/a", NULL)]),
        [update("/dev/y", NULL), update("/dev/a", NULL), update("/dev/x", NULL)],
    ),
    (
        "Conflicting device updates for /dev/a",
        spec_of([device("/dev/a", NULL)]),
        [update("/dev/a", ZERO), update("/dev/a", ZERO)],
    ),
    (
        "Conflicting resource updates for host_major=1 host_minor=3",
        spec_of([device("/dev/a", NULL), device("/dev/b", NULL)]),
        [update("/dev/a", ZERO), update("/dev/b", FULL)],
    ),
    (
        "Conflicting resource updates",
        spec_of([device("/dev/a", NULL), device("/dev/a", ZERO), device("/dev/b", ZERO)]),
        [update("/dev/a", FULL), update("/dev/b", (9, 9))],
    ),
    (
        "/dev/a is a device of type 'c' in the spec but 'b' in the guest",
        spec_of([device("/dev/a", NULL)]),
        [update("/dev/a", NULL, "b")],
    ),
    (
        "is a device of type 'p' in the spec",
        spec_of([{"path": "/dev/a", "type": "p"}]),
        [update("/dev/a", NULL)],
    ),
    (
        "Two different devices would be at /dev/b",
        spec_of([device("/dev/a", NULL), device("/dev/b", ZERO)]),
        [update("/dev/a", FULL, final_path="/dev/b")],
    ),
    (
        "Conflicting guest addresses for PCI device 0000:01:00.0",
        {},
        [
            SpecUpdate("/dev/a", None, pci=(("0000:01:00.0", "0000:00:01.0"),)),
            SpecUpdate("/dev/b", None, pci=(("0000:01:00.0", "0000:00:02.0"),)),
        ],
    ),
]


@pytest.mark.parametrize(("sentence", "spec", "updates"), REFUSED)
def test_what_is_refused_changes_nothing(sentence: str, spec: Any, updates: list[SpecUpdate]) -> None:
    spec = {**spec, "process": {"env": ["PCIDEVICE_X=0000:01:00.0"]}}
    before = copy.deepcopy(spec)
    with pytest.raises(UpdateError) as caught:
        apply_updates(spec, updates)
    assert sentence in str(caught.value)
    assert spec == before


def test_no_updates_is_no_change() -> None:
    spec = spec_of([device("/dev/a", NULL)], [rule(NULL)])
    assert apply_updates(spec, []) == spec
    assert apply_updates({}, []) == {}


@st.composite
def batches(draw: st.DrawFn) -> tuple[Any, list[SpecUpdate]]:
    """A spec and fitting updates whose two number spaces overlap as much as can be."""
    keys = draw(
        st.lists(st.tuples(st.sampled_from("bc"), st.integers(0, 2), st.integers(0, 2)), unique=True, max_size=8)
    )
    devices = [device(f"/dev/d{index}", key[1:], key[0]) for index, key in enumerate(keys)]
    numbers = st.tuples(st.integers(0, 2), st.integers(0, 2))
    updates = [update(entry["path"], draw(numbers), entry["type"]) for entry in devices if draw(st.booleans())]
    some_rule = st.fixed_dictionaries(
        {"allow": st.booleans(), "access": st.sampled_from(["r", "rwm"])},
        optional={"type": st.sampled_from("abc"), "major": st.integers(0, 2), "minor": st.integers(0, 2)},
    )
    return spec_of(devices, draw(st.lists(some_rule, max_size=8))), updates


def translate_alone(entry: dict[str, Any], devices: list[dict[str, Any]], nodes: dict[str, GuestNode]) -> Any:
    """One entry by the definition: what it is on the host, looked up in the untouched spec."""
    for other in devices:
        same = all(entry.get(key) == other[key] for key in ("type", "major", "minor"))
        if same and other["path"] in nodes:
            node = nodes[other["path"]]
            return {**entry, "major": node.major, "minor": node.minor}
    return entry


@settings(deadline=None)
@given(batches(), st.randoms(use_true_random=False))
def test_every_entry_is_translated_from_the_untouched_spec(batch: Any, random: Any) -> None:
    spec, updates = batch
    before = copy.deepcopy(spec)
    devices = before["linux"]["devices"]
    nodes = {entry.container_path: entry.node for entry in updates}
    adapted: Any = apply_updates(spec, updates)
    assert spec == before
    assert adapted["linux"]["devices"] == [translate_alone(entry, devices, nodes) for entry in devices]
    count = len(rules_of(before))
    expected = [translate_alone(entry, devices, nodes) for entry in rules_of(before)]
    assert rules_of(adapted)[:count] == expected
    allowed = {(entry["type"], entry["major"], entry["minor"]) for entry in rules_of(adapted)[count:]}
    assert allowed == set(nodes.values())
    shuffled = list(updates)
    random.shuffle(shuffled)
    assert apply_updates(spec, shuffled) == adapted


@pytest.mark.parametrize("count", [2, 3, 7])
def test_rotations(count: int) -> None:
    numbers = [(10, index) for index in range(count)]
    turned = numbers[1:] + numbers[:1]
    spec = spec_of(
        [device(f"/dev/{index}", entry) for index, entry in enumerate(numbers)], [rule(entry) for entry in numbers]
    )
    updates = [update(f"/dev/{index}", entry) for index, entry in enumerate(turned)]
    for order in itertools.islice(itertools.permutations(updates), 30):
        adapted: Any = apply_updates(spec, order)
        assert [(entry["major"], entry["minor"]) for entry in adapted["linux"]["devices"]] == turned
        assert rules_of(adapted) == [rule(entry) for entry in turned] + [given_rule(entry) for entry in turned]


@settings(deadline=None)
@given(batches(), st.data())
def test_one_by_one_is_not_the_same_and_the_batch_is_right(batch: Any, data: st.DataObject) -> None:
    """Each rule goes by what it was on the host: taking any update away changes only what that device's rules say."""
    spec, updates = batch
    if not updates:
        return
    left_out = data.draw(st.sampled_from(updates))
    whole: Any = apply_updates(spec, updates)
    part: Any = apply_updates(spec, [other for other in updates if other is not left_out])
    [host] = [entry for entry in spec["linux"]["devices"] if entry["path"] == left_out.container_path]
    for before, first, second in zip(rules_of(spec), rules_of(whole), rules_of(part), strict=False):
        if not all(before.get(key) == host[key] for key in ("type", "major", "minor")):
            assert first == second
    for first, second in zip(whole["linux"]["devices"], part["linux"]["devices"], strict=True):
        assert first == second or first["path"] == left_out.container_path


PCI = {"0000:1a:01.0": "0000:01:01.0", "0000:1b:02.0": "0000:01:02.0", "0000:01:01.0": "ffff:02:1f.7"}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (["PCIDEVICE_A=0000:1a:01.0"], ["PCIDEVICE_A=0000:01:01.0"]),
        (["PCIDEVICE_A=0000:1A:01.0"], ["PCIDEVICE_A=0000:01:01.0"]),
        # the third pair's host address is the first's guest address: no second translation
        (
            ["PCIDEVICE_A=0000:1a:01.0,0000:1b:02.0", "PCIDEVICE_B=0000:01:01.0"],
            ["PCIDEVICE_A=0000:01:01.0,0000:01:02.0", "PCIDEVICE_B=ffff:02:1f.7"],
        ),
        (
            ["PCIDEVICE_A=0000:1a:01.0,0000:01:01.0", 'PCIDEVICE_A_INFO={"0000:1a:01.0":{"x":"0000:01:01.0"}}'],
            ["PCIDEVICE_A=0000:01:01.0,ffff:02:1f.7", 'PCIDEVICE_A_INFO={"0000:01:01.0":{"x":"ffff:02:1f.7"}}'],
        ),
        # only the addresses of its own variable
        (
            ["PCIDEVICE_A=0000:1a:01.0", "PCIDEVICE_A_INFO=0000:1a:01.0 0000:1b:02.0"],
            ["PCIDEVICE_A=0000:01:01.0", "PCIDEVICE_A_INFO=0000:01:01.0 0000:1b:02.0"],
        ),
        # the order of the two does not matter
        (
            ["PCIDEVICE_A_INFO=[0000:1a:01.0]", "PCIDEVICE_A=0000:1a:01.0"],
            ["PCIDEVICE_A_INFO=[0000:01:01.0]", "PCIDEVICE_A=0000:01:01.0"],
        ),
        # part of a longer text is no address
        (
            ["PCIDEVICE_A=0000:1a:01.0", "PCIDEVICE_A_INFO=10000:1a:01.0 0000:1a:01.00"],
            ["PCIDEVICE_A=0000:01:01.0", "PCIDEVICE_A_INFO=10000:1a:01.0 0000:1a:01.00"],
        ),
    ],
)
def test_environment(before: list[str], after: list[str]) -> None:
    assert translate_env(before, PCI) == after


@pytest.mark.parametrize(
    "env",
    [
        ["PCIDEVICE_A=0000:99:00.0", "PCIDEVICE_A_INFO=0000:1a:01.0"],
        ["PCIDEVICE_A=0000:1a:01.0,0000:99:00.0", "PCIDEVICE_A_INFO=0000:1a:01.0"],
        ["PCIDEVICE_QAT=0b8c2a1e-7f5c-4b51-8c2d-2d2f1f3f1c11"],
        ["PCIDEVICE_A=0000:1a:01.0,"],
        ["PCIDEVICE_A="],
        ["PCIDEVICE_A"],
        ["XPCIDEVICE_A=0000:1a:01.0", "A=0000:1a:01.0"],
        ["PCIDEVICE_A_INFO=0000:1a:01.0"],
        [],
    ],
)
def test_environment_that_stays(env: list[str]) -> None:
    assert translate_env(env, PCI) == env


def test_addresses_of_all_devices_are_merged_and_written_back() -> None:
    spec: Any = {
        **spec_of([device("/dev/disk", NULL, "b")]),
        "process": {"args": ["x"], "env": ["PCIDEVICE_A=0000:1a:01.0", "PCIDEVICE_B=0000:1b:02.0", "P=1"]},
    }
    updates = [
        SpecUpdate("/dev/vfio/1", None, pci=(("0000:1a:01.0", "0000:01:01.0"),)),
        SpecUpdate("/dev/vfio/2", None, pci=(("0000:1B:02.0", "0000:01:02.0"),)),
        update("/dev/disk", FULL, "b"),  # the last one has no addresses
    ]
    adapted = apply_updates(spec, updates)
    assert adapted["process"] == {
        "args": ["x"],
        "env": ["PCIDEVICE_A=0000:01:01.0", "PCIDEVICE_B=0000:01:02.0", "P=1"],
    }
    assert merge_pci(updates) == {"0000:1a:01.0": "0000:01:01.0", "0000:1b:02.0": "0000:01:02.0"}


def added(path: str, numbers: tuple[int, int], kind: str = "c", **more: Any) -> SpecUpdate:
    return SpecUpdate("/dev/vfio/9", None, edits=Edits(nodes=(AddedNode(path, GuestNode(kind, *numbers), **more),)))


def test_nodes_that_come_with_a_device() -> None:
    spec = spec_of([device("/dev/a", NULL), device("/dev/infiniband/uverbs1", (231, 193))], [rule(FULL)])
    updates = [
        update("/dev/a", FULL),
        added("/dev/infiniband/uverbs1", (231, 7)),
        added("/dev/infiniband/uverbs0", FULL),
        added("/dev/infiniband/rdma_cm", (10, 5)),
        added("/dev/infiniband/rdma_cm", (10, 5)),  # of two adapters, once
    ]
    adapted = apply_updates(spec, updates)
    assert adapted == apply_updates(spec, updates[::-1])
    assert adapted["linux"]["devices"] == [
        device("/dev/a", FULL),
        device("/dev/infiniband/uverbs1", (231, 193)),  # the spec's own stays
        device("/dev/infiniband/rdma_cm", (10, 5)),
        device("/dev/infiniband/uverbs0", FULL),
    ]
    # added rules have guest numbers already: none is translated
    assert rules_of(adapted) == [rule(FULL), given_rule(FULL), given_rule((10, 5)), given_rule(FULL)]


def test_nodes_alone_make_resources() -> None:
    adapted = apply_updates({}, [added("/dev/x", NULL, mode=0o600, uid=1, gid=2, access="r")])
    assert adapted["linux"]["devices"] == [device("/dev/x", NULL, fileMode=0o600, uid=1, gid=2)]
    assert rules_of(adapted) == [rule(NULL, access="r")]


def test_two_different_nodes_at_one_path() -> None:
    with pytest.raises(UpdateError, match="Two different devices would be at /dev/x"):
        apply_updates({}, [added("/dev/x", NULL), added("/dev/x", ZERO)])


def test_an_added_node_may_take_the_place_of_one() -> None:
    adapted = apply_updates(spec_of([device("/dev/x", NULL)]), [added("/dev/x", ZERO, replace=True)])
    assert adapted["linux"]["devices"] == [device("/dev/x", ZERO)]


@settings(deadline=None)
@given(st.permutations(range(6)), st.integers(2, 6), st.booleans())
def test_rotations_of_any_length(order: list[int], count: int, has_rules: bool) -> None:
    """Each guest number is another device's host number; whatever the order, each entry moves one step."""
    numbers = [(10, index) for index in range(count)]
    turned = numbers[1:] + numbers[:1]
    devices = [device(f"/dev/{index}", entry, "b") for index, entry in enumerate(numbers)]
    spec = spec_of(devices, [rule(entry, "b") for entry in numbers] if has_rules else None)
    updates = [update(f"/dev/{index}", turned[index], "b") for index in order if index < count]
    adapted: Any = apply_updates(spec, updates)
    assert [(entry["major"], entry["minor"]) for entry in adapted["linux"]["devices"]] == turned
    moved = [rule(entry, "b") for entry in turned] if has_rules else []
    assert rules_of(adapted) == moved + [given_rule(entry, "b") for entry in turned]


@settings(deadline=None)
@given(batches(), st.integers(0, 3), st.randoms(use_true_random=False))
def test_a_failure_anywhere_in_the_batch_changes_nothing(batch: Any, kind: int, random: Any) -> None:
    spec, updates = batch
    spec["process"] = {"env": ["PCIDEVICE_A=0000:1a:01.0"]}
    before = copy.deepcopy(spec)
    bad = [
        [update("/dev/none", NULL)],
        [added("/dev/y", NULL), added("/dev/y", ZERO)],
        [SpecUpdate("/p", None, pci=(("0000:1a:01.0", guest),)) for guest in ("0000:00:01.0", "0000:00:02.0")],
        [update("/dev/none", NULL), update("/dev/none", ZERO)],
    ][kind]
    mixed = [*updates, *bad]
    random.shuffle(mixed)
    with pytest.raises(UpdateError):
        apply_updates(spec, mixed)
    assert spec == before
