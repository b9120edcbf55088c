"""All looks of `kata doctor`, in the order in which repairs must be made: what holds other things goes first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from kata.ctl.doctor import files, networks, processes, sandboxes
from kata.ctl.doctor.finding import Finding, Outcome
from kata.errors import KataError
from kata.sandbox.store import Store

FIX = "kata doctor --fix removes it"


def examine(*, fix: bool) -> Iterator[Outcome]:
    """Look at one kind of thing after the other; with `fix`, repair what can be before the next look."""
    for name, look in looks(Store()):
        try:
            for finding in look():
                yield treat(finding, fix=fix)
        except (KataError, OSError) as error:
            yield Outcome(Finding(name, "", f"{name} cannot be looked at: {error}"), "wrong", "run this as root")


def looks(store: Store) -> tuple[tuple[str, Callable[[], Iterable[Finding]]], ...]:
    """Every look with its name."""
    return (
        ("processes", processes.orphans),
        ("mounts", lambda: files.mounted(store)),
        ("sandboxes", lambda: sandboxes.dead(store)),
        ("records", lambda: sandboxes.damaged(store)),
        ("folders", lambda: files.half_made(store)),
        ("machines", lambda: sandboxes.machines(store)),
        ("user ids", files.user_ids),
        ("templates", files.templates),
        ("sockets", files.sockets),
        ("cgroups", sandboxes.cgroups),
        ("networks", lambda: networks.left(store)),
        ("zygotes", files.zygotes),
        ("workspaces", files.workspaces),
        ("loop devices", lambda: files.loops(store)),
        ("living sandboxes", lambda: sandboxes.stuck(store)),
    )


def treat(finding: Finding, *, fix: bool) -> Outcome:
    """Repair it if that is wanted and possible."""
    if finding.repair is None:
        return Outcome(finding, "wrong", finding.advice)
    if not fix:
        return Outcome(finding, "left", finding.advice or FIX)
    try:
        return Outcome(finding, "repaired", finding.repair())
    except (KataError, OSError) as error:
        return Outcome(finding, "failed", str(error))
