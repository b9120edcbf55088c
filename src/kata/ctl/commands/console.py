"""`kata console`: a shell in a guest itself, beside its containers."""

from __future__ import annotations

import argparse

HELP = "open the debug console of a guest, or run a command there"
EPILOG = """\
examples:
  kata console web                     a root shell of the guest; Ctrl-] leaves it
  kata console web -- dmesg            one command; its exit code, both outputs as one
  kata console web < script.sh         without a terminal, standard input is a script

The sandbox needs debug_console_enabled = true in [agent.kata] of its configuration, and a guest image that has a shell
(kata osbuilder image --debug). `kata exec` is for processes in a container.

exit code: the command's; 125 when kata itself failed."""


def configure(parser: argparse.ArgumentParser) -> None:
    """The sandbox and what to run there."""
    from kata.ctl import sandboxes

    sandboxes.add_argument(parser)
    parser.add_argument("command", metavar="COMMAND", nargs=argparse.REMAINDER, help="program and arguments")


def execute(args: argparse.Namespace) -> int:
    """Find the console, connect, and be a terminal or run a script."""
    import shlex
    import sys

    from kata.ctl import console, files, sandboxes
    from kata.ctl.terminal import shown
    from kata.management import client

    url = client.request(sandboxes.running(args.sandbox), "GET", "/debug/console").decode()
    words = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not words and sys.stdin.isatty():
        with console.connect(url) as connection:
            return console.interact(connection)
    script = shlex.join(words) if words else files.read("-").decode("utf-8", "replace")
    with console.connect(url) as connection, shown(sys.stdout.buffer) as output:
        return console.run(connection, script, output)
