"""`kata doctor`: what killed processes have left on this host, and what is wrong with sandboxes that live."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kata.ctl.doctor.finding import Outcome

HELP = "say what is left or wrong on this host, and repair it"
EPILOG = """\
Looks for what killed processes have left: sandboxes, folders of virtual machines, processes, user ids, mounts, cgroups,
templates, sockets of shims, taps and traffic control in network namespaces, workspaces of imports and builds. Most of
it goes with the next command anyway. It also names sandboxes that live and do not answer.

A line is `left` when --fix repairs it, and `wrong` when that is for you to do. --fix never touches a sandbox that
lives, nor what is not surely kata's. `kata check` says what this host can do.

exit code: 0 when nothing is left or wrong (any more), 1 otherwise."""

COLOURS = {"repaired": "32", "left": "33", "wrong": "31", "failed": "31"}
"""ANSI foreground colours (ECMA-48, SGR)."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Two options."""
    parser.add_argument("--fix", action="store_true", help="repair what is left, and say what was done")
    parser.add_argument("--json", action="store_true", help="one JSON document with all findings")


def execute(args: argparse.Namespace) -> int:
    """One finding a line as they come; the last line sums up."""
    from kata.ctl import output
    from kata.ctl.doctor.all import examine
    from kata.errors import KataError

    if os.geteuid() != 0:
        raise KataError("kata doctor looks at other users' processes", hint="run it as root")
    seen: list[Outcome] = []
    for outcome in examine(fix=args.fix):
        seen.append(outcome)
        if not args.json:
            print(line(outcome, colour=sys.stdout.isatty()), flush=True)
    clean = all(outcome.state == "repaired" for outcome in seen)
    if args.json:
        output.json_line({"clean": clean, "findings": [_as_dict(outcome) for outcome in seen]})
    else:
        print(summary(seen))
    return 0 if clean else 1


def line(outcome: Outcome, *, colour: bool) -> str:
    """One outcome on one line."""
    state = f"{outcome.state:<8}"
    shown = f"\x1b[{COLOURS[outcome.state]}m{state}\x1b[0m" if colour else state
    return f"{shown}  {_printable(outcome.finding.found)} → {_printable(outcome.said)}"


def summary(seen: list[Outcome]) -> str:
    """The last line."""
    left = sum(outcome.state == "left" for outcome in seen)
    bad = sum(outcome.state in ("wrong", "failed") for outcome in seen)
    if not seen:
        return "Nothing is left, and nothing is wrong."
    if not left and not bad:
        return "Nothing is left any more."
    words = [f"{left} to repair (kata doctor --fix)"] if left else []
    words += [f"{bad} for you to look at"] if bad else []
    return f"{' and '.join(words)}."


def _as_dict(outcome: Outcome) -> dict[str, str]:
    finding = outcome.finding
    return {
        "kind": finding.kind,
        "subject": finding.subject,
        "state": outcome.state,
        "found": finding.found,
        "said": outcome.said,
    }


def _printable(text: str) -> str:
    """On one line, whatever a name has in it."""
    return "".join(char if char.isprintable() else "?" for char in text)
