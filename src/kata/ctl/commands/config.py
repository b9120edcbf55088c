"""`kata config`: what holds and where it came from, and what is wrong with a file."""

from __future__ import annotations

import argparse
import sys

HELP = "show the effective configuration, or check a configuration file"

EPILOG = """\
examples:
  kata config show
  kata config show --annotation io.katacontainers.config.hypervisor.default_vcpus=2
  kata config check /etc/kata-containers/configuration.toml"""


def configure(parser: argparse.ArgumentParser) -> None:
    """`show` and `check`."""
    ways = parser.add_subparsers(dest="way", required=True, metavar="WAY")
    show = ways.add_parser("show", help="print every value and where it came from", allow_abbrev=False)
    show.add_argument("--config", metavar="FILE", help="this file instead of the first of the search path")
    show.add_argument("--json", action="store_true", help="one JSON document")
    show.add_argument(
        "--annotation", action="append", default=[], metavar="NAME=VALUE", help="what a pod would have (repeatable)"
    )
    check = ways.add_parser("check", help="say what is wrong with a file and its drop-ins", allow_abbrev=False)
    check.add_argument("file", metavar="FILE", help="a configuration.toml; its config.d is checked with it")


def execute(args: argparse.Namespace) -> int:
    """Exit code 0 when the configuration can be used as it is."""
    return _show(args) if args.way == "show" else _check(args.file)


def _show(args: argparse.Namespace) -> int:
    from kata import config
    from kata.config import render
    from kata.ctl import output

    loaded = config.load(args.config, annotations=_annotations(args.annotation))
    for found in loaded.warnings:
        print(f"kata: {found}", file=sys.stderr)
    if args.json:
        output.json_line(render.as_json(loaded))
    else:
        print(render.show(loaded), end="")
    return 0


def _check(path: str) -> int:
    from kata import config

    found = config.check(path)
    for finding in found:
        print(finding)
    return 1 if any(finding.severity == "error" for finding in found) else 0


def _annotations(words: list[str]) -> dict[str, str]:
    from kata.ctl.errors import UsageError

    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise UsageError(f"--annotation {word!r} is not NAME=VALUE", hint="names are in docs/configuration.md")
        found[name] = value
    return found
