"""The sandbox that a command line names, whoever runs it. Used by the commands that ask its management socket."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kata.sandbox.errors import ConflictError
from kata.sandbox.reconcile import reconcile
from kata.sandbox.store import Store

if TYPE_CHECKING:
    import argparse


def add_argument(parser: argparse.ArgumentParser) -> None:
    """The argument that names a sandbox."""
    parser.add_argument("sandbox", metavar="SANDBOX", help="name, id, or how an id begins (kata ps lists them)")


def running(wanted: str) -> str:
    """The id of a sandbox that runs. Raises NotFoundError, and ConflictError for one that has ended or is not alone."""
    store = Store()
    reconcile(store)
    record = store.find(wanted)
    if record.status == "stopped":
        raise ConflictError(f"sandbox {wanted} has ended", hint="kata ps lists those that run")
    return record.sandbox.id
