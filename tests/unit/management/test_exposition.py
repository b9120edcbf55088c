"""Prometheus text: ours is right, a guest's is what a guest may say."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from kata.management.durations import Durations, Timed
from kata.management.exposition import Family, Sample, histogram, of_guest, text_of

GUEST = """\
# HELP kata_guest_load Guest system load.
# TYPE kata_guest_load gauge
kata_guest_load{item="load1"} 0.25
kata_guest_disk{disk="a\\\\b\\"c",item="x y"} -1e-05
# HELP process_open_fds Open descriptors.
process_open_fds 12
kata_agent_threads NaN
"""


def test_a_guests_text_passes_and_its_process_is_renamed() -> None:
    assert of_guest(GUEST) == GUEST.replace("process_open", "kata_agent_process_open")


def test_what_a_guest_may_not_say() -> None:
    for line in (
        "kata_shim_threads 5",
        'kata_guest_load{item="a"b"} 1',
        "kata_guest_load 1 2 3",
        "kata_guest_load one",
        "# TYPE kata_guest_load histogram",
        "# TYPE kata_shim_threads gauge",
        "# EOF",
        "# HELP kata_guest_load \x1b[2J",
        "kata_guest_load 1\r",
        'kata_guest_load{item="\x1b[2J"} 1',
        'kata_guest_load{item="\x9b2J"} 1',
        "kata_guest_load 1-1",
        "kata_guest_load 1.2.3",
        'kata_guest_load{item="a",item="b"} 1',
        "# TYPE kata_guest_tasks gauge",
        "kata_guest_tasks{} 2",
    ):
        assert of_guest(f"kata_guest_tasks 1\n{line}\n") == "kata_guest_tasks 1\n", line
    assert of_guest("# TYPE kata_guest_load gauge\nkata_guest_load 1\nkata_guest_load 2\n" * 2).count("\n") == 2
    turned = 'kata_guest_load{a="1",b="2"} 1\nkata_guest_load{b="2",a="1"} 1\n'
    assert of_guest(turned + "process_open_fds 1\nkata_agent_process_open_fds 2\n").count("\n") == 2


def test_the_agents_own_text_loses_nothing() -> None:
    from kata.agent.metrics import render

    said = render()
    passed = of_guest(said)
    assert passed.replace("kata_agent_process_", "process_") == said
    assert passed.count("kata_agent_process_") == 3 * said.count("# TYPE process_")


@given(st.text(max_size=200))
def test_any_text_of_a_guest_is_harmless(text: str) -> None:
    for line in of_guest(text + "\n" + GUEST).splitlines():
        assert re.match(r"(# (HELP|TYPE) )?kata_(agent|guest)_", line)


def test_a_histogram_adds_up() -> None:
    durations = Durations()
    for milliseconds in (0.5, 1.0, 3.0, 600.0):
        durations.observe("start", milliseconds)
    durations.observe("kill", 512.0)
    lines = text_of([histogram("h", "Help.", durations)]).splitlines()
    assert lines[:2] == ["# HELP h Help.", "# TYPE h histogram"]
    assert 'h_bucket{action="start",le="1"} 2' in lines
    assert 'h_bucket{action="start",le="4"} 3' in lines
    assert 'h_bucket{action="start",le="512"} 3' in lines
    assert 'h_bucket{action="start",le="+Inf"} 4' in lines
    assert 'h_sum{action="start"} 604.5' in lines
    assert 'h_count{action="start"} 4' in lines
    assert 'h_bucket{action="kill",le="512"} 1' in lines


def test_labels_are_escaped_and_empty_families_left_out() -> None:
    text = text_of([Family("a", "x\ny", [Sample(1.5, (("l", 'q"\\\n'),))]), Family("b", "", [])])
    assert text == '# HELP a x\\ny\n# TYPE a gauge\na{l="q\\"\\\\\\n"} 1.5\n'


def test_a_timed_service_is_the_service_with_a_clock() -> None:
    class Service:
        def start(self, request: object, call: object) -> object:
            if call is None:
                raise ValueError("no")
            return (request, call)

    durations = Durations()
    timed = Timed(Service(), durations)
    assert timed.start(1, 2) == (1, 2)
    try:
        timed.start(1, None)
    except ValueError:
        pass
    assert getattr(timed, "missing", None) is None
    [(action, counts, total)] = durations.snapshot()
    assert (action, sum(counts)) == ("start", 2) and total >= 0
