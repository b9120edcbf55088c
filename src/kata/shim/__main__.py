"""`containerd-shim-kata-v2`: what containerd runs. Only reads the command line and calls one room.

Nothing heavy is imported here: this is the start of every container (budget: tests/budget).
"""

from __future__ import annotations

import os
import sys

from kata.zygote.ask import ask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata.shim.arguments import Arguments

USAGE = """usage: containerd-shim-kata-v2 [-namespace NS] [-id ID] [-address SOCKET] [-bundle DIR]
                               [-publish-binary PATH] [-socket PATH] [-debug] [-info] [-v] [start | delete]

The runtime io.containerd.kata.v2 of containerd, which runs this program; it is of no use by hand.
"""
NAME = "containerd-shim-kata-v2"
RUNTIME = "io.containerd.kata.v2"


def main() -> int:
    """Do what the command line says, or have a zygote's child do it; the exit code."""
    words = sys.argv[1:]
    if words[:1] == ["zygote"]:
        from kata.shim.preload import become_zygote

        return become_zygote(words[1:])
    alone = "it is neither start nor delete"
    if "start" in words or "delete" in words:
        done = ask([NAME, *words], again="delete" in words)
        if isinstance(done, int):
            return done
        alone = done
    return act(words, alone)


def act(words: list[str], origin: str) -> int:
    """Do what the words of the command line say; the exit code. `origin` is for the log: a zygote, or why none."""
    from kata.errors import KataError
    from kata.shim.arguments import parse

    try:
        arguments = parse(words)
        if arguments.help:
            sys.stdout.write(USAGE)
        elif arguments.version:
            sys.stdout.write(version_text() + "\n")
        elif arguments.info:
            from kata.shim.info import runtime_info

            sys.stdout.buffer.write(runtime_info())
        else:
            run(arguments, origin)
    except KataError as error:
        hint = f" ({error.hint})" if error.hint else ""
        sys.stderr.write(f"kata: {error.layer}: {error.what}{hint}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"kata: host: {error}\n")
        return 1
    return 0


def run(arguments: Arguments, origin: str) -> None:
    """Carry out an action. Raises KataError and OSError."""
    from kata.errors import KataError

    if not arguments.id:
        raise KataError("-id is missing", layer="config", hint="containerd runs this program; see -help")
    if arguments.action == "delete":
        from kata.shim.delete import delete

        sys.stdout.buffer.write(delete(arguments))
        return
    from kata.shim.start import start

    os.write(1, start(arguments, origin).encode())


def version_text() -> str:
    """As upstream has it, since tools read it."""
    from kata.version import __version__

    return f'Kata Containers containerd shim (Python): id: "{RUNTIME}", version: {__version__}, commit: unknown'


if __name__ == "__main__":
    sys.exit(main())
