"""Commands that have actions of their own, as `kata image` has `ls` and `rm`."""

from __future__ import annotations

import argparse


def add_action(
    actions: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str, act: object
) -> argparse.ArgumentParser:
    """The parser of an action; the command's `execute` finds `act` in what it parsed."""
    parser = actions.add_parser(
        name,
        help=text,
        description=text,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(act=act)
    return parser
