"""Answers whose bytes a handler has already: one long field, sent as it is.

Made by handlers, sent by `server`. Protobuf copies a field into its message, the message's bytes and the envelope's;
for output of containers those copies cost more than all the rest of a call. The bytes on the wire are the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from google.protobuf.message import Message

LENGTH_DELIMITED = 2
"""The wire type of bytes fields (protobuf's encoding, "message structure")."""


class Encoded(NamedTuple):
    """The bytes of a message of the class `kind`: `head` and then `tail`, which is not copied.

    A `tail` that is part of a buffer has to stay as it is until the handler's thread has sent the answer.
    """

    kind: type[Message]
    head: bytes
    tail: bytes | memoryview


def with_bytes(kind: type[Message], number: int, data: bytes | memoryview) -> Encoded:
    """A `kind` in which nothing but its bytes field `number` is set."""
    return Encoded(kind, bytes_header(number, len(data)), data)


def bytes_header(number: int, length: int) -> bytes:
    """What stands before the content of a bytes field; nothing for an empty one, which proto3 leaves out."""
    return varint(number << 3 | LENGTH_DELIMITED) + varint(length) if length else b""


def varint(value: int) -> bytes:
    """Seven bits a byte, lowest first; the eighth says that more follow. For values from 0."""
    result = bytearray()
    while value > 0x7F:
        result.append(value & 0x7F | 0x80)
        value >>= 7
    result.append(value)
    return bytes(result)
