"""Functions of JSON, base64 and hexadecimal, and of regular expressions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kata.agent.policy.builtins.table import table
from kata.agent.policy.values import (
    FALSE,
    TRUE,
    UNDEFINED,
    Array,
    EvaluationError,
    boolean,
    from_json,
    to_json,
    weight,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kata.agent.policy.meter import Meter
    from kata.agent.policy.regex import Regex
    from kata.agent.policy.values import Value

MAX_JSON_DEPTH = 100


def json_marshal(meter: Meter, value: Value) -> Value:
    """A value as JSON without spaces, keys in order."""
    import json

    meter.spend(2 * weight(value))
    return json.dumps(to_json(value), separators=(",", ":"), ensure_ascii=False, sort_keys=True)


def json_unmarshal(meter: Meter, value: Value) -> Value:
    """The value that JSON stands for; undefined where it is none."""
    return _load(meter, value) if isinstance(value, str) else UNDEFINED


def json_is_valid(meter: Meter, value: Value) -> Value:
    """Whether a string is JSON."""
    return boolean(isinstance(value, str) and _load(meter, value) is not UNDEFINED)


def base64_encode(meter: Meter, value: Value) -> Value:
    """The common alphabet, with padding."""
    return _encode(meter, value, "+/")


def base64_decode(meter: Meter, value: Value) -> Value:
    """Undefined for what is not base64, and for what is no text then."""
    return _decode(meter, value, "+/")


def base64_is_valid(meter: Meter, value: Value) -> Value:
    """Whether a string is base64."""
    return boolean(isinstance(value, str) and _bytes(meter, value, "+/") is not None)


def base64url_encode(meter: Meter, value: Value) -> Value:
    """The alphabet for URLs, with padding."""
    return _encode(meter, value, "-_")


def base64url_encode_no_pad(meter: Meter, value: Value) -> Value:
    """The alphabet for URLs, without padding."""
    found = _encode(meter, value, "-_")
    return found.rstrip("=") if isinstance(found, str) else found


def base64url_decode(meter: Meter, value: Value) -> Value:
    """The alphabet for URLs; padding may be missing."""
    if isinstance(value, str) and "=" not in value:
        value += "=" * (-len(value) % 4)
    return _decode(meter, value, "-_")


def hex_encode(meter: Meter, value: Value) -> Value:
    """Two digits for each byte."""
    if not isinstance(value, str):
        return UNDEFINED
    meter.spend(1 + (len(value) >> 2))
    return value.encode().hex()


def hex_decode(meter: Meter, value: Value) -> Value:
    """Undefined for what is no text then."""
    if not isinstance(value, str) or (not value.isalnum() and value):
        return UNDEFINED
    meter.spend(1 + (len(value) >> 4))
    try:
        return bytes.fromhex(value).decode()
    except ValueError:
        return UNDEFINED


def regex_match(meter: Meter, pattern: Value, value: Value) -> Value:
    """Whether any part of a string matches."""
    if not isinstance(pattern, str) or not isinstance(value, str):
        return UNDEFINED
    return boolean(meter.regex(pattern).matches(value, meter.spend))


def regex_is_valid(meter: Meter, pattern: Value) -> Value:
    """Whether a pattern is understood."""
    if not isinstance(pattern, str):
        return FALSE
    left = meter.left
    try:
        meter.regex(pattern)
    except EvaluationError:
        if meter.left < 0:
            raise
        meter.left = min(left, meter.left)
        return FALSE
    return TRUE


def regex_split(meter: Meter, pattern: Value, value: Value) -> Value:
    """The parts between matches."""
    if not isinstance(pattern, str) or not isinstance(value, str):
        return UNDEFINED
    found, begin = [], 0
    for match in _all(meter, meter.regex(pattern), value):
        if match[1] > 0 and not (match[0] == match[1] == len(value)):
            found.append(value[begin : match[0]])
            begin = match[1]
    return Array((*found, value[begin:]))


def regex_find_n(meter: Meter, pattern: Value, value: Value, limit: Value) -> Value:
    """The matches, at most so many; all for a negative number."""
    if not isinstance(pattern, str) or not isinstance(value, str) or not isinstance(limit, int):
        return UNDEFINED
    found = _some(_all(meter, meter.regex(pattern), value), limit)
    return Array(value[match[0] : match[1]] for match in found)


def regex_find_all_string_submatch_n(meter: Meter, pattern: Value, value: Value, limit: Value) -> Value:
    """Likewise, each with its groups; a group that took no part is empty."""
    if not isinstance(pattern, str) or not isinstance(value, str) or not isinstance(limit, int):
        return UNDEFINED
    found = _some(_all(meter, meter.regex(pattern), value), limit)
    return Array(
        Array(value[first:last] if first >= 0 else "" for first, last in zip(match[::2], match[1::2], strict=True))
        for match in found
    )


def regex_replace(meter: Meter, value: Value, pattern: Value, new: Value) -> Value:
    """With every match as `new`, in which `$1` and `${1}` are groups and `$$` is a dollar."""
    if not isinstance(pattern, str) or not isinstance(value, str) or not isinstance(new, str):
        return UNDEFINED
    fill = _template(new)
    if fill is None:
        return UNDEFINED
    found, begin = [], 0
    for match in _all(meter, meter.regex(pattern), value):
        written = fill(value, match)
        meter.spend(1 + (len(written) >> 4))
        found += [value[begin : match[0]], written]
        begin = match[1]
    return "".join((*found, value[begin:]))


def _template(new: str) -> Callable[[str, tuple[int, ...]], str] | None:
    """What writes a match; None for a reference that is not to a group's number."""
    parts: list[str | int] = []
    pieces = iter(new.split("$"))
    parts.append(next(pieces))
    for piece in pieces:
        if not piece:
            parts.append("$" + next(pieces, ""))
            continue
        digits, closed, rest = piece[1:].partition("}") if piece[0] == "{" else ("", "", piece)
        if piece[0] != "{":
            rest = piece.lstrip("0123456789")
            digits = piece[: len(piece) - len(rest)]
        if not digits.isdigit() or (piece[0] == "{" and not closed) or len(digits) > 3:
            return None
        if piece[0] != "{" and rest[:1].isalnum() | (rest[:1] == "_"):
            return None  # `$1x` is the group named 1x
        parts += [int(digits), rest]

    def fill(value: str, match: tuple[int, ...]) -> str:
        return "".join(part if isinstance(part, str) else _group(value, match, part) for part in parts)

    return fill


def _group(value: str, match: tuple[int, ...], index: int) -> str:
    if 2 * index >= len(match) or match[2 * index] < 0:
        return ""
    return value[match[2 * index] : match[2 * index + 1]]


def _all(meter: Meter, regex: Regex, value: str) -> Iterator[tuple[int, ...]]:
    """All matches that do not overlap; an empty one right behind another does not count."""
    position, last = 0, -1
    while position <= len(value):
        match = regex.find(value, position, meter.spend)
        if match is None:
            return
        if match[1] > match[0] or match[0] != last:
            yield match
        last = match[1]
        position = match[1] if match[1] > match[0] else match[1] + 1


def _some(matches: Iterator[tuple[int, ...]], limit: int) -> list[tuple[int, ...]]:
    found: list[tuple[int, ...]] = []
    while limit < 0 or len(found) < limit:
        match = next(matches, None)
        if match is None:
            break
        found.append(match)
    return found


def _load(meter: Meter, value: str) -> Value:
    import json

    meter.spend(1 + len(value) // 2)
    if _nesting(value) > MAX_JSON_DEPTH:
        return UNDEFINED
    try:
        found = json.loads(value, parse_constant=_refuse)
        if "\\u" in value:
            json.dumps(found, ensure_ascii=False).encode()  # half of a surrogate pair is no text
        return from_json(found)
    except (ValueError, RecursionError):
        return UNDEFINED


def _refuse(name: str) -> Value:
    raise ValueError(f"{name} is no JSON")


def _nesting(value: str) -> int:
    """At most how deep brackets are within each other; those in strings count too."""
    deepest = depth = 0
    for char in value:
        if char in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif char in "]}":
            depth -= 1
    return deepest


def _encode(meter: Meter, value: Value, alphabet: str) -> Value:
    import base64

    if not isinstance(value, str):
        return UNDEFINED
    meter.spend(1 + (len(value) >> 3))
    return base64.b64encode(value.encode(), alphabet.encode()).decode()


def _decode(meter: Meter, value: Value, alphabet: str) -> Value:
    data = _bytes(meter, value, alphabet) if isinstance(value, str) else None
    try:
        return UNDEFINED if data is None else data.decode()
    except UnicodeDecodeError:
        return UNDEFINED


def _bytes(meter: Meter, value: str, alphabet: str) -> bytes | None:
    import base64

    meter.spend(1 + (len(value) >> 4))
    if not value.isascii() or (alphabet == "-_" and ("+" in value or "/" in value)):
        return None
    try:
        return base64.b64decode(value, alphabet, validate=True)
    except ValueError:
        return None


TABLE = table(
    {
        "json.marshal": json_marshal,
        "json.unmarshal": json_unmarshal,
        "json.is_valid": json_is_valid,
        "base64.encode": base64_encode,
        "base64.decode": base64_decode,
        "base64.is_valid": base64_is_valid,
        "base64url.encode": base64url_encode,
        "base64url.encode_no_pad": base64url_encode_no_pad,
        "base64url.decode": base64url_decode,
        "hex.encode": hex_encode,
        "hex.decode": hex_decode,
        "regex.match": regex_match,
        "regex.is_valid": regex_is_valid,
        "regex.split": regex_split,
        "regex.find_n": regex_find_n,
        "regex.find_all_string_submatch_n": regex_find_all_string_submatch_n,
        "regex.replace": regex_replace,
    }
)
