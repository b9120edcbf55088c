"""A request as a policy's `input`: the JSON that upstream's agent makes of its messages.

Called by `decide`. Names are those of the protocol's fields, with an underscore behind the few that are words of Rust
(`type_`); numbers stay numbers, an enumeration is its number, bytes are an array of numbers, and what is not there is
null. A CopyFileRequest is a record without the file's content.
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, cast

from kata.agent.errors import BadRequest
from kata.agent.policy.values import Array, Boolean, Object, Value, boolean, from_json

if TYPE_CHECKING:
    from google.protobuf.descriptor import FieldDescriptor
    from google.protobuf.message import Message

    from kata.protocol.generated import agent_pb2

RUST = frozenset(
    ("as", "box", "const", "enum", "fn", "for", "in", "loop", "match", "mod", "move", "ref", "type", "use")
)
FILE_TYPES = {stat.S_IFREG: "Regular", stat.S_IFDIR: "Directory", stat.S_IFLNK: "Symlink"}
COPY_FIELDS = ("path", "file_size", "file_mode", "dir_mode", "uid", "gid", "offset")


def to_value(request: object) -> Value:
    """What a policy sees of a request: a message, or what `json.loads` gives. Raises BadRequest, EvaluationError."""
    if isinstance(request, (dict, list, str, int, float, type(None))):
        return from_json(request)
    message = cast("Message", request)
    if message.DESCRIPTOR.name == "CopyFileRequest":
        return _copy_file(cast("agent_pb2.CopyFileRequest", message))
    return _message(message)


def _copy_file(request: agent_pb2.CopyFileRequest) -> Value:
    kind = FILE_TYPES.get(stat.S_IFMT(request.file_mode), "Unknown")
    target = None
    if kind == "Symlink":
        try:
            target = request.data.decode()
        except UnicodeDecodeError:
            raise BadRequest("the link's target is no text") from None
    fields: dict[Value, Value] = {name: getattr(request, name) for name in COPY_FIELDS}
    return Object({**fields, "file_type": kind, "symlink_target": target})


def _message(message: Message) -> Value:
    found: dict[Value, Value] = {}
    for field in cast("list[FieldDescriptor]", message.DESCRIPTOR.fields):
        oneof = field.containing_oneof
        if oneof is not None and not oneof.name.startswith("_"):
            found.setdefault(oneof.name, None)
            if message.HasField(field.name):
                found[oneof.name] = Object({_camel(field.name): _field(message, field)})
        else:
            found[f"{field.name}_" if field.name in RUST else field.name] = _field(message, field)
    return Object(found)


def _field(message: Message, field: FieldDescriptor) -> Value:
    if not field.is_repeated and field.has_presence and not message.HasField(field.name):
        return None
    value = getattr(message, field.name)
    if not field.is_repeated:
        return _single(value)
    if hasattr(value, "GetEntryClass"):  # a map
        return Object({_single(key): _single(value[key]) for key in value})
    return Array(_single(item) for item in value)


def _single(value: object) -> Value:
    if isinstance(value, bool):
        return boolean(value)
    if isinstance(value, bytes):
        return Array(value)
    if isinstance(value, (str, int, float, Boolean)):
        return value
    return _message(cast("Message", value))


def _camel(name: str) -> str:
    return "".join(word[:1].upper() + word[1:] for word in name.split("_"))
