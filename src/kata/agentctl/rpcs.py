"""The requests that an agent answers, by name, straight from the descriptors.

Read by everything here. Names are those of the wire, in any case; never list them by hand.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, NamedTuple, cast

from kata.agentctl.errors import UsageError
from kata.protocol.messages import Method, method, service

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.descriptor import Descriptor, FieldDescriptor
    from google.protobuf.message import Message

SERVICES = ("grpc.Health", "grpc.AgentService")

SHORT = {"cid": "container_id", "sid": "sandbox_id", "spec": "OCI"}
"""Short names of request fields; the full names work too."""

WAITING = frozenset({"WaitProcess", "GetOOMEvent", "ReadStdout", "ReadStderr", "WriteStdin"})
"""Requests that wait for something in the guest, for hours if need be: no deadline unless one is asked for."""

TYPES = {
    1: "double",
    2: "float",
    3: "int64",
    4: "uint64",
    5: "int32",
    8: "bool",
    9: "string",
    12: "bytes",
    13: "uint32",
    17: "sint32",
    18: "sint64",
}
"""Names of protobuf's scalar types by their numbers (google/protobuf/descriptor.proto, FieldDescriptorProto.Type)."""


class Row(NamedTuple):
    """One field of a message, as the help shows it."""

    path: str
    kind: str


def all_methods() -> list[Method]:
    """Every request, in the order of the .proto files."""
    return [method(name, rpc.name) for name in SERVICES for rpc in service(name).methods]


def find(name: str) -> Method:
    """The request of that name, in any case. Raises UsageError, with the names that are like it."""
    known = {found.name.lower(): found for found in all_methods()}
    if name.lower() in known:
        return known[name.lower()]
    close = [known[key].name for key in difflib.get_close_matches(name.lower(), known, 3)]
    hint = f"is it {' or '.join(close)}?" if close else "kata-agent-ctl list shows them all"
    raise UsageError(f"there is no request {name!r}", hint=hint)


def descriptor(message: Message | type[Message]) -> Descriptor:
    """A message's description; the stubs of protobuf leave open which of two classes it is."""
    return cast("Descriptor", message.DESCRIPTOR)


def summary(found: Method) -> str:
    """The fields of a request on one line."""
    return " ".join(f"{field.name}=" for field in descriptor(found.request).fields)


def rows(message: Descriptor, prefix: str = "", above: tuple[str, ...] = ()) -> Iterator[Row]:
    """Every field of a message with its path and type, nested ones below it. A message inside itself is not opened."""
    for field in message.fields:
        path = prefix + field.name
        yield Row(path, kind(field))
        inner = field.message_type
        if inner is not None and not is_map(field) and inner.full_name not in above:
            nested = f"{path}[]." if field.is_repeated else f"{path}."
            yield from rows(inner, nested, (*above, inner.full_name))


def kind(field: FieldDescriptor) -> str:
    """A field's type in words: `string`, `list of Storage`, `map of string to uint64`."""
    if is_map(field):
        assert field.message_type is not None
        entry = field.message_type.fields_by_name
        return f"map of {kind(entry['key'])} to {kind(entry['value'])}"
    plain = _plain(field)
    return f"list of {plain}" if field.is_repeated else plain


def is_map(field: FieldDescriptor) -> bool:
    """Whether the field is a map, which on the wire is a list of key and value."""
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


def _plain(field: FieldDescriptor) -> str:
    if field.message_type is not None:
        return str(field.message_type.name)
    if field.enum_type is not None:
        return " or ".join(value.name for value in field.enum_type.values)
    return TYPES.get(field.type, "value")
