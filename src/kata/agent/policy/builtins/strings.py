"""Functions of strings. Positions and lengths count characters, not bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kata.agent.policy.builtins.table import members, strings, table
from kata.agent.policy.meter import text
from kata.agent.policy.values import FALSE, MAX_WEIGHT, UNDEFINED, Array, EvaluationError, Object, boolean

if TYPE_CHECKING:
    from collections.abc import Callable

    from kata.agent.policy.meter import Meter
    from kata.agent.policy.values import Value

SPACE = " \t\n\v\f\r\x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
"""What Unicode calls white space."""
BASES = {2: "b", 8: "o", 10: "d", 16: "x"}
MAX_WIDTH = 1000


def concat(meter: Meter, separator: Value, parts: Value) -> Value:
    """An array's, or a set's, strings as one."""
    words = strings(parts)
    if words is None or not isinstance(separator, str):
        return UNDEFINED
    _room(meter, sum(map(len, words)) + len(separator) * len(words))
    return separator.join(words)


def contains(meter: Meter, value: Value, part: Value) -> Value:
    """Whether one string is in another."""
    return _ask(meter, value, part, lambda a, b: b in a)


def startswith(meter: Meter, value: Value, part: Value) -> Value:
    """Whether a string begins with another."""
    return _ask(meter, value, part, str.startswith)


def endswith(meter: Meter, value: Value, part: Value) -> Value:
    """Whether a string ends with another."""
    return _ask(meter, value, part, str.endswith)


def any_prefix(meter: Meter, values: Value, parts: Value) -> Value:
    """Whether any of the strings begins with any of the others."""
    return _ask_any(meter, values, parts, str.startswith)


def any_suffix(meter: Meter, values: Value, parts: Value) -> Value:
    """Whether any of the strings ends with any of the others."""
    return _ask_any(meter, values, parts, str.endswith)


def indexof(meter: Meter, value: Value, part: Value) -> Value:
    """Where a string is in another first; -1 for nowhere."""
    if not isinstance(value, str) or not isinstance(part, str) or not part:
        return UNDEFINED
    _pay(meter, value)
    return value.find(part)


def indexof_n(meter: Meter, value: Value, part: Value) -> Value:
    """All places where a string is in another; they may overlap."""
    if not isinstance(value, str) or not isinstance(part, str) or not part:
        return UNDEFINED
    meter.spend(len(value) * (1 + (len(part) >> 6)))
    return Array(at for at in range(len(value)) if value.startswith(part, at))


def lower(meter: Meter, value: Value) -> Value:
    """In small letters."""
    return _change(meter, value, str.lower)


def upper(meter: Meter, value: Value) -> Value:
    """In capital letters."""
    return _change(meter, value, str.upper)


def reverse(meter: Meter, value: Value) -> Value:
    """The other way round."""
    return _change(meter, value, lambda a: a[::-1])


def trim_space(meter: Meter, value: Value) -> Value:
    """Without white space at both ends."""
    return _change(meter, value, lambda a: a.strip(SPACE))


def trim(meter: Meter, value: Value, signs: Value) -> Value:
    """Without any of these characters at both ends."""
    return _cut(meter, value, signs, lambda a, b: a.strip(b) if b else a)


def trim_left(meter: Meter, value: Value, signs: Value) -> Value:
    """Without any of these characters at the beginning."""
    return _cut(meter, value, signs, lambda a, b: a.lstrip(b) if b else a)


def trim_right(meter: Meter, value: Value, signs: Value) -> Value:
    """Without any of these characters at the end."""
    return _cut(meter, value, signs, lambda a, b: a.rstrip(b) if b else a)


def trim_prefix(meter: Meter, value: Value, part: Value) -> Value:
    """Without this beginning."""
    return _cut(meter, value, part, str.removeprefix)


def trim_suffix(meter: Meter, value: Value, part: Value) -> Value:
    """Without this end."""
    return _cut(meter, value, part, str.removesuffix)


def replace(meter: Meter, value: Value, old: Value, new: Value) -> Value:
    """With every `old` as `new`."""
    if not isinstance(value, str) or not isinstance(old, str) or not isinstance(new, str):
        return UNDEFINED
    _pay(meter, value)
    _room(meter, len(value) + value.count(old) * len(new))
    return value.replace(old, new)


def replace_n(meter: Meter, patterns: Value, value: Value) -> Value:
    """Each key of an object by its value, in one pass, so that nothing is replaced twice."""
    if not isinstance(patterns, Object) or not isinstance(value, str):
        return UNDEFINED
    pairs = [(old, patterns.items[old]) for old in patterns.keys()]  # noqa: SIM118 - in order
    if any(not isinstance(old, str) or not isinstance(new, str) or not old for old, new in pairs):
        return UNDEFINED
    meter.spend(len(value) * (1 + len(pairs)))
    found, at = [], 0
    while at < len(value):
        old, new = next(((str(a), str(b)) for a, b in pairs if value.startswith(str(a), at)), (value[at], value[at]))
        meter.spend(1 + (len(new) >> 4))
        found.append(new)
        at += len(old)
    return "".join(found)


def split(meter: Meter, value: Value, separator: Value) -> Value:
    """The parts between separators; all characters for an empty one."""
    if not isinstance(value, str) or not isinstance(separator, str):
        return UNDEFINED
    _pay(meter, value)
    meter.spend(value.count(separator))
    return Array(value.split(separator) if separator else value)


def substring(meter: Meter, value: Value, begin: Value, length: Value) -> Value:
    """From a place on; a negative length is all of the rest."""
    if not isinstance(value, str) or not isinstance(begin, int) or not isinstance(length, int) or begin < 0:
        return UNDEFINED
    _pay(meter, value)
    return value[begin:] if length < 0 else value[begin : begin + length]


def count(meter: Meter, value: Value, part: Value) -> Value:
    """How often a string is in another, without overlap."""
    if not isinstance(value, str) or not isinstance(part, str):
        return UNDEFINED
    _pay(meter, value)
    return value.count(part)


def format_int(meter: Meter, value: Value, base: Value) -> Value:
    """A number's digits in base 2, 8, 10 or 16; what is behind the point is dropped."""
    if not isinstance(value, (int, float)) or base not in BASES or not isinstance(base, int):
        return UNDEFINED
    return format(int(value), BASES[base])


def sprintf(meter: Meter, pattern: Value, values: Value) -> Value:
    """As in Go, with the verbs v s d q f e g x X o b c t and %; anything else, and a wrong count, is undefined."""
    arguments = members(values)
    if not isinstance(pattern, str) or arguments is None:
        return UNDEFINED
    _pay(meter, pattern)
    found, arguments = [], arguments[::-1]
    pieces = iter(pattern.split("%"))
    found.append(next(pieces))
    for piece in pieces:
        size = len(piece) - len(piece.lstrip("0123456789.+-# "))
        flags, verb, rest = piece[:size], piece[size : size + 1], piece[size + 1 :]
        if not verb and not flags:
            # Two signs in a row: the text between them is empty, and what follows is text.
            following = next(pieces, None)
            if following is None:
                return UNDEFINED
            found.append("%" + following)
            continue
        written = _format(flags, verb, arguments.pop()) if arguments and len(flags) < 8 else None
        if written is None:
            return UNDEFINED
        meter.spend(1 + (len(written) >> 4))
        found.append(written + rest)
    return UNDEFINED if arguments else "".join(found)


def _format(flags: str, verb: str, value: Value) -> str | None:
    """One value; None where the verb does not fit it."""
    if any(int(part) > MAX_WIDTH for part in flags.strip("+-# ").split(".") if part.isdigit()):
        return None
    if verb in ("v", "s"):
        written = text(value, MAX_WEIGHT)
    elif verb == "q" and isinstance(value, str):
        written = _quoted(value)
    elif verb == "t" and str(value) in ("true", "false") and not isinstance(value, str):
        written = str(value)
    elif verb in ("f", "e", "g") and isinstance(value, (int, float)):
        return _python(flags, verb, float(value))
    elif verb in ("d", "x", "X", "o", "b") and isinstance(value, int):
        return _python(flags, verb, value)
    elif verb in ("x", "X") and isinstance(value, str):
        written = value.encode().hex()
        written = written.upper() if verb == "X" else written
    elif verb == "c" and isinstance(value, int) and 0 <= value <= 0x10FFFF and not 0xD800 <= value < 0xE000:
        written = chr(value)
    else:
        return None
    return _python(flags, "s", written)


def _python(flags: str, verb: str, value: object) -> str | None:
    # Python's own % does the same for these, once the value is known to fit.
    try:
        return f"%{flags}{'s' if verb == 'b' else verb}" % (format(value, "b") if verb == "b" else value)
    except (ValueError, OverflowError):
        return None


def _quoted(value: str) -> str:
    import json

    return json.dumps(value, ensure_ascii=False)


def _pay(meter: Meter, value: str) -> None:
    meter.spend(1 + (len(value) >> 4))


def _room(meter: Meter, size: int) -> None:
    """Pay for a string before it is made. Raises EvaluationError for one that is too long to be a value."""
    if size >> 4 >= MAX_WEIGHT:
        raise EvaluationError("a string is longer than a value may be")
    meter.spend(1 + (size >> 4))


def _ask(meter: Meter, value: Value, part: Value, question: Callable[[str, str], bool]) -> Value:
    if not isinstance(value, str) or not isinstance(part, str):
        return UNDEFINED
    _pay(meter, value)
    return boolean(question(value, part))


def _ask_any(meter: Meter, values: Value, parts: Value, question: Callable[[str, str], bool]) -> Value:
    first = [values] if isinstance(values, str) else strings(values)
    second = [parts] if isinstance(parts, str) else strings(parts)
    if first is None or second is None:
        return UNDEFINED
    meter.spend(len(first) * len(second))
    return boolean(any(question(value, part) for value in first for part in second)) if first else FALSE


def _change(meter: Meter, value: Value, change: Callable[[str], str]) -> Value:
    if not isinstance(value, str):
        return UNDEFINED
    _pay(meter, value)
    return change(value)


def _cut(meter: Meter, value: Value, part: Value, cut: Callable[[str, str], str]) -> Value:
    if not isinstance(value, str) or not isinstance(part, str):
        return UNDEFINED
    _pay(meter, value)
    return cut(value, part)


TABLE = table(
    {
        "concat": concat,
        "contains": contains,
        "startswith": startswith,
        "endswith": endswith,
        "strings.any_prefix_match": any_prefix,
        "strings.any_suffix_match": any_suffix,
        "indexof": indexof,
        "indexof_n": indexof_n,
        "lower": lower,
        "upper": upper,
        "strings.reverse": reverse,
        "trim_space": trim_space,
        "trim": trim,
        "trim_left": trim_left,
        "trim_right": trim_right,
        "trim_prefix": trim_prefix,
        "trim_suffix": trim_suffix,
        "replace": replace,
        "strings.replace_n": replace_n,
        "split": split,
        "substring": substring,
        "strings.count": count,
        "format_int": format_int,
        "sprintf": sprintf,
    }
)
