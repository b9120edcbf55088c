"""The memory agent as a whole: its two parts, each with settings and a thread that waits from period to period."""

from __future__ import annotations

import os
import threading
from functools import partial
from typing import Generic

from kata.agent.errors import AgentError, Unsupported
from kata.agent.memagent import settings as values
from kata.agent.memagent.compaction import Compactor, compact_command
from kata.agent.memagent.reclaim import Reclaimer
from kata.agent.memagent.settings import Compact, Reclaim, Settings
from kata.linux import cgroup, syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kata.agent.config import Config
    from kata.linux.reaper import Exit, Reaper
    from kata.log import Logger
    from kata.protocol.generated import agent_pb2

DEBUGFS = "/sys/kernel/debug"
MGLRU = "/sys/kernel/mm/lru_gen"
JOIN_TIMEOUT = 5.0


class Part(Generic[Settings]):
    """Runs `once` after every period, until it is disabled or closed; new settings begin a new period."""

    def __init__(self, name: str, settings: Settings, once: Callable[[Settings], object], log: Logger) -> None:
        self._once: Callable[[Settings], object] = once
        self._log = log.bind(part=name)
        self._changed = threading.Condition()
        self._settings: Settings = settings
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=f"memory-{name}", daemon=True)

    def start(self) -> None:
        """Begin the first period."""
        self._thread.start()

    @property
    def settings(self) -> Settings:
        """What it goes by now."""
        with self._changed:
            return self._settings

    def set(self, settings: Settings) -> None:
        """Go by other settings from now on."""
        with self._changed:
            self._settings = settings
            self._changed.notify_all()

    def close(self) -> None:
        """End the thread; a run under way is waited for, for a while."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(JOIN_TIMEOUT)

    def _run(self) -> None:
        while (settings := self._period()) is not None:
            try:
                self._log.debug("memory", outcome=self._once(settings))
            except (OSError, AgentError) as error:
                self._log.warn("the memory agent failed", error=error)

    def _period(self) -> Settings | None:
        """Wait for the end of a period; the settings for what comes now, None at the end of all."""
        with self._changed:
            while not self._closed:
                settings = self._settings
                timeout = None if settings.disabled else min(float(settings.period_secs), threading.TIMEOUT_MAX)
                if not self._changed.wait_for(partial(self._differs, settings), timeout):
                    return settings
            return None

    def _differs(self, settings: Settings) -> bool:
        return self._closed or self._settings is not settings


class MemoryAgent:
    """Both parts. A part whose kernel support is missing cannot be enabled."""

    def __init__(
        self,
        config: Config,
        start: Callable[[], Exit],
        groups: Callable[[], Mapping[str, str]],
        log: Logger,
        *,
        proc: str = "/proc",
        root: str = cgroup.ROOT,
    ) -> None:
        """`start` has the kernel compact, `groups` gives the cgroups of containers by id. Raises AgentError."""
        self._proc, self._root = proc, root
        self._setting = threading.Lock()  # two requests at once must not lose what the other has set
        reclaim, compact = values.reclaim_from(config), values.compact_from(config)
        self._check(reclaim, compact)
        self._reclaim = Part("memcg", reclaim, Reclaimer(groups, root=root).once, log)
        self._compact = Part("compact", compact, Compactor(start, proc=proc).once, log)

    def start(self) -> None:
        """Begin."""
        self._reclaim.start()
        self._compact.start()

    def close(self) -> None:
        """End both parts."""
        self._reclaim.close()
        self._compact.close()

    def set_reclaim(self, request: agent_pb2.MemAgentMemcgConfig) -> Reclaim:
        """Change what the request gives. Raises BadRequest, Unsupported."""
        with self._setting:
            new = values.check_reclaim(values.merged(self._reclaim.settings, request))
            self._check_reclaim(new)
            self._reclaim.set(new)
        return new

    def set_compact(self, request: agent_pb2.MemAgentCompactConfig) -> Compact:
        """Change what the request gives. Raises BadRequest, Unsupported."""
        with self._setting:
            new = values.check_compact(values.merged(self._compact.settings, request))
            self._check_compact(new)
            self._compact.set(new)
        return new

    def _check(self, reclaim: Reclaim, compact: Compact) -> None:
        need(f"{self._proc}/pressure/memory", "pressure information (CONFIG_PSI; not with psi=0)")
        self._check_reclaim(reclaim)
        self._check_compact(compact)

    def _check_reclaim(self, settings: Reclaim) -> None:
        if not settings.disabled:
            need(f"{self._root}/memory.reclaim", "reclaim by cgroup (cgroup v2, kernel 5.19)")

    def _check_compact(self, settings: Compact) -> None:
        if not settings.disabled:
            need(f"{self._proc}/sys/vm/compact_memory", "compaction (CONFIG_COMPACTION)")


def for_guest(config: Config, reaper: Reaper, groups: Callable[[], Mapping[str, str]], log: Logger) -> MemoryAgent:
    """The memory agent of this guest, not yet started. Raises AgentError for what the kernel lacks."""
    show_generations()

    def start() -> Exit:
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        try:
            return reaper.run(compact_command(), {"LANG": "C.UTF-8"}, null, null, null)
        finally:
            os.close(null)

    return MemoryAgent(config, start, groups, log)


def show_generations() -> None:
    """Mount debugfs, where the generations of memory are, if the kernel keeps such. Containers do not see it."""
    if os.path.isdir(MGLRU) and os.path.isdir(DEBUGFS) and not os.path.exists(f"{DEBUGFS}/lru_gen"):
        try:
            syscalls.mount("debugfs", DEBUGFS, "debugfs", syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC)
        except OSError:
            pass  # locked down: the kernel's own ageing has to do


def need(path: str, what: str) -> None:
    """Raise Unsupported, with words, when the kernel does not have the file `path`."""
    try:
        os.close(os.open(path, os.O_RDONLY if os.access(path, os.R_OK) else os.O_WRONLY))
    except OSError as error:
        raise Unsupported(
            f"this guest's kernel has no {what}: {error.strerror}", hint=f"the memory agent needs {path}"
        ) from error
