"""What all parts of the service share: the sandbox, the empty reply, and the one edge where errors become codes."""

from __future__ import annotations

from kata.agent import errors
from kata.errors import KataError
from kata.oci.errors import SpecError
from kata.protocol.messages import message
from kata.protocol.status import Code, RpcError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from google.protobuf.message import Message

    from kata.agent.container import Container
    from kata.agent.sandbox import Sandbox

    class HasContainer(Protocol):
        """A request about one container."""

        @property
        def container_id(self) -> str:
            """Its id."""


CODES: tuple[tuple[type[BaseException], Code], ...] = (
    (errors.BadRequest, Code.INVALID_ARGUMENT),
    (SpecError, Code.INVALID_ARGUMENT),
    (errors.UnknownProcess, Code.NOT_FOUND),
    (errors.AlreadyExists, Code.ALREADY_EXISTS),
    (errors.WrongState, Code.FAILED_PRECONDITION),
    (errors.NoTerminal, Code.UNAVAILABLE),
    (errors.SandboxGone, Code.UNAVAILABLE),
    (errors.Unsupported, Code.UNIMPLEMENTED),
    (errors.TimedOut, Code.DEADLINE_EXCEEDED),
)


class Base:
    """A part of `AgentService`."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._empty = message("google.protobuf.Empty")

    def _done(self) -> Message:
        return self._empty()

    def _container(self, request: HasContainer) -> Container:
        return self._sandbox.container(request.container_id)


def to_status(error: BaseException) -> RpcError:
    """The RPC error for whatever a handler raised: by `CODES`, everything else INTERNAL with its text."""
    if isinstance(error, RpcError):
        return error
    code = next((code for kind, code in CODES if isinstance(error, kind)), Code.INTERNAL)
    return RpcError(code, describe(error))


def describe(error: BaseException) -> str:
    """One text with all that is known; the client matches words in it, as in "ESRCH: No such process"."""
    if isinstance(error, ProcessLookupError):
        return "ESRCH: No such process"
    if isinstance(error, KataError):
        return "; ".join(part for part in (error.what, error.hint, error.detail) if part)
    return str(error) or type(error).__name__
