"""`kata run`: from an image to a running container in a virtual machine of its own."""

from __future__ import annotations

import argparse
import contextlib
import os
from typing import TYPE_CHECKING

from kata.ctl.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from kata.ctl.create import RunOptions
    from kata.sandbox.store import Record, Store

HELP = "run a command in a new container, in a virtual machine of its own"
EPILOG = """\
IMAGE is a name in the local store (kata image ls), an OCI layout directory or archive, a docker-archive,
a directory with a root filesystem, or a registry reference such as docker.io/library/busybox.

examples:
  kata run --rm busybox uname -r
  echo hello | kata run --rm -i busybox cat
  kata run --rm -it --memory 512m --cpus 2 busybox sh
  kata run -d --name web -p 8080:80 -v ./site:/www:ro busybox httpd -f -p 80 -h /www

exit code: the container's; 125 when kata itself failed, 126 when the command cannot be run,
127 when it is not in the image."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Options as `docker run` has them."""
    add = parser.add_argument
    add("--rm", action="store_true", help="remove the container when it ends")
    add("-i", "--interactive", action="store_true", help="connect standard input")
    add("-t", "--tty", action="store_true", help="give the command a terminal")
    add("-d", "--detach", action="store_true", help="run in the background and print the id")
    add("--name", help="name of the container (default: made up)")
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
    add(
        "-v",
        "--volume",
        action="append",
        default=[],
        metavar="SRC:DST[:ro]",
        help="a directory or file of the host",
    )
    add("--hostname", help="host name in the container (default: the short id)")
    add("--read-only", action="store_true", help="make the container's root filesystem read-only")
    add("--entrypoint", help="program to run instead of the image's")
    add("--network", choices=("user", "none"), default="user", help="user-mode network (default), or none")
    add("-p", "--publish", action="append", default=[], metavar="HOST:GUEST[/udp]", help="publish a port")
    _configure_machine(add)
    add("image", metavar="IMAGE", help="what to run")
    add(
        "command",
        metavar="COMMAND",
        nargs=argparse.REMAINDER,
        help="program and arguments (default: the image's)",
    ).required = False  # or argparse would ask for it together with a missing IMAGE


def _configure_machine(add: Callable[..., argparse.Action]) -> None:
    """Options of the virtual machine."""
    add("--cpus", default="1", metavar="N", help="how many CPUs; parts allowed (default: 1)")
    add(
        "--memory",
        "-m",
        default="256m",
        metavar="SIZE",
        help="memory of the VM, for example 512m (default: 256m)",
    )
    add(
        "--shared-fs",
        choices=("virtio-fs", "virtio-9p"),
        default="virtio-fs",
        help="how volumes get into the VM (default: virtio-fs)",
    )
    add(
        "--accel",
        choices=("auto", "kvm", "tcg"),
        default="auto",
        help="what runs the guest's CPUs (default: auto)",
    )
    add("--machine", choices=("q35", "microvm"), default="q35", help="QEMU machine type (default: q35)")
    add(
        "--no-template",
        dest="template",
        action="store_false",
        help="boot the virtual machine, instead of going on from one that was booted and saved",
    )
    add(
        "--boot-timeout",
        type=float,
        default=90.0,
        metavar="SECONDS",
        help="how long the guest may take to answer",
    )


def execute(args: argparse.Namespace) -> int:
    """Create the sandbox, start it, and stay attached unless asked not to."""
    from kata.ctl.attach import require_terminal
    from kata.ctl.create import RunOptions, create, remove_unlaunched

    if args.detach and (args.interactive or args.tty):
        raise UsageError("-d goes with neither -i nor -t", hint="attach later: kata exec -it NAME sh")
    if args.tty:
        require_terminal()
    options = RunOptions.from_arguments(args)
    with contextlib.ExitStack() as stack:
        store, record, lock = create(options, stack)
        try:
            return _run(options, store, record, lock)
        except BaseException:
            remove_unlaunched(store, record)
            raise


def _run(options: RunOptions, store: Store, record: Record, lock: int) -> int:
    from kata.sandbox.stdio import StdioPaths
    from kata.supervisor.launch import launch

    if options.detach:
        with launch(store, record, StdioPaths(), lock):
            print(record.sandbox.id)
        return 0
    return _run_attached(options, store, record, lock)


def _run_attached(options: RunOptions, store: Store, record: Record, lock: int) -> int:
    from kata.ctl.attach import Attachment
    from kata.ctl.signals import hold
    from kata.sandbox.errors import ConflictError
    from kata.supervisor.client import Control
    from kata.supervisor.launch import launch

    directory = store.directory(record.sandbox.id)
    try:
        made = Attachment(directory, "init", stdin=options.interactive, terminal=options.tty)
    except BaseException:
        os.close(lock)
        raise
    with (
        made as attachment,
        launch(store, record, attachment.paths, lock, hold) as launched,
        contextlib.ExitStack() as stack,
    ):
        control = None
        with contextlib.suppress(ConflictError):  # it has ended already, and `launched` knows how
            control = stack.enter_context(Control(directory))
        return attachment.stay(launched.wait, control, "", terminal=options.tty)
