"""`kata stop`: ask containers to end, and end them when they do not."""

from __future__ import annotations

import argparse

from kata.ctl.errors import UsageError

HELP = "stop running containers"
END_TIMEOUT = 10.0
"""Seconds that a sandbox's process has to be gone, once it answers no more."""


def configure(parser: argparse.ArgumentParser) -> None:
    """`docker stop`'s options."""
    parser.add_argument("-t", "--time", default="10", metavar="SECONDS", help="until it is killed (default: 10)")
    parser.add_argument("containers", metavar="CONTAINER", nargs="+", help="name or id")


def execute(args: argparse.Namespace) -> int:
    """Stop each; the first failure is reported after all were tried."""
    from kata.ctl.each import for_each
    from kata.sandbox.errors import SandboxError
    from kata.sandbox.store import Store
    from kata.supervisor.client import Control, require_own
    from kata.supervisor.interrupt import interrupt

    if not args.time.isdigit():
        raise UsageError(f"-t {args.time!r} is not a number of seconds")
    store = Store()

    def stop(wanted: str) -> None:
        record = store.find(wanted)
        require_own(record)
        if record.status == "stopped":
            return
        try:
            with Control(store.directory(record.sandbox.id)) as control:
                control.stop(record.container.stop_signal, float(args.time))
        except SandboxError:
            # It may be starting still, or have ended by itself at this very moment, which is what was wanted.
            interrupt(store, record.sandbox.id)
            if not store.wait_end(record.sandbox.id, END_TIMEOUT):
                raise

    return for_each(store, args.containers, stop)
