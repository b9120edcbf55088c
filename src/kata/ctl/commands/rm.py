"""`kata rm`: remove containers, with every trace."""

from __future__ import annotations

import argparse

HELP = "remove containers"


def configure(parser: argparse.ArgumentParser) -> None:
    """`docker rm`'s options."""
    parser.add_argument("-f", "--force", action="store_true", help="also one that runs; none of that name is fine")
    parser.add_argument("containers", metavar="CONTAINER", nargs="+", help="name or id")


def execute(args: argparse.Namespace) -> int:
    """Remove each; with --force a running one is killed first."""
    from kata.ctl.each import for_each
    from kata.sandbox.store import Store
    from kata.supervisor.remove import remove

    store = Store()
    return for_each(store, args.containers, lambda wanted: remove(store, wanted, force=args.force))
