"""`kata install`: make other programs of this host use us, and undo that."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "add the runtime to containerd, or take it out again"
EPILOG = """\
examples:
  kata install containerd --dry-run
  kata install containerd --runtime-class-out runtimeclass.yaml
  kata install containerd --undo

Only a block of its own is added to the configuration; everything else in it stays as it is. containerd reads it when
it starts: systemctl restart containerd (containers that run go on)."""

CONFIG = "/etc/containerd/config.toml"


def configure(parser: argparse.ArgumentParser) -> None:
    """`containerd`."""
    from kata.ctl.containerd.shim import BIN

    ways = parser.add_subparsers(dest="way", required=True, metavar="WAY")
    way = ways.add_parser("containerd", help="the runtime kata for containerd and its CRI plugin", allow_abbrev=False)
    add = way.add_argument
    add("--undo", action="store_true", help="take out what was added")
    add("--config", metavar="FILE", default=CONFIG, help=f"containerd's configuration (default: {CONFIG})")
    add("--bin-dir", metavar="DIR", default=BIN, help=f"a folder of containerd's PATH (default: {BIN})")
    add("--runtime-class-out", metavar="FILE", help="write a RuntimeClass for Kubernetes; - is standard output")
    add("--dry-run", action="store_true", help="say what would be done")
    add("--restart", action="store_true", help="restart containerd afterwards (systemctl)")


def execute(args: argparse.Namespace) -> int:
    """The name on the PATH first: a runtime without its shim is worse than none."""
    from kata.ctl.containerd import install, shim

    config, folder = Path(args.config), Path(args.bin_dir)
    prefix = "would do: " if args.dry_run else ""
    if args.undo:
        print(prefix + install.undo(config, dry_run=args.dry_run))
        print(prefix + shim.unlink(folder, dry_run=args.dry_run))
    else:
        install.add(config, dry_run=True)  # complain before anything is touched
        print(prefix + shim.link(folder, dry_run=args.dry_run))
        print(prefix + install.add(config, dry_run=args.dry_run))
        _warn(config)
    if args.runtime_class_out and not args.undo:
        _write_class(args.runtime_class_out, dry_run=args.dry_run)
    _restart(restart=args.restart and not args.dry_run)
    return 0


def _warn(config: Path) -> None:
    import sys

    from kata.ctl.containerd import document, install

    if document.disables_cri(install.read(config) or ""):
        print(
            f"kata: {config} switches the CRI plugin off (disabled_plugins): ctr works, Kubernetes does not",
            file=sys.stderr,
        )


def _write_class(path: str, *, dry_run: bool) -> None:
    from kata.ctl.containerd.runtimeclass import manifest

    if path == "-":
        print(manifest(), end="")
    elif not dry_run:
        Path(path).write_text(manifest())
        print(f"{path} written: kubectl apply -f {path}")


def _restart(*, restart: bool) -> None:
    from kata.linux.process import run

    if not restart:
        print("containerd reads its configuration when it starts: systemctl restart containerd")
        return
    run(["systemctl", "restart", "containerd"], timeout=120)
    print("containerd restarted")
