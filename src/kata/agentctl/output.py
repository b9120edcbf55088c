"""Replies and errors as text, for people and for programs.

Called by `session` and `__main__`. What an agent says is a guest's word: no control character of it reaches a
terminal, and texts of errors are cut.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, cast

from kata.agentctl.errors import EXIT_FAILED, EXIT_USAGE, UsageError
from kata.errors import KataError
from kata.plain import plain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.descriptor import EnumValueDescriptor
    from google.protobuf.message import Message

    from kata.protocol.status import RpcError

ERROR_LIMIT = 4000
"""Characters of an agent's error text that are shown."""

HINTS = {
    "UNIMPLEMENTED": "this agent does not know the request",
    "UNAVAILABLE": "the agent ended, or the connection to it broke",
    "DEADLINE_EXCEEDED": "--timeout SECONDS gives it longer, --timeout 0 for ever",
}
"""What to do about an error of the connection, by its code. The agent's own errors bring their hints along."""


def reply(message: Message, *, as_json: bool) -> None:
    """Print a reply: one JSON document a line, or for people. An empty reply is nothing for people."""
    if as_json:
        print(to_json(message), flush=True)
        return
    lone = _lone_value(message)
    if lone is None:
        for line in lines(message):
            print(line)
    else:
        _print_raw(lone)
    sys.stdout.flush()


def to_json(message: Message) -> str:
    """Protobuf's JSON form on one line, field names as in the .proto files, defaults included."""
    from google.protobuf import json_format

    return json_format.MessageToJson(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True, indent=None
    )


def lines(message: Message, indent: str = "") -> Iterator[str]:
    """A message as `name: value` lines, what is nested indented; empty lists and absent messages are left out."""
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            yield from _map_lines(field.name, value, indent)
        elif field.is_repeated:
            for entry in value:
                yield from _value_lines(field.name, _named(field.enum_type, entry), indent)
        elif not field.has_presence or message.HasField(field.name):
            yield from _value_lines(field.name, _named(field.enum_type, value), indent)


def failure(error: KataError | RpcError, where: str = "") -> int:
    """Print what failed on standard error: one line, the hint, the detail. Returns the exit code for it."""
    if isinstance(error, KataError):
        _error_lines(f"{where}{error.layer}: {error.what}", error.hint, error.detail)
        return EXIT_USAGE if isinstance(error, UsageError) else EXIT_FAILED
    text = " ".join(printable(error.message[:ERROR_LIMIT], keep="\n").split())
    _error_lines(f"{where}{error.code.name}: {text}", HINTS.get(error.code.name, ""), "")
    return EXIT_FAILED


def value_text(value: object) -> str:
    """One value as it is written on a command line: true, 17, text; bytes that are no text as hex:…"""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return f"hex:{value.hex()}"
    return str(value)


def printable(text: str, keep: str = "") -> str:
    """`text` with `?` for whatever could steer a terminal."""
    return plain(text, keep=keep, instead="?")


def _map_lines(name: str, entries: object, indent: str) -> Iterator[str]:
    pairs = cast("dict[object, object]", entries)
    for key in sorted(pairs, key=str):
        yield from _value_lines(f"{name}[{printable(str(key))}]", pairs[key], indent)


def _value_lines(name: str, value: object, indent: str) -> Iterator[str]:
    if hasattr(value, "DESCRIPTOR"):
        yield f"{indent}{name}:"
        yield from lines(cast("Message", value), indent + "  ")
        return
    parts = value_text(value).splitlines() or [""]
    if len(parts) == 1:
        yield f"{indent}{name}: {printable(parts[0])}".rstrip()
        return
    yield f"{indent}{name}:"
    for part in parts:
        yield f"{indent}  {printable(part)}"


def _named(enum: object, value: object) -> object:
    """The name of an enumeration's value; anything else as it is, numbers that have no name among it."""
    if enum is None:
        return value
    by_number: dict[object, EnumValueDescriptor] = getattr(enum, "values_by_number")  # noqa: B009 - see rpcs.descriptor
    return by_number[value].name if value in by_number else value


def _lone_value(message: Message) -> bytes | None:
    """The bytes of a reply that is nothing but one text or some bytes: a stream's data, metrics, a rule set."""
    fields = message.DESCRIPTOR.fields
    if len(fields) != 1 or fields[0].is_repeated or fields[0].message_type is not None:
        return None
    value = getattr(message, fields[0].name)
    if isinstance(value, str) and fields[0].name in ("metrics", "data"):
        return value.encode("utf-8", "backslashreplace")
    return value if isinstance(value, bytes) else None


def _print_raw(value: bytes) -> None:
    if sys.stdout.isatty():
        sys.stdout.write(printable(value.decode("utf-8", "replace"), keep="\n\t"))
        return
    sys.stdout.flush()
    sys.stdout.buffer.write(value)


def _error_lines(what: str, hint: str, detail: str) -> None:
    print(f"kata-agent-ctl: {printable(what)}", file=sys.stderr)
    if hint:
        print(f"  hint: {printable(hint)}", file=sys.stderr)
    for line in detail.splitlines():
        print(f"  {printable(line)}", file=sys.stderr)
