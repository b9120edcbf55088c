"""`kata policy`: what a guest's agent may be asked to do."""

from __future__ import annotations

import argparse

HELP = "replace the policy of a guest's agent"
EPILOG = """\
example:
  kata policy set web policy.rego

The policy that holds decides whether it may be replaced (SetPolicyRequest); see docs/policy.md."""


def configure(parser: argparse.ArgumentParser) -> None:
    """`set`."""
    from kata.ctl import sandboxes

    ways = parser.add_subparsers(dest="way", required=True, metavar="WAY")
    way = ways.add_parser("set", help="give the agent another policy", allow_abbrev=False)
    sandboxes.add_argument(way)
    way.add_argument("file", metavar="FILE", help="a policy in Rego; - is standard input")


def execute(args: argparse.Namespace) -> int:
    """One request."""
    from kata.ctl import files, sandboxes
    from kata.management import client

    policy = files.read(args.file)
    client.request(sandboxes.running(args.sandbox), "PUT", "/policy", policy)
    return 0
