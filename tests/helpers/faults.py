"""Faults of the host made for one command: what is mounted over for it alone, small file systems, and what it says.

An error is taken apart, so that a test can ask for each part: the layer, what failed, and what to do about it.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from kata import paths
from kata.errors import LAYERS
from tests.helpers.cli import ARGV, TIMEOUT, kata, leftovers

QEMU = "/usr/bin/qemu-system-x86_64"
GONE_TIMEOUT = 15.0


class Said(NamedTuple):
    """What a command has said, and what of it is its error."""

    code: int
    out: str
    layer: str
    what: str
    hint: str
    rest: str

    @property
    def outcome(self) -> str:
        """One line for the record."""
        return f"{self.layer}: {self.what}" if self.layer else f"goes on (exit code {self.code})"


def said(done: subprocess.CompletedProcess[bytes]) -> Said:
    """Take apart what a `kata` command has written to standard error. A traceback or a broken sentence fails."""
    lines = done.stderr.decode(errors="replace").splitlines()
    assert not any("Traceback" in line or line.startswith("Exception ") for line in lines), lines
    found = [
        number for number, line in enumerate(lines) if line.startswith(tuple(f"kata: {name}: " for name in LAYERS))
    ]
    if not found:
        return Said(done.returncode, done.stdout.decode(errors="replace"), "", "", "", "\n".join(lines))
    first = found[-1]
    _, layer, what = lines[first].split(": ", 2)
    hint = lines[first + 1].strip() if len(lines) > first + 1 else ""
    rest = "\n".join(lines[first + 1 :])
    is_hint = hint.startswith("hint: ")
    return Said(
        done.returncode,
        done.stdout.decode(errors="replace"),
        layer,
        what,
        hint.removeprefix("hint: ") if is_hint else "",
        rest,
    )


def faulty(
    *words: str,
    script: str = "",
    inside: tuple[str, ...] = ("unshare", "--mount", "--propagation", "private"),
    env: dict[str, str] | None = None,
    timeout: float = TIMEOUT,
) -> Said:
    """Run a `kata` command after `script` (of sh), both in namespaces of their own; what it says."""
    done = subprocess.run(
        [*inside, "sh", "-euc", f'{script}\nexec "$@"', "sh", *ARGV, *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=timeout,
        check=False,
        env={**os.environ, **(env or {})},
    )
    return said(done)


def run(*words: str, env: dict[str, str] | None = None) -> Said:
    """Run a `kata` command as it is; what it says."""
    return said(kata(*words, env=env))


@contextmanager
def small(place: Path, options: str) -> Iterator[Path]:
    """A tmpfs there, during the block."""
    place.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(place)], check=True, timeout=30)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True, timeout=30)


def fill(folder: Path, leave: int = 0) -> None:
    """Take all room of a file system but `leave` bytes."""
    with (folder / "filling").open("wb", buffering=0) as file, suppress(OSError):
        while (free := room(folder) - leave) > 0:
            file.write(bytes(min(free, 1 << 20)))


def room(folder: Path) -> int:
    """Bytes that are free in a file system."""
    there = os.statvfs(folder)
    return there.f_bavail * there.f_frsize


def data_folder(place: Path, *shared: str) -> Path:
    """A data directory that has guest assets, and what else is named, from the real one."""
    place.mkdir(parents=True, exist_ok=True)
    for name in ("assets", *shared):
        (place / name).symlink_to(paths.data_dir() / name)
    return place


def await_nothing_left() -> list[str]:
    """What is left after a while: a process that was killed takes a moment to be gone."""
    await_true(lambda: not leftovers(), GONE_TIMEOUT)
    return leftovers()


def await_true(condition: Callable[[], object], timeout: float = 60.0) -> bool:
    """Until it is so; whether it is."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def doctor() -> str:
    """What `kata doctor` has to say; empty when nothing is left or wrong."""
    done = kata("doctor")
    return "" if done.returncode == 0 else (done.stdout + done.stderr).decode(errors="replace")


def runtime_log() -> str:
    """The logs of all sandboxes that there are."""
    return "\n".join(path.read_text(errors="replace") for path in paths.sandboxes_dir().glob("*/runtime.log"))
