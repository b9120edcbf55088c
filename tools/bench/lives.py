"""A container's life through the agent and by crun alone, in turns. Used by `agent` and `agent_host`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tools.bench.report import Comparison, compare
from tools.bench.turns import timed

if TYPE_CHECKING:
    from collections.abc import Callable

    from kata.agentctl.session import Session

    Halves = tuple[Callable[[], None], Callable[[], None]]

CRUN_ROOT = "/run/bench/crun"


def life(session: Session, spec: dict[str, Any]) -> Halves:
    """The two halves of a container's life through the agent: created and started; waited for and removed."""
    request = ["CreateContainer", "cid=bench", f"spec={json.dumps(spec)}"]

    def begin() -> None:
        session.request(request)
        session.request(["StartContainer", "cid=bench"])

    def end() -> None:
        session.request(["WaitProcess", "cid=bench"])
        session.request(["RemoveContainer", "cid=bench"])

    return begin, end


def compare_lives(
    where: str, runs: int, ours: Halves, run: Callable[[], None], create_start: Halves
) -> list[Comparison]:
    """Whole lives, and creating and starting alone, in milliseconds. The first turn warms caches and is not counted."""
    whole: dict[str, list[float]] = {"crun run": [], "agent": []}
    first: dict[str, list[float]] = {"crun create, crun start": [], "agent: CreateContainer, StartContainer": []}
    for turn in range(runs + 1):
        begin, rest = timed(ours[0]), timed(ours[1])
        alone, halves = timed(run), timed(create_start[0])
        create_start[1]()
        if turn:
            for samples, theirs, mine in ((whole, alone, begin + rest), (first, halves, begin)):
                for values, seconds in zip(samples.values(), (theirs, mine), strict=True):
                    values.append(seconds * 1000)
    return [
        compare(f"A container's whole life, {where}", "ms", "crun run", whole),
        compare(f"A container created and started, {where}", "ms", "crun create, crun start", first),
    ]
