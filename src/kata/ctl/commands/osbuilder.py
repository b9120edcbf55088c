"""`kata osbuilder`: build the guest's image, initrd or root file system."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "build the guest image"


def configure(parser: argparse.ArgumentParser) -> None:
    """One word for what to build, and what goes into it."""
    parser.add_argument(
        "kind",
        metavar="KIND",
        choices=("image", "initrd", "rootfs"),
        help="image: erofs, the guest's first disk; initrd: the same in memory; rootfs: a plain folder",
    )
    parser.add_argument(
        "--packages", nargs="+", default=(), metavar="NAME", help="whole Debian packages instead of the needed files"
    )
    parser.add_argument("--extra-packages", nargs="+", default=(), metavar="NAME", help="whole Debian packages on top")
    parser.add_argument("--debug", action="store_true", help="add busybox: a shell and the usual programs")
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: where sandboxes look for it")
    parser.add_argument("--json", action="store_true", help="print the manifest")


def execute(args: argparse.Namespace) -> int:
    """Build, then say what came out."""
    from kata import paths
    from kata.ctl import output
    from kata.osbuilder import Recipe, build_image

    recipe = Recipe(
        kind=args.kind,
        packages=tuple(args.packages),
        extra_packages=tuple(args.extra_packages),
        debug=args.debug,
    )
    folder = args.output or paths.assets_dir()
    with output.steps(f"guest {args.kind}") as progress:
        manifest = build_image(recipe, folder, progress)
    if args.json:
        import msgspec

        output.json_line(msgspec.to_builtins(manifest))
    else:
        files = f"{len(manifest.files)} files of {len(manifest.packages)} packages"
        print(f"{folder / manifest.name}: {output.size(manifest.size)}, {files}")
    return 0
