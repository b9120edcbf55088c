"""The memory agent over trees of files as the kernel shows them, with a clock that tests turn."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import pytest

from kata.agent.config import Config, parse_cmdline
from kata.agent.errors import AgentError, BadRequest, Unsupported
from kata.agent.memagent import MemoryAgent
from kata.agent.memagent import reclaim as reclaim_room
from kata.agent.memagent.agent import Part
from kata.agent.memagent.compaction import Compactor, fragments
from kata.agent.memagent.pressure import Pressure
from kata.agent.memagent.reclaim import STEP, Lruvec, Reclaimer, lruvecs
from kata.agent.memagent.settings import Compact, Reclaim, compact_from, merged, reclaim_from
from kata.log import Logger
from kata.protocol.generated import agent_pb2

PSI = "some avg10=0.00 avg60=0.00 avg300=0.00 total={}\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"
BUDDY = "Node 0, zone      DMA      1      1      1\nNode 0, zone   Normal    100     10      {}\n"
COMPACT = compact_from(Config())._replace(compact_order=2, compact_threshold=50)
RECLAIM = reclaim_from(Config())._replace(eviction_run_aging_count_min=1)
MIB = 1 << 20


class Clock:
    """A clock that tests turn, and a pressure that they set."""

    def __init__(self, path: Path) -> None:
        self.now = 0.0
        self.path = path
        self.stalled = 0.0
        self.step(0.0, 0.0)

    def __call__(self) -> float:
        return self.now

    def step(self, seconds: float, percent: float = 0.0) -> None:
        self.now += seconds
        self.stalled += seconds * percent / 100
        self.path.write_text(PSI.format(int(self.stalled * 1e6)))


class Compaction:
    """A process that compacts until it is killed or `lasts` looks at it have passed."""

    def __init__(self, clock: Clock, lasts: int, percent: float, code: int = 0) -> None:
        self.clock, self.lasts, self.percent, self.code = clock, lasts, percent, code
        self.killed = False

    def wait(self, timeout: float | None = None) -> int | None:
        if self.killed or not self.lasts:
            return self.code
        self.lasts -= 1
        self.clock.step(timeout or 0.0, self.percent)
        return None

    def send(self, signo: int) -> None:
        if not self.lasts:
            raise ProcessLookupError
        assert signo == signal.SIGKILL
        self.killed = True


class Guest:
    """Files of a guest's kernel, and a compactor over them."""

    def __init__(self, folder: Path) -> None:
        (folder / "pressure").mkdir()
        self.clock = Clock(folder / "pressure/memory")
        self.folder = folder
        self.order0(0)
        self.started: list[Compaction] = []
        self.next = Compaction(self.clock, 1, 0.0)
        self.compactor = Compactor(self.start, proc=str(folder), clock=self.clock)

    def order0(self, pages: int) -> None:
        (self.folder / "buddyinfo").write_text(f"Node 0, zone   Normal    {pages}      0      9\n")

    def start(self) -> Compaction:
        self.started.append(self.next)
        return self.next


@pytest.fixture
def guest(tmp_path: Path) -> Guest:
    return Guest(tmp_path)


def test_pressure_is_that_since_the_last_look(guest: Guest) -> None:
    pressure = Pressure(str(guest.clock.path), guest.clock)
    guest.clock.step(10, 5)
    assert pressure.percent() == pytest.approx(5)
    guest.clock.step(100, 0)
    assert pressure.percent() == pytest.approx(0)
    assert pressure.percent() == 0  # no time has passed
    guest.clock.path.write_text("full avg10=0\n")
    with pytest.raises(OSError, match="some"):
        pressure.percent()


def test_fragments_are_pages_in_blocks_below_the_order(guest: Guest) -> None:
    text = BUDDY.format(1000)
    assert fragments(text, 2) == 1 + 2 + 100 + 20
    assert fragments(text, 3) == 123 + 4 + 4000


def test_compaction_when_there_are_new_fragments(guest: Guest) -> None:
    guest.order0(49)
    assert not guest.compactor.once(COMPACT).done
    guest.order0(50)
    assert guest.compactor.once(COMPACT) == (True, "done")
    assert not guest.compactor.once(COMPACT).done  # 50 were left by the last one
    guest.order0(100)
    assert guest.compactor.once(COMPACT).done
    assert len(guest.started) == 2


def test_no_compaction_under_pressure(guest: Guest) -> None:
    guest.order0(500)
    guest.clock.step(600, 1.5)
    assert "1.5 %" in guest.compactor.once(COMPACT).why
    guest.clock.step(600, 0.9)
    assert guest.compactor.once(COMPACT).done


def test_compaction_by_force_after_periods_without(guest: Guest) -> None:
    done = [guest.compactor.once(COMPACT._replace(compact_force_times=2)).done for _ in range(6)]
    assert done == [False, False, True, False, False, True]
    assert guest.compactor.once(COMPACT._replace(compact_force_times=0)).done


@pytest.mark.parametrize(
    ("lasts", "percent", "limit", "why", "killed"),
    [
        (9, 6.0, 0, "pressure of 6.0 %", True),
        (9, 0.0, 3, "broken off after 3 s", True),
        (9, 4.0, 0, "done", False),
        (9, 0.0, -1, "done", False),
    ],
)
def test_a_compaction_that_is_felt_or_takes_too_long_is_broken_off(
    guest: Guest, lasts: int, percent: float, limit: int, why: str, killed: bool
) -> None:
    guest.order0(500)
    guest.next = Compaction(guest.clock, lasts, percent)
    assert why in guest.compactor.once(COMPACT._replace(compact_sec_max=limit)).why
    assert guest.next.killed == killed


def test_a_kernel_that_refuses_is_an_error(guest: Guest) -> None:
    guest.order0(500)
    guest.next = Compaction(guest.clock, 0, 0.0, code=1)
    with pytest.raises(AgentError, match="did not compact"):
        guest.compactor.once(COMPACT)


class Cgroups:
    """Two containers' cgroups, and what was written to `memory.reclaim`."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.asked: list[tuple[str, str]] = []
        self.answer: dict[str, int] = {}
        self.felt = 0.0
        self.clocks = {}
        for name in ("one", "two"):
            (root / name).mkdir()
            self.clocks[name] = Clock(root / name / "memory.pressure")
            (root / name / "memory.stat").write_text(f"inactive_anon {MIB}\ninactive_file {40 * MIB}\nactive_file 9\n")
        (root / "lru_gen").write_text(LRU)
        monkeypatch.setattr(reclaim_room, "write_text", self.write)
        self.reclaimer = Reclaimer(
            lambda: {name: str(root / name) for name in self.clocks},
            root=str(root),
            lru_gen=str(root / "lru_gen"),
            clock=self.clock,
        )

    def clock(self) -> float:
        return max(clock.now for clock in self.clocks.values())

    def write(self, path: str, text: str) -> None:
        name = path.removeprefix(f"{self.root}/")
        self.asked.append((name, text))
        if name in self.answer:
            raise OSError(self.answer[name], "no")
        if clock := self.clocks.get(name.partition("/")[0]):
            clock.step(0.1, self.felt)

    def period(self, one: float = 0.0, two: float = 0.0) -> None:
        self.clocks["one"].step(600, one)
        self.clocks["two"].step(600, two)


LRU = """memcg     1 /
 node     0
          0     100    10    20
          1      50    10    20
memcg    33 /one
 node     0
          4     100    10    20
          7      50    10    20
 node     1
          2      50    10    20
memcg    34 /one/inside
 node     0
          3      50     1     1
memcg    35 /oneself
 node     0
          1      50     1     1
"""


@pytest.fixture
def cgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cgroups:
    return Cgroups(tmp_path, monkeypatch)


def test_generations_are_read() -> None:
    assert list(lruvecs(LRU)) == [
        Lruvec(1, "/", 0, 1),
        Lruvec(33, "/one", 0, 7),
        Lruvec(33, "/one", 1, 2),
        Lruvec(34, "/one/inside", 0, 3),
        Lruvec(35, "/oneself", 0, 1),
    ]
    assert list(lruvecs("")) == []


def test_memory_ages_first_and_is_then_taken_back_in_steps(cgroups: Cgroups) -> None:
    assert cgroups.reclaimer.once(RECLAIM) == {"one": 0, "two": 0}
    assert cgroups.asked == [("lru_gen", "+ 33 0 7 0"), ("lru_gen", "+ 33 1 2 0"), ("lru_gen", "+ 34 0 3 0")]
    cgroups.asked.clear()
    cgroups.period()
    assert cgroups.reclaimer.once(RECLAIM) == {"one": 40 * MIB, "two": 40 * MIB}
    taken = [text for name, text in cgroups.asked if name == "one/memory.reclaim"]
    assert taken == [f"{STEP} swappiness=0", f"{STEP} swappiness=0", f"{8 * MIB} swappiness=0"]


def test_swap_is_used_when_allowed(cgroups: Cgroups) -> None:
    settings = RECLAIM._replace(swap=True, swappiness_max=30, eviction_run_aging_count_min=0)
    assert cgroups.reclaimer.once(settings)["two"] == 41 * MIB
    assert ("lru_gen", "+ 33 0 7 1") in cgroups.asked
    assert ("two/memory.reclaim", f"{9 * MIB} swappiness=30") in cgroups.asked


def test_a_container_under_pressure_is_left_alone_and_the_other_is_not(cgroups: Cgroups) -> None:
    cgroups.reclaimer.once(RECLAIM)
    cgroups.period(one=3.0)
    assert cgroups.reclaimer.once(RECLAIM) == {"one": 0, "two": 40 * MIB}


def test_it_is_broken_off_when_somebody_feels_it(cgroups: Cgroups) -> None:
    cgroups.felt = 50.0
    settings = RECLAIM._replace(eviction_run_aging_count_min=0)
    assert cgroups.reclaimer.once(settings)["one"] == STEP


@pytest.mark.parametrize(("errno", "taken"), [(11, 0), (16, 0)])
def test_nothing_to_be_had_is_no_error(cgroups: Cgroups, errno: int, taken: int) -> None:
    cgroups.answer["one/memory.reclaim"] = errno
    found = cgroups.reclaimer.once(RECLAIM._replace(eviction_run_aging_count_min=0))
    assert found == {"one": taken, "two": 40 * MIB}


def test_a_kernel_that_takes_no_swappiness_is_not_asked_to_swap(cgroups: Cgroups) -> None:
    cgroups.answer["one/memory.reclaim"] = 22
    with pytest.raises(Unsupported):
        cgroups.reclaimer.once(RECLAIM._replace(eviction_run_aging_count_min=0))


def test_containers_come_and_go(cgroups: Cgroups) -> None:
    cgroups.reclaimer.once(RECLAIM)
    for path in (cgroups.root / "two").iterdir():
        path.unlink()
    cgroups.period()
    (cgroups.root / "two/memory.pressure").unlink()
    assert cgroups.reclaimer.once(RECLAIM) == {"one": 40 * MIB}
    del cgroups.clocks["two"]
    assert cgroups.reclaimer.once(RECLAIM) == {"one": 40 * MIB}


def test_settings_come_from_the_options_and_requests_change_only_what_they_give() -> None:
    config = parse_cmdline(
        "agent.mem_agent_memcg_swap agent.mem_agent_compact_sec_max=7 agent.mem_agent_compact_disable"
    )
    assert reclaim_from(config) == Reclaim(False, True, 50, 600, 1, 1, 3)
    assert compact_from(config) == Compact(True, 600, 1, 5, 7, 9, 1024, 2**63 - 1)
    request = agent_pb2.MemAgentCompactConfig(disabled=False, compact_order=0, compact_sec_max=-1)
    assert merged(compact_from(config), request) == Compact(False, 600, 1, 5, -1, 0, 1024, 2**63 - 1)
    assert merged(compact_from(config), agent_pb2.MemAgentCompactConfig()) == compact_from(config)


def tree(folder: Path) -> Path:
    for name in ("pressure/memory", "sys/vm/compact_memory", "memory.reclaim"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(PSI.format(0))
    return folder


def make(folder: Path, options: str = "") -> MemoryAgent:
    def never() -> None:
        raise AssertionError

    config = parse_cmdline(options)
    return MemoryAgent(config, never, dict, Logger(2), proc=str(folder), root=str(folder))  # type: ignore[arg-type]


def test_requests_are_checked_before_anything_changes(tmp_path: Path) -> None:
    made = make(tree(tmp_path))
    for bad in ({"compact_order": 11}, {"compact_order": 0}, {"period_secs": 0}, {"period_psi_percent_limit": 101}):
        with pytest.raises(BadRequest, match=next(iter(bad))):
            made.set_compact(agent_pb2.MemAgentCompactConfig(**bad))  # type: ignore[arg-type]
    with pytest.raises(BadRequest, match="swappiness_max=201"):
        made.set_reclaim(agent_pb2.MemAgentMemcgConfig(swappiness_max=201))
    assert made.set_reclaim(agent_pb2.MemAgentMemcgConfig(swappiness_max=7)).swappiness_max == 7
    new = made.set_reclaim(agent_pb2.MemAgentMemcgConfig(period_secs=5))
    assert (new.swappiness_max, new.period_secs) == (7, 5)


@pytest.mark.parametrize(
    ("missing", "said", "without"),
    [
        ("pressure/memory", "CONFIG_PSI", ""),
        ("sys/vm/compact_memory", "CONFIG_COMPACTION", "agent.mem_agent_compact_disable"),
        ("memory.reclaim", "cgroup v2", "agent.mem_agent_memcg_disable"),
    ],
)
def test_what_the_kernel_lacks_is_said(tmp_path: Path, missing: str, said: str, without: str) -> None:
    (tree(tmp_path) / missing).unlink()
    with pytest.raises(Unsupported, match=said):
        make(tmp_path)
    if without:
        made = make(tmp_path, without)
        with pytest.raises(Unsupported):
            made.set_compact(agent_pb2.MemAgentCompactConfig(disabled=False))
            made.set_reclaim(agent_pb2.MemAgentMemcgConfig(disabled=False))


@pytest.mark.timeout(30)
def test_a_part_runs_each_period_goes_on_after_an_error_and_rests_while_disabled() -> None:
    settings = COMPACT._replace(period_secs=0)
    ran, more = threading.Semaphore(0), threading.Event()

    def once(now: Compact) -> None:
        ran.release()
        more.wait()
        if now.compact_order == 2:
            raise OSError("no such thing")

    part = Part("compact", settings, once, Logger(2, level="critical"))
    part.start()
    assert ran.acquire(timeout=10)
    part.set(settings._replace(disabled=True))
    more.set()
    assert not ran.acquire(timeout=0.3)
    part.set(settings._replace(compact_order=3))
    assert ran.acquire(timeout=10)
    assert ran.acquire(timeout=10)
    part.close()
    assert "memory-compact" not in [thread.name for thread in threading.enumerate()]
