"""What a response frame says: a message, or the error that the peer tells of. The peer is believed in nothing.

Called by `client`. A list of empty messages takes two bytes an entry on the wire and a hundred once it is read, so a
short answer can fill the memory: whoever asks says how long the answer may be, and an error may never be long.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kata.protocol.frame import MAX_PAYLOAD, RESPONSE
from kata.protocol.generated import ttrpc_pb2
from kata.protocol.status import Code, NonsenseError, from_message

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from kata.protocol.frame import Frame
    from kata.protocol.messages import Method

SHORT = 256 << 10
"""Bytes of an error at most, and of an answer in which there are lists or messages."""
FIELDS = 8
"""A response has two fields; a peer that sends one of them again and again wants nothing but our time."""
STRING, BYTES = 9, 12
"""Types of fields (google/protobuf/descriptor.proto, FieldDescriptorProto.Type)."""
VARINT, FIXED64, DELIMITED, FIXED32 = 0, 1, 2, 5
"""Wire types (protobuf's encoding, "message structure"); 3 and 4, groups, are in no message of ours."""


_limits: dict[type[Message], int] = {}


def longest(described: Method) -> int:
    """How many bytes the response to a call may have whose peer is not trusted: many for a text or bytes alone."""
    kind = described.response
    if kind not in _limits:
        fields = kind.DESCRIPTOR.fields
        lists = any(field.message_type is not None or field.is_repeated for field in fields)
        text = any(field.type in (STRING, BYTES) for field in fields)
        _limits[kind] = MAX_PAYLOAD if text and not lists else SHORT
    return _limits[kind]


def read_answer(name: str, described: Method, frame: Frame, limit: int) -> Message:
    """The response to the call `name`, whose frame has `limit` bytes at most. Raises RpcError."""
    from google.protobuf.message import DecodeError

    if frame.kind != RESPONSE:
        raise NonsenseError(f"{name}: the peer ended the call without an answer")
    if frame.payload is None:
        raise NonsenseError(f"{name}: the response is above the limit of 4 MiB", Code.RESOURCE_EXHAUSTED)
    if len(frame.payload) > limit:
        text = f"{name}: the response has {len(frame.payload)} bytes, {limit} are the limit"
        raise NonsenseError(text, Code.RESOURCE_EXHAUSTED)
    try:
        if len(frame.payload) > SHORT and _status_bytes(frame.payload) > SHORT:
            raise NonsenseError(f"{name}: the peer's error has more than {SHORT} bytes")
        response = ttrpc_pb2.Response.FromString(frame.payload)
        if response.status.code != Code.OK:
            raise from_message(response.status)
        return described.response.FromString(response.payload)
    except (DecodeError, ValueError) as error:
        raise NonsenseError(f"{name}: the response makes no sense: {error}") from error


def _status_bytes(data: bytes) -> int:
    """How many bytes of a response are not its payload. Raises ValueError for what is no response."""
    position = other = 0
    for _ in range(FIELDS):
        if position == len(data):
            return other
        tag, begin = _varint(data, position)
        end = _field_end(data, begin, tag & 7)
        if tag >> 3 != ttrpc_pb2.Response.PAYLOAD_FIELD_NUMBER:
            other += end - position
        position = end
    raise ValueError(f"more than {FIELDS} fields")


def _field_end(data: bytes, begin: int, kind: int) -> int:
    """Where a field's content ends. Raises ValueError for one that is cut short, or of a kind that is not used."""
    if kind == VARINT:
        return _varint(data, begin)[1]
    if kind == DELIMITED:
        length, begin = _varint(data, begin)
        end = begin + length
    elif kind in (FIXED32, FIXED64):
        end = begin + (4 if kind == FIXED32 else 8)
    else:
        raise ValueError(f"a field of the wire type {kind}")
    if end > len(data):
        raise ValueError("cut short")
    return end


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """A number in protobuf's variable-length form, and where it ends. Raises ValueError."""
    value = shift = 0
    for byte in data[position : position + 10]:
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, position
    raise ValueError("a number without an end")
