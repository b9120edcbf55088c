"""`kata kernel`: fetch Debian's guest kernel, or build one from its source."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kata.ctl.output import Progress
    from kata.kernel.asset import Manifest

HELP = "fetch or build the guest kernel"


def configure(parser: argparse.ArgumentParser) -> None:
    """`fetch` (seconds) and `build` (minutes)."""
    ways = parser.add_subparsers(dest="way", required=True, metavar="WAY")
    fetch = ways.add_parser("fetch", help="take the kernel out of Debian's package (the default kernel)")
    fetch.add_argument("--version", metavar="V", help="a version, such as 6.12.117; default: the newest")
    fetch.add_argument("--flavour", choices=("generic", "cloud"), default="generic", help="cloud has no 9p")
    build = ways.add_parser("build", help="build a smaller and faster kernel from Debian's source")
    build.add_argument("--jobs", type=int, metavar="N", help="compilers at once; default: one a CPU")
    build.add_argument(
        "--fragments", nargs="+", default=(), metavar="NAME", help="configuration fragments: names of ours, or paths"
    )
    for way in (fetch, build):
        way.add_argument("--output", type=Path, metavar="DIR", help="default: where sandboxes look for it")
        way.add_argument("--json", action="store_true", help="print the manifest")


def execute(args: argparse.Namespace) -> int:
    """Fetch or build, then say what came out."""
    from kata import paths
    from kata.ctl import output

    folder = args.output or paths.assets_dir()
    with output.steps(f"guest kernel: {args.way}") as progress:
        manifest = _make(args, folder, progress)
    if args.json:
        import msgspec

        output.json_line(msgspec.to_builtins(manifest))
    else:
        print(f"{folder / manifest.name}: Linux {manifest.release}, {output.size(manifest.size)}")
    return 0


def _make(args: argparse.Namespace, folder: Path, progress: Progress) -> Manifest:
    from kata import kernel

    if args.way == "fetch":
        return kernel.fetch(folder, progress, version=args.version, flavour=args.flavour)
    return kernel.build(folder, progress, jobs=args.jobs, fragments=args.fragments)
