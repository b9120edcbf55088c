"""Words of a command line into a request: `name=value`, `name.inner=value`, whole JSON documents.

Called by `session`. What a word means follows from the field's type, never from the request's name; the one field
that is known by name is `signal`, whose numbers have names.

    name=value            text, number, true or false, a name of an enumeration
    name=@FILE, @-        text or bytes: what is in the file, or on standard input; hex:…, base64:…, text:… spell
                          bytes out
    name.inner=value      a field of a nested message; `name.0.inner` the first of a list of them
    name=a name=b         a list, value by value
    name.key=value        an entry of a map; the key is all the rest, dots included
    name=json://…         a message, list or map in JSON; likewise name=file://PATH and name=- (standard input)
    json://…, file://…, - the whole request

JSON is protobuf's JSON form. A specification, a process or resources may also be in the runtime specification's
form, as in a bundle's config.json: their keys begin with a small letter there and never in protobuf's.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import signal
import sys
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote

from kata.agentctl import rpcs
from kata.agentctl.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.protobuf.descriptor import FieldDescriptor
    from google.protobuf.message import Message

FILE_LIMIT = 4 * 1024 * 1024
"""Bytes read of one file: no request may be larger than that (ttrpc's limit of a frame)."""
LIST_LIMIT = 4096
"""Entries of a list that an index may ask for."""
TRUE, FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")
FLOAT, BYTES, STRING, BOOL = (1, 2), 12, 9, 8
"""Numbers of protobuf's types (google/protobuf/descriptor.proto, FieldDescriptorProto.Type)."""


def fill(request: Message, words: Sequence[str]) -> None:
    """Set what `words` say. Raises UsageError that names the word."""
    for word in words:
        if word == "-" or word.startswith(("json://", "file://")):
            _merge(request, document(word, word), word)
            continue
        path, equals, value = word.partition("=")
        if not equals or not path:
            raise UsageError(f"{word!r} is not NAME=VALUE", hint="or json://…, file://…, - for a whole request")
        first, dot, rest = path.partition(".")
        assign(request, rpcs.SHORT.get(first, first) + dot + rest, value, word)


def assign(message: Message, path: str, value: str, word: str) -> None:
    """Set the field at `path` below `message`."""
    name, _, rest = path.partition(".")
    field = rpcs.descriptor(message).fields_by_name.get(name)
    if field is None:
        known = ", ".join(found.name for found in message.DESCRIPTOR.fields) or "none"
        raise UsageError(f"{word!r}: {message.DESCRIPTOR.name} has no field {name!r}", hint=f"fields: {known}")
    if rpcs.is_map(field):
        _assign_map(message, field, rest, value, word)
    elif field.is_repeated:
        _assign_list(message, field, rest, value, word)
    elif field.message_type is not None:
        child = getattr(message, name)
        child.SetInParent()
        if rest:
            assign(child, rest, value, word)
        else:
            _merge(child, document(value, word), word)
    elif rest:
        raise UsageError(f"{word!r}: {name} is {rpcs.kind(field)} and has no fields")
    else:
        setattr(message, name, scalar(field, value, word))


def document(value: str, word: str) -> object:
    """What a JSON document says. Raises UsageError."""
    try:
        return json.loads(_document_text(value, word))
    except ValueError as error:
        raise UsageError(f"{word!r} holds no JSON: {error}") from None


def scalar(field: FieldDescriptor, value: str, word: str) -> object:
    """`value` as the type of `field`. Raises UsageError."""
    if field.type == BYTES:
        return _bytes(value, word)
    if field.type == STRING:
        return _text(value, word)
    if field.enum_type is not None:
        return _enumerated(field, value, word)
    if field.type == BOOL:
        if value.lower() not in TRUE + FALSE:
            raise UsageError(f"{word!r}: {field.name} is true or false")
        return value.lower() in TRUE
    return _number(field, value, word)


def _assign_map(message: Message, field: FieldDescriptor, key: str, value: str, word: str) -> None:
    assert field.message_type is not None
    if not key:
        _merge(message, {field.name: document(value, word)}, word)
        return
    entry = field.message_type.fields_by_name
    container = getattr(message, field.name)
    if entry["value"].message_type is not None:
        first, _, rest = key.partition(".")
        child = container[scalar(entry["key"], first, word)]
        if rest:
            assign(child, rest, value, word)
        else:
            _merge(child, document(value, word), word)
        return
    container[scalar(entry["key"], key, word)] = scalar(entry["value"], value, word)


def _assign_list(message: Message, field: FieldDescriptor, rest: str, value: str, word: str) -> None:
    container = getattr(message, field.name)
    if rest:
        if field.message_type is None:
            raise UsageError(f"{word!r}: {field.name} is {rpcs.kind(field)}; repeat {field.name}=… for each")
        assign(_entry(container, rest.partition(".")[0], word), rest.partition(".")[2], value, word)
    elif field.message_type is not None or value.startswith(("json://", "file://")):
        found = document(value, word)
        _merge(message, {field.name: found if isinstance(found, list) else [found]}, word)
    else:
        container.append(scalar(field, value, word))


def _entry(container: Any, index: str, word: str) -> Message:  # noqa: ANN401 - protobuf's list of any message
    """The message at `index` of a list, which may grow by one."""
    if not (index.isascii() and index.isdigit()) or int(index) > min(len(container), LIST_LIMIT):
        raise UsageError(
            f"{word!r}: {index!r} is no index into a list of {len(container)}", hint="count from 0, leave none out"
        )
    if int(index) == len(container):
        return cast("Message", container.add())
    return cast("Message", container[int(index)])


def _merge(message: Message, value: object, word: str) -> None:
    """Put a JSON document into `message`, over what is there."""
    from google.protobuf import json_format

    from kata.oci.errors import SpecError

    if not isinstance(value, dict):
        raise UsageError(f"{word!r}: {message.DESCRIPTOR.name} is a JSON object", hint="{…}")
    try:
        if any(key[:1].islower() for key in value) and message.DESCRIPTOR.full_name in _RUNTIME_FORMS:
            message.MergeFrom(_from_runtime_form(message.DESCRIPTOR.full_name, value))
        else:
            # Not into the message itself: there a list would replace what earlier words put into it.
            message.MergeFrom(json_format.ParseDict(value, type(message)()))
    except (json_format.ParseError, SpecError) as error:
        raise UsageError(f"{word!r}: {_one_line(error)}") from None


_RUNTIME_FORMS = {
    "grpc.Spec": "spec_to_proto",
    "grpc.Process": "process_to_proto",
    "grpc.LinuxResources": "resources_to_proto",
}
"""Messages that have a form in the OCI runtime specification, and what converts it."""


def _from_runtime_form(name: str, value: dict[str, object]) -> Message:
    from kata.oci import convert

    return cast("Message", getattr(convert, _RUNTIME_FORMS[name])(value))


def _document_text(value: str, word: str) -> bytes:
    if value == "-":
        return _read_stdin()
    if value.startswith("json://"):
        return value.removeprefix("json://").encode()
    if value.startswith("file://"):
        return _read(unquote(value.removeprefix("file://")), word)
    if value[:1] in ("{", "["):
        return value.encode()
    raise UsageError(f"{word!r} needs a JSON document", hint="json://…, file://PATH, or - for standard input")


def _text(value: str, word: str) -> str:
    if not value.startswith(("@", "text:")):
        return value
    if value.startswith("text:"):
        return value.removeprefix("text:")
    try:
        return _at(value, word).decode()
    except UnicodeDecodeError:
        raise UsageError(f"{word!r}: the file is not UTF-8 text") from None


def _bytes(value: str, word: str) -> bytes:
    try:
        if value.startswith("@"):
            return _at(value, word)
        if value.startswith("hex:"):
            return bytes.fromhex(value.removeprefix("hex:"))
        if value.startswith("base64:"):
            return base64.b64decode(value.removeprefix("base64:"), validate=True)
    except (ValueError, binascii.Error) as error:
        raise UsageError(f"{word!r}: {error}") from None
    return os.fsencode(value.removeprefix("text:"))


def _at(value: str, word: str) -> bytes:
    return _read_stdin() if value == "@-" else _read(value[1:], word)


def _enumerated(field: FieldDescriptor, value: str, word: str) -> int:
    assert field.enum_type is not None
    names = {found.name.lower(): found.number for found in field.enum_type.values}
    if value.lower() in names:
        return names[value.lower()]
    if value.isascii() and value.isdigit() and int(value) < 1 << 31:
        return int(value)
    raise UsageError(f"{word!r}: {field.name} is {rpcs.kind(field)}")


def _number(field: FieldDescriptor, value: str, word: str) -> int | float:
    try:
        if field.type in FLOAT:
            return float(value)
        if field.name == "signal" and value[:1].isalpha():
            return _signal(value)
        number = int(value, 0)  # a leading 0 is refused: 0644 could mean either
    except ValueError:
        raise UsageError(f"{word!r}: {value!r} is no number", hint="17, 0x11 or 0o21") from None
    bits = 31 if field.type == 5 else 32 if field.type == 13 else 63 if field.type == 3 else 64
    if not -(1 << bits if field.type in (3, 5) else 0) <= number < 1 << bits:
        raise UsageError(f"{word!r}: {number} is out of range of {rpcs.kind(field)}")
    return number


def _signal(name: str) -> int:
    """A signal's number by its name, with or without SIG. Raises ValueError."""
    full = name.upper() if name.upper().startswith("SIG") else f"SIG{name.upper()}"
    try:
        return int(signal.Signals[full])
    except KeyError:
        raise ValueError(name) from None


def _read(path: str, word: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return _limited(file.read(FILE_LIMIT + 1), path)
    except OSError as error:
        raise UsageError(f"{word!r}: {path} cannot be read: {error.strerror}") from None


def _read_stdin() -> bytes:
    return _limited(sys.stdin.buffer.read(FILE_LIMIT + 1), "standard input")


def _limited(data: bytes, source: str) -> bytes:
    if len(data) > FILE_LIMIT:
        raise UsageError(f"{source} has more than 4 MiB, the limit of a request", hint="send it in pieces")
    return data


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
