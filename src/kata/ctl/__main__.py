"""`kata`: find the subcommand, load only its module, and turn errors into text and exit codes."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import NoReturn

from kata.ctl.errors import EXIT_FAILED, EXIT_RUN_FAILED, EXIT_USAGE, exit_code, show
from kata.errors import KataError, unexpected
from kata.version import __version__

COMMANDS = (
    "run",
    "ps",
    "exec",
    "logs",
    "stop",
    "rm",
    "image",
    "template",
    "check",
    "doctor",
    "config",
    "env",
    "metrics",
    "console",
    "iptables",
    "policy",
    "direct-volume",
    "demo",
    "setup",
    "osbuilder",
    "kernel",
    "install",
)
"""In the order in which a newcomer meets them."""

CONTAINER_COMMANDS = ("run", "exec", "console")
"""Commands whose exit code is that of what they run, so that their own failures are 125 to 127."""


class Parser(argparse.ArgumentParser):
    """An argument parser that says what is wrong in one line and never abbreviates options."""

    failure_code = EXIT_USAGE

    def error(self, message: str) -> NoReturn:
        """Print `message` with the way to the help, and exit."""
        print(f"{self.prog}: {message}\n  hint: {self.prog} --help", file=sys.stderr)
        raise SystemExit(self.failure_code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own) and return its exit code."""
    _open_standard_streams()
    words = list(sys.argv[1:] if argv is None else argv)
    command = next((word for word in words if not word.startswith("-")), "")
    args, unknown = build_parser(command).parse_known_args(words)
    if unknown:
        getattr(args, "parser", build_parser("")).error(f"there is no option {unknown[0]}")
    if not hasattr(args, "execute"):
        build_parser("").print_help()
        return EXIT_USAGE
    return _execute(args)


def build_parser(command: str) -> Parser:
    """The parser with one subcommand, or with all of them when `command` is none of them (for the help)."""
    parser = Parser(
        prog="kata",
        description="Containers, each in its own lightweight virtual machine.",
        epilog="`kata COMMAND --help` says more about one command.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"kata {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", title="commands", parser_class=Parser)
    for name in (command,) if command in COMMANDS else COMMANDS:
        module = _load(name)
        sub = commands.add_parser(
            name,
            help=module.HELP,
            description=module.HELP,
            epilog=getattr(module, "EPILOG", None),
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.failure_code = EXIT_RUN_FAILED if name in CONTAINER_COMMANDS else EXIT_USAGE
        module.configure(sub)
        sub.set_defaults(execute=module.execute, command_name=name, parser=sub)
    return parser


def _open_standard_streams() -> None:
    """Put /dev/null where a standard stream is closed: else the next file opened would take its number."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, as those below are open by now
            os.set_inheritable(number, True)
            setattr(sys, name, os.fdopen(number, mode, closefd=False))


def _execute(args: argparse.Namespace) -> int:
    container_command = args.command_name in CONTAINER_COMMANDS
    try:
        code: int = args.execute(args)
        sys.stdout.flush()
        return code
    except KataError as error:
        show(error)
        return exit_code(error, container_command=container_command)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output has gone; say nothing more to it, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return EXIT_FAILED
    except Exception as error:
        if os.environ.get("KATA_TRACEBACK"):
            raise
        show(unexpected(error))
        return EXIT_RUN_FAILED if container_command else EXIT_FAILED


def _load(name: str) -> ModuleType:
    return importlib.import_module(f"kata.ctl.commands.{name.replace('-', '_')}")


if __name__ == "__main__":
    sys.exit(main())
