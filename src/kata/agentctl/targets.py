"""Where requests go: straight to an agent's address, or through the process that holds a sandbox.

Made by `__main__`, used by `session`. A virtio-serial agent has one connection and the sandbox's process holds it,
so that is asked to pass requests on; an address is for agents outside of a sandbox, and for vsock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from kata.agentctl.errors import UnreachableError, UsageError
from kata.protocol.status import Code, RpcError

if TYPE_CHECKING:
    from types import TracebackType

    from google.protobuf.message import Message

    from kata.protocol.messages import Method

DIAL_TIMEOUT = 10.0
ADDRESS_HINT = "unix:///path, vsock://CID:PORT or hvsock:///path:PORT"


class Target(Protocol):
    """Something that answers an agent's requests; a context manager."""

    def call(self, method: Method, request: Message, timeout: float | None) -> Message:
        """Make one request; `timeout` in seconds, None waits for ever. Raises RpcError: what the agent says."""

    def __enter__(self) -> Target: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class AddressTarget:
    """An agent that listens at an address. The connection is made at the first request."""

    def __init__(self, address: str) -> None:
        from kata.protocol.client import Client

        self._address = address
        self._client: Client | None = None

    def __enter__(self) -> AddressTarget:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._client is not None:
            self._client.close()

    def call(self, method: Method, request: Message, timeout: float | None) -> Message:
        """See `Target.call`. Raises UnreachableError when nobody listens, UsageError for an impossible address."""
        from kata.protocol.client import Client
        from kata.protocol.transport import dial

        if self._client is None or self._client.closed:
            try:
                self._client = Client(dial(self._address, DIAL_TIMEOUT), trusted=False)
            except ValueError as error:
                raise UsageError(str(error), hint=ADDRESS_HINT) from None
            except OSError as error:
                raise UnreachableError(
                    f"no agent answers at {self._address}: {error.strerror or error}",
                    hint="is it running? kata-agent --server unix:///path starts one",
                ) from error
        return self._client.call(f"{method.service}/{method.name}", request, timeout=timeout)


class SandboxTarget:
    """The agent of a sandbox, through the process that holds it. Raises KataError when there is no such sandbox."""

    def __init__(self, wanted: str) -> None:
        from kata.sandbox.reconcile import reconcile
        from kata.sandbox.store import Store
        from kata.supervisor.client import Control, require_own

        store = Store()
        reconcile(store)
        record = store.find(wanted)
        require_own(record)
        self._control = Control(store.directory(record.sandbox.id))

    def __enter__(self) -> SandboxTarget:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._control.close()

    def call(self, method: Method, request: Message, timeout: float | None) -> Message:
        """See `Target.call`. Raises SandboxError when the sandbox's process ended."""
        from google.protobuf.message import DecodeError

        payload = self._control.agent_call(f"{method.service}/{method.name}", request.SerializeToString(), timeout)
        try:
            return method.response.FromString(payload)
        except DecodeError as error:
            raise RpcError(Code.INTERNAL, f"{method.name}: the answer makes no sense: {error}") from error


def hybrid(address: str, port: int) -> str:
    """The address of an agent behind a VMM's hybrid vsock socket, given the socket as unix://PATH or PATH."""
    path = address.removeprefix("unix://").removeprefix("hvsock://")
    return f"hvsock://{path}:{port}"
