"""The arithmetic of the benchmarks: what is counted, in which order, and how it is summed up and shown."""

from __future__ import annotations

import itertools
import mmap
import os
import socket
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import pytest
from tools.bench import (
    aims,
    density,
    docs,
    machine,
    memory,
    network,
    parts,
    plot,
    report,
    revisions,
    starts,
    streams,
    turns,
    world,
)
from tools.bench import guest as bench_guest
from tools.bench.files import tell
from tools.bench.lives import compare_lives
from tools.bench.memory import HOLDER, NINEP, QEMU, REST, VIRTIOFSD, Memory, Process
from tools.bench.options import parse
from tools.bench.report import Circumstances, Fact, Grid, Part, Report, compare
from tools.bench.tables import markdown, number, tables, text
from tools.bench.world import BenchError

from kata.agentctl.session import Session

ROOT = Path(__file__).parents[3]
PAGE = (
    "before\n<!-- bench:all -->\nold\n<!-- bench: end -->\nbetween\n<!-- bench:start -->\n<!-- bench: end -->\nafter\n"
)


def clock(*seconds: float) -> Iterator[float]:
    """The times at which something begins and ends that takes so long."""
    return itertools.chain.from_iterable((0.0, entry) for entry in seconds)


def part() -> Part:
    comparison = compare("Starts", "ms", "floor", {"floor": [100.0, 110.0, 120.0], "ctr run, our shim": [220.0]})
    here = Circumstances("abc", "2026-01-01", 0.25, dict.fromkeys(("processor", "kernel", "qemu", "accelerator"), "x"))
    here.machine["python"] = "3.11"
    return Part(comparisons=[comparison], grids=[Grid("G", "MiB", ["1"], {"row": [3.0]})], circumstances=here)


# Section: sums


def test_a_comparison_has_medians_tails_and_ratios() -> None:
    found = compare("t", "ms", "a", {"a": [float(value) for value in range(1, 102)], "b": [102.0]})
    assert (found.ways["a"].median, found.ways["a"].p99, found.ways["a"].ratio) == (51.0, 100.0, 1.0)
    assert (found.ways["b"].median, found.ways["b"].p99, found.ways["b"].ratio) == (102.0, 102.0, 2.0)


def test_the_tail_of_what_is_better_when_it_is_more_is_the_low_end() -> None:
    values = [float(value) for value in range(1, 102)]
    assert (report.p99(values), report.p99(values, "more")) == (100.0, 2.0)


def test_ways_take_turns_and_the_first_turn_does_not_count() -> None:
    order: list[str] = []
    figures = {"a": itertools.count(0), "b": itertools.count(10)}

    def way(name: str) -> Callable[[], float]:
        def take() -> float:
            order.append(name)
            return float(next(figures[name]))

        return take

    assert turns.take({"a": way("a"), "b": way("b")}, 2) == {"a": [1.0, 2.0], "b": [11.0, 12.0]}
    assert order == ["a", "b"] * 3


def test_a_way_that_takes_long_takes_part_in_some_turns() -> None:
    ways = {"quick": lambda: 1.0, "slow": lambda: 2.0}
    assert {name: len(found) for name, found in turns.take(ways, 6, sparse={"slow": 5}).items()} == {
        "quick": 6,
        "slow": 2,
    }


def test_the_same_starts_are_divided_by_the_floor_by_boots_and_by_runc() -> None:
    figures = {starts.FLOOR: 2.0, starts.COMMAND: 3.0, "kata run, booted": 12.0, starts.SHIM: 4.0}
    figures |= {"ctr run, our shim, booted": 16.0, starts.BY_RUNC: 1.0}
    found = starts.comparisons({name: [value] for name, value in figures.items()})
    assert [list(one.ways) for one in found[1:]] == [
        ["kata run, booted", "kata run"],
        ["ctr run, our shim, booted", "ctr run, our shim"],
        ["ctr run, runc", "ctr run, our shim"],
    ]
    assert [
        one.ways[way].ratio for one, way in zip(found, (starts.SHIM, "kata run", *[starts.SHIM] * 2), strict=True)
    ] == [
        2.0,
        0.25,
        0.25,
        4.0,
    ]


def test_a_life_is_both_halves_and_the_first_turn_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    def way(name: str) -> Callable[[], None]:
        return lambda: order.append(name)

    monkeypatch.setattr(time, "monotonic", clock(*[9.0] * 4, 0.02, 0.01, 0.01, 0.02, 0.04, 0.01, 0.01, 0.02).__next__)
    whole, first = compare_lives("here", 2, (way("begin"), way("end")), way("run"), (way("create"), way("delete")))
    assert order == ["begin", "end", "run", "create", "delete"] * 3
    assert (whole.ways["agent"].samples, whole.ways["agent"].ratio) == ([30.0, 50.0], 4.0)
    assert [way.ratio for way in first.ways.values()] == [1.0, 1.5]


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
    monkeypatch.setattr(streams, "raw_port", raw_port)
    monkeypatch.setattr(streams, "through_port", lambda *args: next(port)())
    for name in ("through_pipe", "read_stdout", "exec_output", "exec_input"):
        monkeypatch.setattr(streams, name, way(name, 1, 45, 9, 45))
    found = streams.rates("cid", cast(Session, None), 3)
    assert order == ["port", "through_pipe", "both", "read_stdout", "exec_output", "exec_input"] * 4
    assert found.base == streams.PORT and found.ways[streams.PORT].samples == [80, 100, 90]
    assert (found.ways["kata exec"].median, found.ways["kata exec"].ratio) == (45, 0.5)
    theirs.close()


def test_a_rate_counts_from_the_first_bytes_on_and_wants_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", iter((10.0, 12.0)).__next__)
    pieces = [bytes(1 << 20) for _ in range(5)]
    assert streams.rate_of(pieces.pop, 5 << 20) == 2.0
    monkeypatch.setattr(time, "monotonic", iter((10.0, 12.0)).__next__)
    with pytest.raises(BenchError, match="1 of 2 bytes came"):
        streams.rate_of([b"", b"x"].pop, 2)


def test_a_specification_is_what_both_sides_run() -> None:
    from kata.oci.convert import lost_fields

    spec = bench_guest.specification("/rootfs", "/bench/x", "dd", "bs=1")
    assert spec["process"]["args"] == ["dd", "bs=1"]
    assert lost_fields(spec) == []  # type: ignore[arg-type]


# Section: reading what the system says


def test_what_a_process_is_to_a_sandbox() -> None:
    found = [
        Process(2, 1, "containerd"),
        Process(3, 2, "python3.11"),
        Process(4, 3, "qemu-system-x86"),
        Process(5, 3, "virtiofsd"),
        Process(6, 1, "python3.11"),
        Process(7, 1, "ctr"),
        Process(8, 3, "virtfs-proxy-he"),
    ]
    assert memory.kinds(found) == {3: HOLDER, 4: QEMU, 5: VIRTIOFSD, 6: REST, 8: NINEP}


def test_memory_is_read_as_the_kernel_writes_it() -> None:
    rollup = "00400000-7ffd [rollup]\nRss:  9 kB\nPss:   2048 kB\nPss_Anon: 7 kB\n"
    rollup += "Private_Clean: 1024 kB\nPrivate_Dirty: 512 kB\n"
    assert memory.parse_rollup(rollup) == Memory(2.0, 1.5)
    own = memory.parse_rollup(Path("/proc/self/smaps_rollup").read_text())
    assert own.pss >= own.private > 1


SMAPS = (
    "7f0000000000-7f0001000000 rw-p 00000000 00:01 1025   /memfd:kata-template (deleted)\n"
    "Size: 16384 kB\nRss: 4096 kB\nPss: 3072 kB\nPrivate_Clean: 2048 kB\nPrivate_Dirty: 1024 kB\n"
    "Anonymous: 1024 kB\nVmFlags: rd wr\n"
    "7f0002000000-7f0003000000 rw-s 00000000 00:01 1026   /memfd:own (deleted)\n"
    "Rss: 2048 kB\nPss: 1536 kB\nPrivate_Dirty: 1024 kB\nAnonymous: 0 kB\n"
    "7f0004000000-7f0005000000 r-xp 00000000 00:01 1027   /usr/bin/qemu\nRss: 512 kB\nAnonymous: 0 kB\n"
)


def test_mappings_of_memory_files_are_found() -> None:
    template, own = memory.parse_memfds(SMAPS)
    assert template == ("7f0000000000-7f0001000000", ("00:01", "1025"), False, 4.0, 1.0, Memory(3.0, 3.0))
    assert own == ("7f0002000000-7f0003000000", ("00:01", "1026"), True, 2.0, 0.0, Memory(1.5, 1.0))


def test_a_file_that_is_a_machines_memory_is_all_its_own_and_a_templates_is_not() -> None:
    found = {**dict.fromkeys(memory.KINDS, Memory()), QEMU: Memory(20.0, 10.0)}
    sizes = {("00:01", "1025"): 200.0, ("00:01", "1026"): 100.0}
    sample = memory.summed(found, memory.parse_memfds(SMAPS), sizes)
    assert (sample.shared, sample.template) == (3.0, 200.0)
    assert sample.kinds[QEMU] == Memory(20.0, 8.0)  # two were the template's, though this QEMU alone had mapped them
    assert sample.kinds[memory.FILE] == Memory(98.5, 99.0)


def test_a_memory_file_counts_as_the_kernel_says() -> None:
    """All that was written is there, the half that is mapped and the half that is not."""
    fd = os.memfd_create("bench-test")
    os.ftruncate(fd, 64 << 20)
    os.pwrite(fd, bytes(8 << 20), 0)
    with mmap.mmap(fd, 64 << 20, flags=mmap.MAP_SHARED) as mapped:
        assert sum(mapped[: 4 << 20 : mmap.PAGESIZE]) == 0
        smaps = Path("/proc/self/smaps").read_text()
        [own] = [found for found in memory.parse_memfds(smaps) if found.file[1] == str(os.fstat(fd).st_ino)]
        info = os.stat(f"/proc/self/map_files/{own.place}")
    os.close(fd)
    assert own.shared and 4.0 <= own.rss <= 8.0 and info.st_blocks * memory.BLOCK == 8 << 20


def test_a_further_sandbox_is_counted_from_the_second_on() -> None:
    def sample(private: float) -> memory.Sample:
        return memory.Sample({**dict.fromkeys(memory.KINDS, Memory()), QEMU: Memory(private, private)}, 1.0)

    samples = {1: sample(100.0), 2: sample(130.0), 5: sample(190.0)}
    assert density.each(samples, density.total) == 20.0
    assert density.each({1: sample(100.0)}, density.total) == 100.0
    assert density.summary("ctr", "shim", samples)[0] == Fact("ctr: private, a further sandbox", 20.0, "MiB")
    assert density.further([("x", samples)])[0].ways["a further one"].ratio == 0.2
    assert "virtiofsd: PSS" not in density.grid("t", samples).rows


def test_processor_time_is_of_what_runs_and_of_what_has_ended() -> None:
    """A process that stays, with a child that it has waited for, and one that has ended."""
    burn = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass\n"
    waits = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {burn!r}])\nprint(flush=True)\ninput()"
    before = world.processor_seconds()
    with subprocess.Popen([sys.executable, "-c", waits], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as stays:
        assert stays.stdin is not None and stays.stdout is not None
        stays.stdout.readline()
        one = world.processor_seconds() - before
        subprocess.run([sys.executable, "-c", burn], check=True)
        both = world.processor_seconds() - before
        stays.stdin.close()
    assert one > 0.25 and one + 0.25 < both
    assert world.processor_seconds() - before > both - 0.05


def test_round_trips_of_ping() -> None:
    said = "64 bytes from 10.0.0.2: seq=0 ttl=64 time=1.250 ms\n64 bytes from 10.0.0.2: seq=1 ttl=64 time=0.750 ms\n"
    assert network.round_trips(said) == [1.25, 0.75]
    with pytest.raises(BenchError, match="no answer"):
        network.round_trips("2 packets transmitted, 0 packets received")


def test_a_processor_has_a_name() -> None:
    assert machine.processor("processor: 0\nmodel name\t: Some CPU @ 2 GHz\n") == "Some CPU @ 2 GHz"
    assert machine.processor("") == "unknown processor"


def test_a_shell_that_is_told_something_says_what_came_and_whether_it_failed() -> None:
    with subprocess.Popen(["/bin/sh"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as shell:
        assert tell(shell, "echo one; echo two") == "one\ntwo\n"
        with pytest.raises(BenchError, match="false"):
            tell(shell, "false")
        shell.kill()


# Section: options, parts


def test_options() -> None:
    found = parse(["--parts", "files", "start", "--runs", "3", "--base", "v1"], parts.PARTS, Path("out"))
    assert (found.parts, found.runs, found.base, found.output) == (("start", "files"), 3, "v1", Path("out"))
    assert parse([], parts.PARTS, Path("out")).parts == tuple(parts.PARTS)


@pytest.mark.parametrize("words", [["--runs", "0"], ["--parts", "none"], ["--base=--force"], ["--sandboxes", "x"]])
def test_options_that_cannot_be(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(words, parts.PARTS, Path("out"))
    assert "usage: bench" in capsys.readouterr().err


def test_what_is_missing_is_said() -> None:
    with pytest.raises(BenchError, match="there is no bench-no-such here; make setup"):
        world.need("sh", "bench-no-such")
    with pytest.raises(BenchError, match="git knows no revision --nonesuch"):
        revisions.commit_of("--nonesuch")
    assert len(revisions.commit_of("HEAD")) == 40


def test_every_part_is_a_module_that_measures() -> None:
    for module, _ in parts.MODULES.values():
        assert "def measure(" in (ROOT / "tools/bench" / f"{module}.py").read_text()


def test_a_part_that_fails_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    script = """
import sys
sys.path[:0] = [sys.argv[1]]
from tools.bench import __main__ as bench, parts
from tools.bench.report import Fact, Part
def run(name, options):
    if name == "start":
        raise RuntimeError("broken on purpose")
    return Part(facts=[Fact("f", 1.0, "MiB")])
parts.run, bench.kata, bench.clear_up = run, lambda *words: "", lambda: None
sys.argv[1:] = ["--parts", "start", "sizes", "--output", sys.argv[2]]
sys.exit(bench.main())
"""
    output = tmp_path / "bench.json"
    words = [sys.executable, "-I", "-c", script, str(ROOT), str(output)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    found = report.read(output)
    assert done.returncode == 1 and "the part start failed: RuntimeError: broken on purpose" in done.stderr
    assert list(found.parts) == ["sizes"] and list(found.failed) == ["start"]


# Section: tables, pictures, documentation


def test_tables_are_the_same_for_people_and_for_pages() -> None:
    [first, grid] = tables(part())
    assert text(first).splitlines()[1:] == [
        "  way                 median   99th percentile   ratio   runs",
        "  floor                  110               120       1      3",
        "  ctr run, our shim      220               220    2.00      1",
    ]
    assert "| ctr run, our shim | 220 | 220 | 2.00 | 1 |" in markdown(first).splitlines()
    assert markdown(grid).splitlines() == ["**G (MiB)**", "", "|  | 1 |", "|---|---|", "| row | 3.00 |"]


@pytest.mark.parametrize(("value", "said"), [(0.0, "0"), (1.234, "1.23"), (12.34, "12.3"), (1234.5, "1234")])
def test_numbers_have_the_digits_that_count(value: float, said: str) -> None:
    assert number(value) == said


def test_a_picture_is_svg_with_a_bar_for_each_way() -> None:
    root = ET.fromstring(plot.svg(part()))
    bars = root.findall("{http://www.w3.org/2000/svg}rect")[1:]
    widths = [float(bar.attrib["width"]) for bar in bars]
    assert widths[1] == pytest.approx(2 * widths[0], abs=0.2)
    assert plot.svg(Part()) == ""


def test_a_name_cannot_break_a_picture() -> None:
    found = Part(comparisons=[compare("<&>", "ms", "a<b", {"a<b": [1.0], 'c"&': [2.0]})])
    words = [node.text for node in ET.fromstring(plot.svg(found)).iter() if node.text]
    assert "a<b" in words and 'c"&' in words


def test_bars_are_logarithmic_where_some_are_much_longer() -> None:
    assert plot.lengths([1.0, 2.0], 100.0) == [50.0, 100.0]
    short, middle, long = plot.lengths([1.0, 10.0, 100.0], 100.0)
    assert long == 100.0 and long - middle == pytest.approx(middle - short)
    assert plot.lengths([0.0], 100.0) == [0.0]


def test_aims_are_met_or_not() -> None:
    found = Report({"start": part(), "crowd": Part(facts=[Fact("failures of ten at once", 0.0, "")])})
    rows = {row[0]: row[2:] for row in aims.table(found).rows}
    assert rows["`ctr run` against the floor"] == ("2.00", "no")
    assert rows["`ctr run`, median"] == ("220 ms", "yes")
    assert rows["ten at once: failures"] == ("0", "yes")
    least = aims.Aim("w", "p", "ratio", "x", 0.8, least=True)
    assert aims.met(least, 0.9) and not aims.met(least, 0.7)


def test_a_page_is_filled_in_again_and_again() -> None:
    found = Report({"start": part()})
    once = docs.fill(PAGE, found)
    assert docs.fill(once, found) == once and "old" not in once
    assert "images/bench-start.svg" in once and once.endswith("after\n")
    assert "Not measured yet." in docs.fill(PAGE, Report({}))


def test_new_figures_take_the_place_of_old_ones_of_their_part(tmp_path: Path) -> None:
    (tmp_path / "performance.md").write_text(PAGE)
    old = Report({"start": part(), "sizes": Part()})
    assert docs.update(old, tmp_path) == ["performance.md", "images/bench-start.svg"]
    assert docs.update(Report({"crowd": Part()}), tmp_path) == []
    assert list(report.read(tmp_path / "bench.json").parts) == ["crowd", "sizes", "start"]


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (path := tmp_path / "bench.json").write_text("{}")
    with pytest.raises(report.ReportError, match="is no report"):
        report.read(path)
    path.write_text('{"parts": {}, "format": 99}')
    with pytest.raises(report.ReportError, match="the format 99"):
        report.read(path)


def test_the_documentation_is_what_its_json_makes() -> None:
    found = report.read(docs.DOCS / docs.JSON)
    made = docs.files(found, (docs.DOCS / docs.PAGE).read_text())
    assert len(made) > 5
    for name, wanted in made.items():
        assert (docs.DOCS / name).read_text() == wanted, f"{name} is out of date: make bench-docs"


def test_two_revisions_are_compared_by_all_their_samples() -> None:
    def one(floor: float, shim: float) -> Report:
        ways = {"floor": [floor], "shim": [shim]}
        again = compare("the same, divided the other way", "ms", "shim", ways)
        compared = [compare("t", "ms", "floor", ways), again]
        return Report({"start": Part(comparisons=compared, facts=[Fact("f", shim, "MiB")])})

    found = revisions.both([one(1.0, 4.0), one(3.0, 6.0)], [one(2.0, 2.0), one(2.0, 3.0)])["start"]
    floor, shim = found.comparisons
    assert (floor.title, floor.ways["base"].samples, floor.ways["this"].ratio) == ("t: floor", [1.0, 3.0], 1.0)
    assert (shim.ways["this"].samples, shim.ways["this"].ratio) == ([2.0, 3.0], 0.5)
    assert found.grids[0].rows == {"f": [5.0, 2.5, 0.5]}
