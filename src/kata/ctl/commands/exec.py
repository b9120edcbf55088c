"""`kata exec`: one more process in a running container."""

from __future__ import annotations

import argparse
import os
import secrets
from typing import TYPE_CHECKING

from kata.ctl import values
from kata.ctl.errors import UsageError

if TYPE_CHECKING:
    from kata.oci.spec import Process
    from kata.sandbox.store import Record, Store

HELP = "run a command in a running container"
EPILOG = """\
examples:
  kata exec web ls /www
  kata exec -it web sh

exit code: the command's; 125 when kata itself failed, 126 when it cannot be run, 127 when it is not there."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Options as `docker exec` has them."""
    add = parser.add_argument
    add("-i", "--interactive", action="store_true", help="connect standard input")
    add("-t", "--tty", action="store_true", help="give the command a terminal")
    add("-d", "--detach", action="store_true", help="do not wait for it")
    add(
        "-e",
        "--env",
        action="append",
        default=[],
        metavar="K=V",
        help="set a variable; K alone passes on ours",
    )
    add("-w", "--workdir", metavar="DIR", help="working directory in the container")
    add("-u", "--user", help="NAME or UID, with an optional :GROUP or :GID")
    add("container", metavar="CONTAINER", help="name or id")
    add("command", metavar="COMMAND", nargs=argparse.REMAINDER, help="program and arguments")


def execute(args: argparse.Namespace) -> int:
    """Find the sandbox, start the process there, stay with it."""
    from kata.ctl.attach import Attachment, require_terminal
    from kata.sandbox.reconcile import reconcile
    from kata.sandbox.stdio import StdioPaths
    from kata.sandbox.store import Store
    from kata.supervisor.client import Control, require_own

    if not args.command:
        raise UsageError("exec needs a command", hint=f"kata exec {args.container} COMMAND")
    if args.tty:
        require_terminal()
    store = Store()
    reconcile(store)
    record = store.find(args.container)
    require_own(record)
    process = describe(args, store, record)
    exec_id = secrets.token_hex(8)
    directory = store.directory(record.sandbox.id)
    with Control(directory) as control:
        if args.detach:
            control.exec(exec_id, process, StdioPaths())
            return 0
        with Attachment(directory, exec_id, stdin=args.interactive, terminal=args.tty) as attachment:
            control.exec(exec_id, process, attachment.paths)
            return attachment.stay(lambda: control.wait(exec_id), control, exec_id, terminal=args.tty)


def describe(args: argparse.Namespace, store: Store, record: Record) -> Process:
    """The process to start: the container's environment, folder and user, with the options over them."""
    from kata.ctl.create import resolve_user
    from kata.sandbox import spec

    init = record.container.spec["process"]
    assert isinstance(init, dict)
    user = init["user"]
    if args.user:
        directory = store.directory(record.sandbox.id)
        chosen = resolve_user(args.user, (directory / "passwd").read_text(), (directory / "group").read_text())
    else:
        chosen = spec.User(user["uid"], user["gid"], tuple(user.get("additionalGids", ())))
    return spec.process(
        spec.ProcessOptions(
            args=tuple(args.command),
            env=spec.merge_env(tuple(init["env"]), values.environment(args.env, os.environ)),
            cwd=args.workdir or init["cwd"],
            user=chosen,
            terminal=args.tty,
        )
    )
