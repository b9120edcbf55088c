"""The guest kernel: Debian's package by default, our own build for whoever wants it smaller and faster.

Called by `kata kernel` and by the osbuilder room, which also uses this room's means to read packages and to
publish assets. The doors load what they need when they are called: most commands only ask what is there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from kata.kernel.asset import Manifest
    from kata.kernel.debian import Flavour
    from kata.kernel.packages import Progress


def fetch(output: Path, progress: Progress, *, version: str | None = None, flavour: Flavour = "generic") -> Manifest:
    """Debian's kernel and its initrd in `output`; see `kata.kernel.debian.fetch`. Raises KernelError."""
    from kata.kernel import debian

    return debian.fetch(output, progress, version=version, flavour=flavour)


def renew(output: Path, progress: Progress) -> Manifest:
    """The initrd in `output` made anew; see `kata.kernel.debian.renew`. Raises KernelError."""
    from kata.kernel import debian

    return debian.renew(output, progress)


def build(output: Path, progress: Progress, *, jobs: int | None = None, fragments: Sequence[str] = ()) -> Manifest:
    """A kernel of our own in `output`; see `kata.kernel.compilation.build`. Raises KernelError."""
    from kata.kernel import compilation

    return compilation.build(output, progress, jobs=jobs, fragments=fragments)
