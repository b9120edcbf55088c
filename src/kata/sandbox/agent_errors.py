"""What an agent's refusal, or the end of the connection to it, means: this room's errors.

Called by `agent_client` alone. What a guest says is shown, so it is cut and made harmless; and it names no layer but
its own, whatever code it sends.
"""

from __future__ import annotations

import re

from kata.plain import plain
from kata.protocol.status import Code, NonsenseError, RpcError
from kata.sandbox.errors import (
    CommandNotFoundError,
    CommandNotRunnableError,
    ContainerError,
    GuestError,
    NotFoundError,
    SandboxError,
)

MESSAGE_LIMIT = 2000
"""Characters of a guest's error text that are passed on."""
EXECUTABLE_MISSING = re.compile(
    r"executable file .*not found|(open executable|exec container process).*no such file or directory", re.IGNORECASE
)
EXECUTABLE_REFUSED = re.compile(
    r"permission denied|operation not permitted|exec format error|is a directory|not executable|chdir", re.IGNORECASE
)


def understand(method: str, error: RpcError) -> SandboxError:
    """The error of this room for what the agent, or the connection to it, said."""
    text = said(error)
    if isinstance(error, NonsenseError):
        return GuestError(f"the guest's agent answers {method} with nonsense: {text}")
    if error.code == Code.UNAVAILABLE:
        return GuestError(f"the connection to the guest's agent broke during {method}: {text}")
    if error.code == Code.DEADLINE_EXCEEDED:
        return GuestError(f"the guest's agent did not answer {method} in time")
    if error.code == Code.NOT_FOUND:
        return NotFoundError(f"{method}: {text}", layer="guest")
    if method in ("CreateContainer", "StartContainer", "ExecProcess"):
        if EXECUTABLE_MISSING.search(text):
            return CommandNotFoundError(f"is not in the image: {text}")
        if EXECUTABLE_REFUSED.search(text):
            return CommandNotRunnableError(f"cannot be run: {text}")
    return ContainerError(f"{method}: {text}")


def said(error: RpcError) -> str:
    """A guest's words, as they may be shown: cut, and without what could steer a terminal."""
    return plain(error.message[:MESSAGE_LIMIT]).strip()
