"""The arithmetic of the benchmarks: what is counted, in which order, and how it is summed up."""

from __future__ import annotations

import itertools
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

import pytest
from tools import bench_agent, bench_streams

from kata.agentctl.session import Session


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


def test_streams_take_turns_and_are_compared_with_the_port(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    ours, theirs = socket.socketpair()

    @contextmanager
    def raw_port() -> Iterator[socket.socket]:
        with ours:
            yield ours

    def way(name: str, *rates: float) -> Callable[..., float]:
        given = iter(rates)

        def measured(*args: object) -> float:
            order.append(name)
            return next(given)

        return measured

    port = itertools.cycle((way("port", 1, 80, 100, 90), way("both", 1, 20, 20, 20)))
    monkeypatch.setattr(bench_streams, "TURNS", 3)
    monkeypatch.setattr(bench_streams, "raw_port", raw_port)
    monkeypatch.setattr(bench_streams, "through_port", lambda *args: next(port)())
    for name in ("through_pipe", "read_stdout", "exec_output", "exec_input"):
        monkeypatch.setattr(bench_streams, name, way(name, 1, 45, 9, 45))
    found = bench_streams.rates("cid", cast(Session, None))
    assert order == ["port", "through_pipe", "both", "read_stdout", "exec_output", "exec_input"] * 4
    assert found["port: dd writes to it"] == {"median": 90, "of_the_port": 1.0, "all": [80, 100, 90]}
    assert found["kata exec"] == {"median": 45, "of_the_port": 0.5, "all": [45, 9, 45]}
    theirs.close()


def test_a_rate_counts_from_the_first_bytes_on_and_wants_all(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter((10.0, 12.0))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    pieces = [bytes(1 << 20) for _ in range(5)]
    assert bench_streams.rate_of(pieces.pop, 5 << 20) == 2.0
    clock = iter((10.0, 12.0))
    with pytest.raises(SystemExit, match="1 of 2 bytes came"):
        bench_streams.rate_of([b"", b"x"].pop, 2)


def test_a_specification_is_what_both_sides_run() -> None:
    from kata.oci.convert import lost_fields

    spec = bench_agent.specification("/rootfs", "/bench/x", "dd", "bs=1")
    assert spec["process"]["args"] == ["dd", "bs=1"]
    assert lost_fields(spec) == []  # type: ignore[arg-type]
