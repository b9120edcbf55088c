"""Compaction: makes large blocks of the free memory when it has become fragmented and nobody would notice.

The kernel compacts while somebody's write to `vm.compact_memory` lasts, and stops only when that somebody is killed. So
a small process of its own does the writing.
"""

from __future__ import annotations

import signal
import sys
import time
from typing import NamedTuple

from kata.agent.errors import AgentError
from kata.agent.memagent.pressure import Pressure
from kata.linux.fds import read_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from kata.agent.memagent.settings import Compact

    class Running(Protocol):
        """A process: what is needed of `kata.linux.reaper.Exit`."""

        def wait(self, timeout: float | None = None) -> int | None: ...
        def send(self, signo: int) -> None: ...


PROGRAM = 'import sys\nwith open(sys.argv[1], "w") as file:\n    file.write("1")\n'
STEP = 1.0
"""Seconds between looks at the pressure that a compaction makes."""
KILL_TIMEOUT = 30.0


class Outcome(NamedTuple):
    """What became of one period: `done` when there was a compaction, and how or why not."""

    done: bool
    why: str


class Compactor:
    """Decides each period whether to compact, and does. `start` starts the process that has the kernel compact."""

    def __init__(
        self, start: Callable[[], Running], *, proc: str = "/proc", clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._start = start
        self._proc = proc
        self._clock = clock
        self._pressure = self._new_pressure()
        self._left = 0
        self._periods = 0

    def once(self, settings: Compact) -> Outcome:
        """One period. Raises OSError, AgentError."""
        found = self._pressure.percent()
        if found > settings.period_psi_percent_limit:
            self._periods += 1
            return Outcome(False, f"pressure of {found:.1f} %")
        fragments = self._fragments(settings)
        forced = self._periods >= settings.compact_force_times
        if fragments - self._left < settings.compact_threshold and not forced:
            self._periods += 1
            return Outcome(False, f"{fragments} pages of fragments, {self._left} after the last compaction")
        why = self._compact(settings)
        self._left, self._periods = self._fragments(settings), 0
        return Outcome(True, why)

    def _compact(self, settings: Compact) -> str:
        pressure, begin = self._new_pressure(), self._clock()
        running = self._start()
        try:
            while (code := running.wait(STEP)) is None:
                found = pressure.percent()
                if found > settings.compact_psi_percent_limit:
                    return f"broken off at a pressure of {found:.1f} %"
                if 0 < settings.compact_sec_max <= self._clock() - begin:
                    return f"broken off after {settings.compact_sec_max} s"
        finally:
            _end(running)
        if code:
            raise AgentError(f"the kernel did not compact: exit code {code}")
        return "done"

    def _fragments(self, settings: Compact) -> int:
        return fragments(read_text(f"{self._proc}/buddyinfo"), settings.compact_order)

    def _new_pressure(self) -> Pressure:
        return Pressure(f"{self._proc}/pressure/memory", self._clock)


def compact_command(proc: str = "/proc") -> list[str]:
    """The argv of the process that has the kernel compact all of memory."""
    return [sys.executable, "-I", "-S", "-c", PROGRAM, f"{proc}/sys/vm/compact_memory"]


def fragments(buddyinfo: str, order: int) -> int:
    """Free pages in blocks below `order`, from /proc/buddyinfo (proc(5): a column for each order)."""
    pages = 0
    for line in buddyinfo.splitlines():
        counts = line.partition("zone")[2].split()[1:]
        pages += sum(int(count) << index for index, count in enumerate(counts[:order]))
    return pages


def _end(running: Running) -> None:
    try:
        running.send(signal.SIGKILL)
    except ProcessLookupError:
        return
    if running.wait(KILL_TIMEOUT) is None:
        raise AgentError("a compaction does not end")
