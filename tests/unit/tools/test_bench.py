"""The arithmetic of the benchmarks: what is counted, in which order, and how it is summed up."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tools import bench_agent


def test_the_spread_is_median_and_the_99th_percentile() -> None:
    values = [float(number) for number in range(200, 0, -1)]
    assert bench_agent.spread(values) == {"median": 100.5, "p99": 199.0}
    assert bench_agent.spread([3.0, 1.0, 2.0]) == {"median": 2.0, "p99": 3.0}


def test_ways_take_turns_and_the_first_turn_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    def way(name: str) -> Callable[[], None]:
        return lambda: order.append(name)

    took = {"begin": iter((9.0, 0.02, 0.04)), "end": iter((9.0, 0.01, 0.01))}
    took |= {"run": iter((9.0, 0.01, 0.01)), "create": iter((9.0, 0.02, 0.02))}

    def timed(action: Callable[[], object]) -> float:
        action()
        return next(took[order[-1]])

    monkeypatch.setattr(bench_agent, "timed", timed)
    found = bench_agent.in_turns(2, (way("begin"), way("end")), way("run"), (way("create"), way("delete")))
    assert order == ["begin", "end", "run", "create", "delete"] * 3
    assert found["agent create+start"] == {"median": 30.0, "p99": 40.0}
    assert found["agent whole life"] == {"median": 40.0, "p99": 50.0}
    assert (found["ratio of whole lives"], found["ratio of create+start"]) == (4.0, 1.5)


def test_a_specification_is_what_both_sides_run() -> None:
    from kata.oci.convert import lost_fields

    spec = bench_agent.specification("/rootfs", "/bench/x", "dd", "bs=1")
    assert spec["process"]["args"] == ["dd", "bs=1"]
    assert lost_fields(spec) == []  # type: ignore[arg-type]
