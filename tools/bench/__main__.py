"""`make bench`: what a container in a virtual machine costs here, as JSON and as tables.

Runs the parts one after the other, each for itself: one that fails is told by name, and the others' figures are there
all the same. Machines differ and are noisy, so what counts are ratios of one run; nothing asserts them. Everything that
was started has ended when this ends, after Ctrl-C too. Also the door to `docs` and `revisions`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

# An isolated interpreter (-I) does not look beside the script that it runs.
sys.path.append(str(Path(__file__).parents[2]))
from tools.bench import aims, docs, parts, report
from tools.bench.options import Options, parse
from tools.bench.tables import Table, tables, text
from tools.bench.world import BenchError, clear_up, kata, own_state

from kata import paths
from kata.errors import KataError

if TYPE_CHECKING:
    from types import FrameType

INTERRUPTED = 130
SAID = (BenchError, KataError, AssertionError, OSError, subprocess.SubprocessError)
"""Failures that say what they are (helpers of tests assert what they run): a traceback adds nothing to them."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> int:
    """Do what the command line says; see `options` for the exit code."""
    for number in SIGNALS:
        signal.signal(number, _interrupt)
    options = parse(sys.argv[1:], parts.PARTS, paths.data_dir() / "bench.json")
    try:
        if options.docs:
            return write_docs(options)
        if os.geteuid():
            raise BenchError("only root can start virtual machines with networks and shares of their own")
        options.output.parent.mkdir(parents=True, exist_ok=True)  # not after all the measuring
        if options.base:
            from tools.bench import revisions

            return revisions.run(options)
        return run(options)
    except KeyboardInterrupt:
        print("\nbench: stopped", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the interpreter's last flush
        print(f"bench: stopped, as nobody reads its output; what was measured is in {options.output}", file=sys.stderr)
        return 1
    except (BenchError, report.ReportError, OSError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1


def run(options: Options) -> int:
    """Measure, show and write what was measured."""
    found: dict[str, report.Part] = {}
    failed: dict[str, str] = {}
    try:
        with own_state():
            kata("setup")
            for name in options.parts:
                measure(name, options, found, failed)
    finally:
        finish(report.Report(found, failed), options)
    return 1 if failed else 0


def measure(name: str, options: Options, found: dict[str, report.Part], failed: dict[str, str]) -> None:
    """One part into `found` or, with the reason, into `failed`."""
    print(f"bench: {name}: {parts.PARTS[name]} …", file=sys.stderr, flush=True)
    try:
        found[name] = parts.run(name, options)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever it is, the other parts go on
        if isinstance(error, SAID):
            failed[name] = str(error)
        else:
            failed[name] = f"{type(error).__name__}: {error}"
            traceback.print_exc()
        clear_up()
    else:
        show(name, found[name])


def show(name: str, part: report.Part) -> None:
    """One part for people."""
    print(f"\n=== {name}\n")
    for table in tables(part):
        print(f"{text(table)}\n", flush=True)


def finish(found: report.Report, options: Options) -> None:
    """The file, and what is said at the end: whoever has read enough may have closed our output by now."""
    if found.parts or found.failed:
        report.write(found, options.output)
    for part in list(found.parts.values())[:1]:
        if part.circumstances is not None:
            here = part.circumstances
            rows = (*here.machine.items(), ("load at the start", f"{here.load:.2f}"), ("revision", here.revision))
            print(f"=== machine\n\n{text(Table('', ('', ''), rows))}\n")
    reached = aims.table(found)
    if reached.rows:
        print(f"=== aims\n\n{text(reached._replace(title=''))}\n")
    for name, why in found.failed.items():
        print(f"bench: the part {name} failed: {why}", file=sys.stderr)
    if found.parts or found.failed:
        print(f"written to {options.output}", flush=True)


def write_docs(options: Options) -> int:
    """Bring the last run's figures into the documentation."""
    new = report.read(options.output) if options.output.exists() else None
    if new is None and not (docs.DOCS / docs.JSON).exists():
        raise BenchError(f"there are no figures, neither in {options.output} nor in docs/{docs.JSON}: make bench first")
    for name in docs.update(new):
        print(f"docs/{name}")
    return 0


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """Once: what follows is the clearing up, which takes seconds, and is not to be interrupted."""
    for other in SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
