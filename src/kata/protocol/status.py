"""How calls fail: the gRPC codes, the one exception, and its form on the wire.

Called by everyone who calls or serves. Never map an application's errors here: each server brings its own mapping.
"""

from __future__ import annotations

from enum import IntEnum
from itertools import islice
from typing import TYPE_CHECKING, cast

from kata.protocol.messages import message

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.protobuf.any_pb2 import Any as AnyMessage

    from kata.protocol.generated.status_pb2 import Status


DETAILS_LIMIT = 16
"""Details of an error that are looked at: each is an object of its own, and a peer could send millions."""


class Code(IntEnum):
    """gRPC's status codes, which ttrpc uses as they are."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class RpcError(Exception):
    """A call failed: with what code, why (`message`, for people), and `details` (`Any` messages, for programs).

    The peer's words are not to be trusted: a guest may send any text, of any length up to the frame limit.
    """

    def __init__(self, code: Code, message: str, details: Sequence[AnyMessage] = ()) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.details = tuple(details)

    def __str__(self) -> str:
        return f"{self.code.name}: {self.message}"


class NonsenseError(RpcError):
    """What came for an answer is none. Said by us, so that it cannot be taken for the peer's own words."""

    def __init__(self, message: str, code: Code = Code.INTERNAL) -> None:
        super().__init__(code, message)


def to_message(error: RpcError) -> Status:
    """The `google.rpc.Status` that tells a peer of `error`."""
    status = cast("type[Status]", message("google.rpc.Status"))
    return status(code=error.code, message=printable(error.message), details=error.details)


def from_message(status: Status) -> RpcError:
    """The error that a peer tells of. A code that gRPC does not know becomes UNKNOWN."""
    try:
        code = Code(status.code)
    except ValueError:
        code = Code.UNKNOWN
    return RpcError(code, status.message, tuple(islice(status.details, DETAILS_LIMIT)))


def printable(text: str) -> str:
    """`text` as protobuf takes it: lone surrogates (from undecodable file names) are written out."""
    return text.encode("utf-8", "backslashreplace").decode()
