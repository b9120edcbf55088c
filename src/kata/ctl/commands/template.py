"""`kata template`: look at, make and remove the saved machines that sandboxes go on from."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from kata.ctl.actions import add_action

if TYPE_CHECKING:
    from kata.ctl.output import Progress
    from kata.factory.store import Entry, TemplateStore
    from kata.sandbox.config import SandboxConfig

HELP = "list, make and remove the templates that containers start from"

ABOUT = """\
A template is a virtual machine that was booted once, with nobody's container in it, and saved. Sandboxes of the same
size and devices go on from it instead of booting. Templates are made at their first use; `create` does that
beforehand. A template is stale when the guest's kernel or image, or QEMU, is another by now; nobody uses it then.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of `kata template`."""
    parser.epilog = ABOUT
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    actions = parser.add_subparsers(metavar="ACTION", required=True, title="actions")
    ls = add_action(actions, "ls", "list the templates", _list)
    ls.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    create = add_action(actions, "create", "make the template that `kata run` with these options starts from", _create)
    create.add_argument("--cpus", default="1", help="as of `kata run` (default: 1)")
    create.add_argument("-m", "--memory", default="256m", help="as of `kata run` (default: 256m)")
    create.add_argument("--network", choices=("user", "none"), default="user", help="as of `kata run` (default: user)")
    create.add_argument(
        "--shared-fs",
        choices=("virtio-fs", "virtio-9p"),
        default="virtio-fs",
        help="as of `kata run` with volumes; those of virtio-fs need no template of their own (default: virtio-fs)",
    )
    remove = add_action(actions, "rm", "remove templates; what runs goes on", _remove)
    remove.add_argument("names", metavar="NAME", nargs="*", help="a template's name")
    remove.add_argument("-a", "--all", action="store_true", help="all of them")
    add_action(actions, "prune", "remove those that are stale, and those that were not used for longest", _prune)


def execute(args: argparse.Namespace) -> int:
    """Do what the action says."""
    from kata.factory.store import TemplateStore

    code: int = args.act(TemplateStore(), args)
    return code


def _list(store: TemplateStore, args: argparse.Namespace) -> int:
    from kata.ctl import output

    entries = store.entries()
    if args.json:
        output.json_line([_as_json(entry) for entry in entries])
        return 0
    output.table(
        ("NAME", "CPUS", "MEMORY", "NICS", "ACCEL", "ON DISK", "IN USE", "USED", "STATE"),
        [
            (
                entry.description.name,
                entry.description.vcpus,
                f"{entry.description.memory_mib} MiB",
                entry.description.nics,
                entry.description.accelerator,
                output.size(entry.description.memory_used),
                entry.holders,
                output.age(entry.used),
                "stale" if entry.stale else "ready",
            )
            for entry in entries
        ],
    )
    return 0


def _create(_store: TemplateStore, args: argparse.Namespace) -> int:
    from kata.ctl import output
    from kata.sandbox.bringup import ensure_template

    with output.steps("making a template") as progress:
        config = _sandbox(args, progress)
        progress("booting a virtual machine and saving it")
        name = ensure_template(config)
    print(name)
    return 0


def _sandbox(args: argparse.Namespace, progress: Progress) -> SandboxConfig:
    import math

    from kata.ctl import values
    from kata.ctl.prepare import guest_assets
    from kata.sandbox.config import SandboxConfig, Sharing

    return SandboxConfig(
        id="template",
        hostname="",
        assets=guest_assets(progress),
        vcpus=math.ceil(values.cpus(args.cpus)),
        memory_mib=values.memory_mib(args.memory),
        network=args.network,
        share=args.shared_fs == "virtio-9p",
        sharing=Sharing(way=args.shared_fs),
        template=True,
    )


def _remove(store: TemplateStore, args: argparse.Namespace) -> int:
    from kata.ctl.errors import UsageError

    if bool(args.names) == args.all:
        raise UsageError("name the templates to remove, or give --all", hint="kata template ls")
    for name in [entry.description.name for entry in store.entries()] if args.all else args.names:
        store.remove(name)
        print(name)
    return 0


def _prune(store: TemplateStore, _args: argparse.Namespace) -> int:
    for name in store.prune():
        print(name)
    return 0


def _as_json(entry: Entry) -> dict[str, object]:
    description = entry.description
    return {
        "name": description.name,
        "vcpus": description.vcpus,
        "memory_mib": description.memory_mib,
        "nics": description.nics,
        "accelerator": description.accelerator,
        "memory_used_bytes": description.memory_used,
        "created": description.created,
        "seconds_to_make": description.seconds,
        "used": entry.used,
        "in_use": entry.holders,
        "stale": entry.stale,
    }
