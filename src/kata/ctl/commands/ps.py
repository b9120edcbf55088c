"""`kata ps`: the sandboxes there are, and what became of them."""

from __future__ import annotations

import argparse
import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kata.sandbox.store import Record, Store

HELP = "list containers"


def configure(parser: argparse.ArgumentParser) -> None:
    """`docker ps`'s options."""
    parser.add_argument("-a", "--all", action="store_true", help="also those that have ended")
    parser.add_argument("-q", "--quiet", action="store_true", help="ids only")
    parser.add_argument("--json", action="store_true", help="one JSON document a container and line")


def execute(args: argparse.Namespace) -> int:
    """Bury the dead first, so that what is listed is true."""
    from kata.ctl import output
    from kata.sandbox.reconcile import reconcile
    from kata.sandbox.store import Store

    store = Store()
    reconcile(store)
    found = [as_it_is(store, record) for record in store.records()]
    records = [record for record in found if args.all or record.status != "stopped"]
    if args.json:
        for record in records:
            output.json_line(summary(record))
    elif args.quiet:
        for record in records:
            print(record.sandbox.id[:12])
    else:
        rows = [
            (
                record.sandbox.id[:12],
                record.image,
                shorten(shlex.join(record.command)),
                f"{output.age(record.created_at)} ago",
                status(record),
                ports(record),
                manager(record),
                record.name,
            )
            for record in records
        ]
        output.table(("CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "MANAGER", "NAME"), rows)
    return 0


def as_it_is(store: Store, record: Record) -> Record:
    """The record, though a full disk kept it from being written that its sandbox is dead."""
    if record.status != "stopped" and not store.alive(record.sandbox.id):
        from kata.sandbox.process import LOST_EXIT_CODE

        record.status, record.finished_at = "stopped", record.finished_at or record.created_at
        record.exit_code, record.error = LOST_EXIT_CODE, "the process that held the sandbox was killed"
    return record


def status(record: Record) -> str:
    """One phrase: `Up 3 minutes`, `Exited (7) 2 hours ago`, with the reason where it was no exit of its own."""
    from kata.ctl import output

    if record.status == "stopped":
        text = f"Exited ({record.exit_code}) {output.age(record.finished_at or record.created_at)} ago"
        return f"{text}: {shorten(record.error, 40)}" if record.error else text
    if record.started_at is None:
        return "Starting"
    return f"Up {output.age(record.started_at)}"


def ports(record: Record) -> str:
    """Published ports as Docker writes them."""
    return ", ".join(
        f"{port.host_address}:{port.host_port}->{port.guest_port}/{port.protocol}" for port in record.sandbox.ports
    )


def manager(record: Record) -> str:
    """Whose sandbox it is: `kata`, or `containerd/k8s.io` with the manager's own namespace."""
    return f"{record.manager}/{record.namespace}" if record.namespace else record.manager


def summary(record: Record) -> dict[str, object]:
    """What `--json` prints; keys stay as they are."""
    return {
        "id": record.sandbox.id,
        "name": record.name,
        "manager": record.manager,
        "namespace": record.namespace,
        "image": record.image,
        "command": record.command,
        "status": record.status,
        "exit_code": record.exit_code,
        "error": record.error,
        "created_at": record.created_at,
        "started_at": record.started_at,
        "finished_at": record.finished_at,
        "vcpus": record.sandbox.vcpus,
        "memory_mib": record.sandbox.memory_mib,
        "accelerator": record.accelerator,
        "ports": [f"{p.host_address}:{p.host_port}:{p.guest_port}/{p.protocol}" for p in record.sandbox.ports],
        "phases_ms": record.phases,
    }


def shorten(text: str, length: int = 28) -> str:
    """At most `length` characters, an ellipsis where some are missing."""
    return text if len(text) <= length else text[: length - 1] + "…"
