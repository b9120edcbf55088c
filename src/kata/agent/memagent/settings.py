"""What the memory agent goes by: from the agent's settings at first, then as requests change it. Pure values."""

from __future__ import annotations

from typing import NamedTuple, TypeVar

from kata.agent.errors import BadRequest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from google.protobuf.message import Message

    from kata.agent.config import Config

MAX_SWAPPINESS = 200
MAX_ORDER = 10
"""The largest block of the buddy allocator on x86 (MAX_PAGE_ORDER)."""


class Reclaim(NamedTuple):
    """Settings of the part for containers' memory; names are those of MemAgentMemcgConfig."""

    disabled: bool
    swap: bool
    """Whether anonymous memory may go to swap space; else only the page cache is given back."""
    swappiness_max: int
    period_secs: int
    period_psi_percent_limit: int
    """Pressure (percent of a period) above which a container is left alone."""
    eviction_psi_percent_limit: int
    """Pressure above which giving back is broken off."""
    eviction_run_aging_count_min: int
    """Periods that memory must be seen unused before it is cold."""


class Compact(NamedTuple):
    """Settings of the part that compacts; names are those of MemAgentCompactConfig."""

    disabled: bool
    period_secs: int
    period_psi_percent_limit: int
    compact_psi_percent_limit: int
    """Pressure above which a compaction under way is broken off."""
    compact_sec_max: int
    """Seconds that one compaction may take; 0 or less is no limit."""
    compact_order: int
    """Free blocks below this order count as fragments; 9 is a huge page."""
    compact_threshold: int
    """Pages of fragments more than after the last compaction that make another one worth it."""
    compact_force_times: int
    """Periods without a compaction after which there is one in any case."""


Settings = TypeVar("Settings", Reclaim, Compact)


def reclaim_from(config: Config) -> Reclaim:
    """Those of the agent's start. Raises BadRequest."""
    return check_reclaim(Reclaim(*(getattr(config, _option("memcg", name)) for name in Reclaim._fields)))


def compact_from(config: Config) -> Compact:
    """Those of the agent's start. Raises BadRequest."""
    return check_compact(Compact(*(getattr(config, _option("compact", name)) for name in Compact._fields)))


def merged(settings: Settings, request: Message) -> Settings:
    """The settings with what the request gives; what it does not give stays."""
    given = {name: getattr(request, name) for name in settings._fields if request.HasField(name)}
    return settings._replace(**given)


def check_reclaim(settings: Reclaim) -> Reclaim:
    """Return them. Raises BadRequest for a value out of its range."""
    _check("swappiness_max", settings.swappiness_max, 0, MAX_SWAPPINESS)
    _check("period_secs", settings.period_secs, 1)
    _check("period_psi_percent_limit", settings.period_psi_percent_limit, 0, 100)
    _check("eviction_psi_percent_limit", settings.eviction_psi_percent_limit, 0, 100)
    return settings


def check_compact(settings: Compact) -> Compact:
    """Return them. Raises BadRequest for a value out of its range."""
    _check("period_secs", settings.period_secs, 1)
    _check("period_psi_percent_limit", settings.period_psi_percent_limit, 0, 100)
    _check("compact_psi_percent_limit", settings.compact_psi_percent_limit, 0, 100)
    _check("compact_order", settings.compact_order, 1, MAX_ORDER)
    return settings


def _check(name: str, value: int, least: int, most: int | None = None) -> None:
    if value < least or (most is not None and value > most):
        allowed = f"{least} to {most}" if most is not None else f"at least {least}"
        raise BadRequest(f"{name}={value} is out of range", hint=f"give {allowed}")


def _option(part: str, name: str) -> str:
    """The field of the agent's settings: `disabled` is an option `disable`, and no part's name comes twice."""
    name = "disable" if name == "disabled" else name.removeprefix("compact_")
    return f"mem_agent_{part}_{name}"
