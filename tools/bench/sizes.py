"""Sizes of what a virtual machine boots from. Nothing is measured in turns: they do not change."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tools.bench.report import Fact, Part, tidy

from kata import paths

if TYPE_CHECKING:
    from tools.bench.options import Options

FILES = {
    "Debian's kernel": "vmlinuz",
    "its initrd": "initrd.img",
    "guest image": "kata-containers.img",
}


def measure(options: Options) -> Part:
    """Of the files that are there."""
    found = {name: paths.assets_dir() / file for name, file in FILES.items()}
    return Part(
        facts=[Fact(name, tidy(path.stat().st_size / 2**20), "MiB") for name, path in found.items() if path.exists()]
    )
