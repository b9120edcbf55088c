"""`kata setup`: get guest kernel, guest image and the busybox image ready, if they are not."""

from __future__ import annotations

import argparse

HELP = "prepare the guest kernel, the guest image and the busybox container image"


def configure(parser: argparse.ArgumentParser) -> None:
    """No options: what is there and current is left alone."""


def execute(args: argparse.Namespace) -> int:
    """Idempotent; the second time it takes no time."""
    from kata.ctl import output
    from kata.ctl.prepare import prepare

    with output.steps("setting up") as progress:
        prepare(progress)
    return 0
