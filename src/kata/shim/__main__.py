"""`containerd-shim-kata-v2`: what containerd runs. Only reads the command line and calls one room.

Nothing heavy is imported here: this is the start of every container (budget: tests/budget).
"""

from __future__ import annotations

import os
import sys

from kata.errors import KataError
from kata.shim.arguments import Arguments, parse

USAGE = """usage: containerd-shim-kata-v2 [-namespace NS] [-id ID] [-address SOCKET] [-bundle DIR]
                               [-publish-binary PATH] [-socket PATH] [-debug] [-info] [-v] [start | delete]

The runtime io.containerd.kata.v2 of containerd, which runs this program; it is of no use by hand.
"""
RUNTIME = "io.containerd.kata.v2"


def main() -> int:
    """Do what the command line says; the exit code."""
    try:
        arguments = parse(sys.argv[1:])
        if arguments.help:
            sys.stdout.write(USAGE)
        elif arguments.version:
            sys.stdout.write(version_text() + "\n")
        elif arguments.info:
            from kata.shim.info import runtime_info

            sys.stdout.buffer.write(runtime_info())
        else:
            run(arguments)
    except KataError as error:
        hint = f" ({error.hint})" if error.hint else ""
        sys.stderr.write(f"kata: {error.layer}: {error.what}{hint}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"kata: host: {error}\n")
        return 1
    return 0


def run(arguments: Arguments) -> None:
    """Carry out an action. Raises KataError and OSError."""
    if not arguments.id:
        raise KataError("-id is missing", layer="config", hint="containerd runs this program; see -help")
    if arguments.action == "delete":
        from kata.shim.delete import delete

        sys.stdout.buffer.write(delete(arguments))
        return
    from kata.shim.start import start

    os.write(1, start(arguments).encode())


def version_text() -> str:
    """As upstream has it, since tools read it."""
    from kata.version import __version__

    return f'Kata Containers containerd shim (Python): id: "{RUNTIME}", version: {__version__}, commit: unknown'


if __name__ == "__main__":
    sys.exit(main())
