"""`kata env`: settings and host, in the form that upstream's tools and bug reports know."""

from __future__ import annotations

import argparse
import json
import sys

HELP = "show the effective settings and this host, for tools and bug reports"


def configure(parser: argparse.ArgumentParser) -> None:
    """Where from, and how."""
    parser.add_argument("--config", metavar="FILE", help="this file instead of the first of the search path")
    parser.add_argument("--json", action="store_true", help="JSON instead of TOML")


def execute(args: argparse.Namespace) -> int:
    """Print all fields. Nothing is booted to find them out."""
    from kata import config
    from kata.ctl import env
    from kata.ctl.check.all import findings
    from kata.ctl.containerd.shim import shim_program
    from kata.hypervisor.qemu.probe import BINARY

    loaded = config.load(args.config)
    for warning in loaded.warnings:
        print(f"kata: {warning}", file=sys.stderr)
    capable = all(finding.state != "fail" for finding in findings(probe=False))
    tables = env.collect(loaded, capable=capable, program=BINARY, runtime=str(shim_program()))
    print(json.dumps(tables, indent=2) if args.json else env.toml(tables).lstrip("\n"), end="\n" if args.json else "")
    return 0
