"""`kata check`: what this host can and cannot do, and what to do about it."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kata.ctl.check.finding import Finding

HELP = "say what this host can and cannot do"
EPILOG = "exit code: 0 when containers can run here, 1 when they cannot."

COLOURS = {"ok": "32", "warn": "33", "fail": "31"}
"""ANSI foreground colours (ECMA-48, SGR)."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Two options, both about how."""
    parser.add_argument("--json", action="store_true", help="one JSON document with all findings")
    parser.add_argument("--no-probe", action="store_true", help="do not boot a kernel to try hardware virtualisation")


def execute(args: argparse.Namespace) -> int:
    """Print findings as they come; the last line says whether containers can run."""
    from kata.ctl import output
    from kata.ctl.check.all import findings

    seen: list[Finding] = []
    for finding in findings(probe=not args.no_probe):
        seen.append(finding)
        if not args.json:
            print(line(finding, colour=sys.stdout.isatty()), flush=True)
    able = all(finding.state != "fail" for finding in seen)
    if args.json:
        output.json_line({"able": able, "findings": [_as_dict(finding) for finding in seen]})
    else:
        print(
            "\nContainers can run here."
            if able
            else "\nContainers cannot run here: see the lines that begin with fail."
        )
    return 0 if able else 1


def line(finding: Finding, *, colour: bool) -> str:
    """One finding on a line, the advice on a second one."""
    state = f"\x1b[{COLOURS[finding.state]}m{finding.state:<4}\x1b[0m" if colour else f"{finding.state:<4}"
    text = f"{state}  {finding.name:<28}  {finding.found}"
    return f"{text}\n      {'':<28}  → {finding.advice}" if finding.advice else text


def _as_dict(finding: Finding) -> dict[str, str]:
    return {"name": finding.name, "state": finding.state, "found": finding.found, "advice": finding.advice}
