"""A kill at any moment: 50 cuts in `make test`, 2,000 in `make soak`. See `tests.helpers.cuts`.

KATA_TEST_SEED draws the same operations, victims and moments again, KATA_SOAK_CUTS is how many `make soak` makes.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from tests.helpers.cuts import KINDS, VICTIMS, Cuts, plan
from tests.helpers.fronts import CriFront, CtrFront, KataFront
from tests.helpers.node import Node
from tests.helpers.traces import await_none, traces
from tests.kernel.netns import connect, netns

pytestmark = [pytest.mark.containerd, pytest.mark.root]

SEED = int(os.environ.get("KATA_TEST_SEED", "1"))
CUTS = int(os.environ.get("KATA_TEST_CUTS", "50"))
SOAK_CUTS = int(os.environ.get("KATA_SOAK_CUTS", "2000"))
ENOUGH = 3
"""Failures after which a run ends."""


@pytest.fixture
def cuts(node: Node, tmp_path: Path) -> Iterator[Cuts]:
    """A node with two slots and more for each front end; afterwards nothing is left of any of them."""
    (tmp_path / "data").mkdir()
    ctr = copy.copy(node.daemon)
    ctr.namespace = "default"
    ctr.import_image()
    with netns("out") as outside, netns("pod") as pod:
        connect(outside, pod)
        kata, task = KataFront(3, tmp_path / "data"), CtrFront(ctr, 2, pod)
        made = Cuts(node, [kata, task, CriFront(node.cri, node.daemon, 1, tmp_path)], SEED)
        before = set(traces(ctr, [*kata.slots, *task.slots]))  # of tests before this one
        yield made
        made.clear()
        assert (
            await_none(lambda: (left for left in traces(ctr, [*kata.slots, *task.slots]) if left not in before)) == []
        )


def make(cuts: Cuts, count: int) -> None:
    """Make cuts, and go on after one that failed: it may be the only one of its kind."""
    failed: list[str] = []
    begin = time.monotonic()
    try:
        for number in range(count):
            try:
                cuts.cut(number)
            except (AssertionError, grpc.RpcError) as error:
                failed.append("\n".join([*cuts.said, str(error)]))
                cuts.clear()
            if len(failed) == ENOUGH:
                break
        if not failed:
            cuts.check_all()
    finally:
        cuts.record(failed, time.monotonic() - begin)
    print(f"{cuts.victims}; the slowest: {cuts.slowest_command:.2f} s, {cuts.slowest:.2f} s until all was in order")
    assert not failed, "\n\n".join(failed)


@pytest.mark.timeout(900)
def test_fifty_cuts(cuts: Cuts) -> None:
    make(cuts, CUTS)


@pytest.mark.soak
@pytest.mark.timeout(6 * 3600)
def test_cuts(cuts: Cuts) -> None:
    make(cuts, SOAK_CUTS)


def test_a_seed_replays_and_every_victim_comes() -> None:
    drawn = [plan(SEED, number, 3) for number in range(CUTS)]
    assert drawn == [plan(SEED, number, 3) for number in range(CUTS)]
    assert drawn != [plan(SEED + 1, number, 3) for number in range(CUTS)]
    assert {one.victim for one in [plan(SEED, number, 3) for number in range(200)]} == set(VICTIMS) > set(KINDS)
