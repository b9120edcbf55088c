"""Checks of the programs that kata runs, from the same list that set-up installs (`packages.txt`)."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NamedTuple

from kata.ctl.check.finding import Finding, fail, ok
from kata.linux.process import PATH, ProcessError, run

LIST = Path(__file__).with_name("packages.txt")


class Program(NamedTuple):
    """A program, the Debian package that has it, and what it is for."""

    package: str
    program: str
    purpose: str


def needed(text: str | None = None) -> list[Program]:
    """The programs that running containers needs."""
    found = []
    for line in (LIST.read_text() if text is None else text).splitlines():
        if line and not line.startswith("#"):
            package, need, program, purpose = line.split(None, 3)
            if need == "run" and program != "-":
                found.append(Program(package, program, purpose))
    return found


def check(program: Program) -> Finding:
    """Whether it is there, and in which version."""
    path = shutil.which(program.program, path=PATH)
    if path is None:
        return fail(program.program, f"not installed; it {program.purpose}", f"apt-get install {program.package}")
    return ok(program.program, version(program.package) or path)


def version(package: str) -> str:
    """The version of an installed Debian package, or nothing."""
    if not os.path.exists("/usr/bin/dpkg-query"):
        return ""
    try:
        done = run(["dpkg-query", "--show", "--showformat", "${Version}", package], timeout=10)
    except ProcessError:
        return ""
    return done.stdout.decode(errors="replace").strip()
