"""`kata metrics`: a sandbox in numbers."""

from __future__ import annotations

import argparse
import sys

HELP = "show a sandbox's metrics, as Prometheus reads them"
EPILOG = """\
example:
  kata metrics web | grep kata_guest_meminfo

docs/metrics.md says what the names mean."""


def configure(parser: argparse.ArgumentParser) -> None:
    """The sandbox."""
    from kata.ctl import sandboxes

    sandboxes.add_argument(parser)


def execute(args: argparse.Namespace) -> int:
    """Print what the sandbox's `/metrics` says."""
    from kata.ctl import sandboxes
    from kata.ctl.terminal import shown
    from kata.management import client

    answer = client.request(sandboxes.running(args.sandbox), "GET", "/metrics")
    with shown(sys.stdout.buffer) as output:
        output.write(answer)
    return 0
