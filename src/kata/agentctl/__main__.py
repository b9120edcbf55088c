"""`kata-agent-ctl`: options, where the requests go, and exit codes.

Exit codes: 0, 1 when the agent refused or nobody answers, 2 for a command line or script that is wrong.
"""

from __future__ import annotations

import argparse
import os
import secrets
import sys
from typing import TYPE_CHECKING

from kata.agentctl import output
from kata.agentctl.errors import EXIT_FAILED, EXIT_USAGE, UsageError
from kata.errors import KataError
from kata.protocol.status import RpcError
from kata.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import NoReturn

    from kata.agentctl.script import Script
    from kata.agentctl.targets import Target

EPILOG = """\
commands:
  REQUEST [NAME=VALUE…]   one request to the agent; `list` names them all, `help REQUEST` its fields
  list                    every request with its fields
  help REQUEST            one request
  script FILE             run a file of commands, - for standard input; `help script` says what can be in it
  connect [OPTIONS]       upstream's form: options may follow, commands come from -c
  examples                some command lines
  generate-cid, generate-sid   a random container or sandbox id

exit code: 0; 1 when the agent refused or nobody answers; 2 when the command line or a script is wrong."""
PROMPT = "kata-agent-ctl> "
HYBRID_PORT = 1024


class Parser(argparse.ArgumentParser):
    """An argument parser that says what is wrong in one line and never abbreviates options."""

    def error(self, message: str) -> NoReturn:
        """Print `message` with the way to the help, and exit."""
        print(f"{self.prog}: {message}\n  hint: {self.prog} --help", file=sys.stderr)
        raise SystemExit(EXIT_USAGE)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own) and return its exit code."""
    try:
        return run(parse(sys.argv[1:] if argv is None else argv))
    except (KataError, RpcError) as error:
        return output.failure(error)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output has gone; say nothing more to it, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return EXIT_FAILED
    except Exception as error:
        if os.environ.get("KATA_TRACEBACK"):
            raise
        what = f"an unexpected fault: {type(error).__name__}: {error}"
        return output.failure(KataError(what, hint="please report it, with what KATA_TRACEBACK=1 shows"))


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The options and the words of the command. After `connect` there may be options again."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.words and args.words[0] == "connect":
        rest, args.words = args.words[1:], None
        args = parser.parse_args(rest, namespace=args)
        if args.words:
            parser.error(f"connect takes no command {args.words[0]!r}: give it with -c")
        args.words = ["connect"]
    if args.server_address and args.sandbox:
        parser.error("--server-address and --sandbox are two ways: choose one")
    return args


def build_parser() -> Parser:
    """All options."""
    parser = Parser(
        prog="kata-agent-ctl",
        usage="kata-agent-ctl [OPTIONS] COMMAND [NAME=VALUE…]",
        description="Ask a guest's agent for anything that its API has.",
        epilog=EPILOG,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--version", action="version", version=f"kata-agent-ctl {__version__}")
    add("--server-address", metavar="ADDR", help="unix:///path, vsock://CID:PORT or hvsock:///path:PORT")
    add("--sandbox", metavar="NAME", help="a running sandbox, by name or id as `kata ps` has it")
    limits = "seconds for each request, 0 for no limit (default: 60, or none for requests that wait)"
    add("-t", "--timeout", type=_seconds, metavar="SEC", help=limits)
    add("--json", action="store_true", help="print replies as JSON, one a line")
    add("-c", "--cmd", action="append", default=[], metavar="CMD", help="a command; may be given several times")
    add("-i", "--interactive", action="store_true", help="read commands from a prompt, or from a pipe")
    add("--ignore-errors", action="store_true", help="go on with the next command after a failure")
    add("--no-auto-values", action="store_true", help="send ids that are left out as they are: empty")
    add("--bundle-dir", default="", metavar="DIR", help="the bundle of a CreateContainer without a specification")
    add("--hybrid-vsock", action="store_true", help="the address is a VMM's hybrid vsock socket")
    add("--hybrid-vsock-port", type=int, default=HYBRID_PORT, metavar="PORT", help="its guest port (default: 1024)")
    add("-l", "--log-level", default="info", metavar="LEVEL", help="debug and trace tell each request and its time")
    words = add("words", metavar="COMMAND", nargs=argparse.PARSER, help=argparse.SUPPRESS)
    words.required = False
    return parser


def run(args: argparse.Namespace) -> int:
    """Do what the command line says. Raises KataError and RpcError."""
    words: list[str] = args.words or []
    command = words[0] if words else ""
    if command in LOCAL:
        return LOCAL[command](words[1:])
    if not words and not args.cmd and not args.interactive:
        build_parser().print_help()
        return EXIT_USAGE
    from kata.agentctl.script import Script
    from kata.agentctl.session import Options, Session

    verbose = args.log_level in ("debug", "trace")
    options = Options(args.json, args.timeout, not args.no_auto_values, args.bundle_dir, verbose)
    with open_target(args) as target:
        session = Session(target, options)
        if words and command not in ("connect", "script"):
            session.show(session.request(words))
            return 0
        script = Script(session)
        if command == "script":
            return _run_file(script, words[1:], ignore_errors=args.ignore_errors)
        return _run_commands(script, args)


def open_target(args: argparse.Namespace) -> Target:
    """Where the requests go. Raises UsageError when that is not said."""
    from kata.agentctl.targets import AddressTarget, SandboxTarget, hybrid

    if args.sandbox:
        return SandboxTarget(args.sandbox)
    if not args.server_address:
        raise UsageError("which agent?", hint="--server-address ADDR, or --sandbox NAME for one of `kata ps`")
    if args.hybrid_vsock:
        return AddressTarget(hybrid(args.server_address, args.hybrid_vsock_port))
    return AddressTarget(args.server_address)


def _run_file(script: Script, words: list[str], *, ignore_errors: bool) -> int:
    if len(words) != 1:
        raise UsageError("script needs one file", hint="kata-agent-ctl … script FILE, - for standard input")
    if words[0] == "-":
        return script.run(sys.stdin, "standard input", ignore_errors=ignore_errors)
    try:
        with open(words[0], encoding="utf-8") as file:
            lines = file.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{words[0]} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    return script.run(lines, words[0], ignore_errors=ignore_errors)


def _run_commands(script: Script, args: argparse.Namespace) -> int:
    """The commands of -c, then those that are typed. Without either there is nothing to do."""
    if not args.cmd and not args.interactive:
        raise UsageError("connect needs commands", hint="-c COMMAND, or --interactive")
    code = script.run(args.cmd, "-c", ignore_errors=args.ignore_errors)
    if args.interactive and (code == 0 or args.ignore_errors):
        typed = script.run(_typed(), "", ignore_errors=True)
        return code if sys.stdin.isatty() else code or typed
    return code


def _typed() -> Iterator[str]:
    """What is typed at a prompt, with history and completion; or what comes through a pipe."""
    if not sys.stdin.isatty():
        yield from iter(sys.stdin.readline, "")  # the file itself would be closed at the end
        return
    _set_up_readline()
    while True:
        try:
            yield input(PROMPT)
        except EOFError:
            print()
            return


def _set_up_readline() -> None:
    try:
        import readline
    except ImportError:
        return
    from kata.agentctl.rpcs import all_methods

    names = [found.name for found in all_methods()]

    def complete(text: str, state: int) -> str | None:
        matches = [name for name in names if name.lower().startswith(text.lower())]
        return matches[state] if state < len(matches) else None

    readline.set_completer(complete)
    readline.parse_and_bind("tab: complete")


def _list(words: list[str]) -> int:
    from kata.agentctl.helptext import show_list

    show_list()
    return 0


def _help(words: list[str]) -> int:
    from kata.agentctl import script
    from kata.agentctl.helptext import show_request

    if not words:
        build_parser().print_help()
    elif words[0] == "script":
        print(script.HELP)
    else:
        show_request(words[0])
    return 0


def _examples(words: list[str]) -> int:
    from kata.agentctl.helptext import EXAMPLES

    print(EXAMPLES)
    return 0


def _generate(words: list[str]) -> int:
    print(secrets.token_hex(32))
    return 0


LOCAL = {
    "list": _list,
    "help": _help,
    "examples": _examples,
    "generate-cid": _generate,
    "generate-sid": _generate,
}
"""Commands that need no agent."""


def _seconds(text: str) -> float:
    number = float(text)
    if not 0 <= number < 1e6:
        raise argparse.ArgumentTypeError(f"{text} is no number of seconds")
    return number


if __name__ == "__main__":
    sys.exit(main())
