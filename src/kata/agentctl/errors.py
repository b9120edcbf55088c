"""Errors of `kata-agent-ctl`, and their exit codes.

UsageError ......... the command line, a script line or an argument is wrong   exit code 2
UnreachableError ... no agent answers at the address                           exit code 1
ExpectationError ... a script expected another outcome                         exit code 1

What the agent itself refuses is an RpcError, exit code 1.
"""

from __future__ import annotations

from kata.errors import KataError

EXIT_FAILED = 1
EXIT_USAGE = 2


class UsageError(KataError):
    """The command line, a script line or an argument is wrong."""

    layer = "config"


class UnreachableError(KataError):
    """No agent answers where it was looked for."""

    layer = "guest"


class ExpectationError(KataError):
    """A call of a script ended in another way than the script says."""

    layer = "guest"
