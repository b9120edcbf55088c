"""Files: what is shared by virtio-fs and by 9p, and the guest's memory, against a root file system in a disk.

All are in one guest for each kind of share, so that what is compared is work of one emulated processor. The root file
systems of `ctr` and of pods are such a share (`shared_fs`), those of `kata run` a disk. What is read was thrown
out of the guest's memory first; the host keeps it in its own. The root is an erofs disk of the image with an overlay
in the guest's memory: reading is of the disk, writing of the overlay. Busybox does it, told by a shell that waits.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.helpers.containerd import write_root
from tools.bench import turns
from tools.bench.guest import SANDBOX, start_shell
from tools.bench.report import Comparison, Part, compare
from tools.bench.world import KATA, BenchError, sandbox

from kata.agentctl.session import Options as SessionOptions
from kata.agentctl.session import Session
from kata.agentctl.targets import SandboxTarget

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tools.bench.options import Options

    Shell = Callable[[str], str]

MIB, LOOKED_AT, MADE = 24, 1000, 200
"""Twice the first fits into a container's /dev/shm. A program's start is little against so many files."""
DONE = "=END="
TMPFS, ROOT = "tmpfs", "root: erofs and overlay"
BIG, SMALL = "big", "small"
SHARES = ("virtio-fs", "virtio-9p")
TMPFS_AT, ROOT_AT, VOLUME = "/dev/shm/bench", "/bench", "/volume"


class Operation:
    """Something done in a folder `{at}`, and how much of it."""

    def __init__(self, title: str, unit: str, amount: float, script: str, before: str = "") -> None:
        self.title, self.unit, self.amount = title, unit, amount
        self.script, self.before = script, before


OPERATIONS = (
    Operation("Sequential read", "MiB/s", MIB, "dd if={at}/big of=/dev/null bs=1M 2>/dev/null"),
    Operation(
        "Sequential write",
        "MiB/s",
        MIB,
        f"dd if=/dev/zero of={{at}}/new bs=1M count={MIB} 2>/dev/null && sync",
        before="rm -f {at}/new",
    ),
    Operation("Small files looked at", "files/s", LOOKED_AT, "ls -l {at}/small >/dev/null"),
    Operation(
        "Small files made",
        "files/s",
        MADE,
        f"i=0; while [ $i -lt {MADE} ]; do echo x >{{at}}/made/$i; i=$((i+1)); done",
        before="rm -rf {at}/made && mkdir {at}/made",
    ),
)


def measure(options: Options) -> Part:
    """A guest for each kind of share: both have the root file system and a tmpfs."""
    found = []
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        image, volume = Path(folder, "image"), Path(folder, "volume")
        write_root(image)
        for place in (image / "bench", volume):
            fill(place)
        for share in SHARES:
            with guest(image, volume, share) as (run, drop):
                run(f"mkdir -p {TMPFS_AT} && cp -r {ROOT_AT}/. {TMPFS_AT}")
                for operation in OPERATIONS:
                    found.append(_compared(run, drop, operation, options.runs, share))
    return Part(comparisons=found)


@contextmanager
def guest(image: Path, volume: Path, share: str) -> Iterator[tuple[Shell, Callable[[], object]]]:
    """A container: a shell in it, and what makes its guest forget the files that it has read."""
    words = ("--shared-fs", share, "-v", f"{volume}:{VOLUME}", os.fspath(image), "sleep", "10000")
    with sandbox(*words) as cid, SandboxTarget(cid) as target:
        whole = start_shell(Session(target, SessionOptions()), f"{SANDBOX}/rootfs/{cid}")
        with subprocess.Popen(
            [*KATA, "exec", "-i", cid, "sh"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            try:
                yield (
                    (lambda script: tell(process, script)),
                    (lambda: whole("sync; echo 3 > /proc/sys/vm/drop_caches || echo failed")),
                )
            finally:
                process.kill()


def tell(process: subprocess.Popen[str], script: str) -> str:
    """Have a shell run a script; what it printed. Raises BenchError when it fails."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(f"{{ {script}; }}; echo {DONE} $?\n")
    process.stdin.flush()
    said = ""
    for line in process.stdout:
        if line.startswith(DONE):
            if line.split()[1] != "0":
                raise BenchError(f"in the guest: {script}: {said}")
            return said
        said += line
    raise BenchError(f"the shell in the container ended: {said}")


def fill(place: Path) -> None:
    """What is read: one file of data that cannot be packed, and many small ones."""
    (place / SMALL).mkdir(parents=True)
    with Path("/dev/urandom").open("rb") as noise, (place / BIG).open("wb") as big:
        for _ in range(MIB):
            big.write(noise.read(1 << 20))
    for number in range(LOOKED_AT):
        (place / SMALL / str(number)).write_text("x\n")


def _compared(run: Shell, drop: Callable[[], object], operation: Operation, runs: int, share: str) -> Comparison:
    """One operation in each of the folders, in turns."""

    def way(at: str) -> Callable[[], float]:
        def once() -> float:
            run(operation.before.format(at=at) or "true")
            drop()
            return turns.rate(lambda: run(operation.script.format(at=at)), operation.amount)()

        return once

    places = {ROOT: ROOT_AT, f"volume: {share}": VOLUME, TMPFS: TMPFS_AT}
    samples = turns.take({name: way(at) for name, at in places.items()}, runs)
    return compare(f"{operation.title}, guest with {share}", operation.unit, ROOT, samples, "more")
