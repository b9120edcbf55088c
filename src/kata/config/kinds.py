"""Kinds of values: what a setting accepts in TOML and in an annotation's text, and how it is written.

Each kind turns either form into one frozen Python value or raises BadValueError, and writes it as TOML again. Kinds
know nothing of any one setting; what depends on two settings or on the host is in `rules`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Generic, TypeVar

T = TypeVar("T")

U32 = 2**32 - 1
I64 = 2**63 - 1

TRUE = ("1", "t", "T", "TRUE", "true", "True")
FALSE = ("0", "f", "F", "FALSE", "false", "False")
"""What annotations may say, as Go's strconv.ParseBool has it."""

SIZE = re.compile(r"([0-9]{1,15})\s*([kmgt]?)(i?)b?", re.IGNORECASE | re.ASCII)
BYTES = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


class BadValueError(Exception):
    """`why` a value cannot be, and what to give instead (`hint`)."""

    def __init__(self, why: str, hint: str = "") -> None:
        super().__init__(why)
        self.why = why
        self.hint = hint


class Kind(Generic[T]):
    """One kind of value. `name` is its name in documentation and messages."""

    name = ""

    def from_toml(self, value: object) -> T:
        """The value that a file holds. Raises BadValueError."""
        raise NotImplementedError

    def from_text(self, text: str) -> T:
        """The value of an annotation. Raises BadValueError."""
        return self.from_toml(text)

    def to_toml(self, value: T) -> str:
        """How a file would say it."""
        return toml_string(str(value))


class Flag(Kind[bool]):
    """True or false."""

    name = "boolean"

    def from_toml(self, value: object) -> bool:
        if not isinstance(value, bool):
            raise BadValueError(f"{brief(value)} is neither true nor false", "write true or false without quotes")
        return value

    def from_text(self, text: str) -> bool:
        if text not in TRUE + FALSE:
            raise BadValueError(f"{brief(text)} is neither true nor false", "give true or false")
        return text in TRUE

    def to_toml(self, value: bool) -> str:
        return "true" if value else "false"


class Integer(Kind[int]):
    """A whole number in a range."""

    name = "integer"

    def __init__(self, minimum: int = 0, maximum: int = U32) -> None:
        self.minimum = minimum
        self.maximum = maximum

    def from_toml(self, value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise BadValueError(f"{brief(value)} is no whole number", "write digits without quotes")
        if not self.minimum <= value <= self.maximum:
            raise BadValueError(f"{brief(value)} is out of range", f"{self.minimum} to {self.maximum} are possible")
        return value

    def from_text(self, text: str) -> int:
        if not re.fullmatch(r"-?[0-9]{1,19}", text, re.ASCII):
            raise BadValueError(f"{brief(text)} is no whole number", "give decimal digits")
        return self.from_toml(int(text))

    def to_toml(self, value: int) -> str:
        return str(value)


class Mebibytes(Integer):
    """A size in MiB. An annotation may have a unit: decimal ones as SI has them, `Mi` and the like binary."""

    name = "integer (MiB)"

    def from_text(self, text: str) -> int:
        match = SIZE.fullmatch(text.strip())
        if not match:
            raise BadValueError(f"{brief(text)} is no size", "give a number of MiB, or one with a unit such as 2Gi")
        number, unit, binary = int(match[1]), match[2].lower(), match[3]
        if text.strip().isdigit():
            return self.from_toml(number)
        return self.from_toml(number * (1024 if binary else 1000) ** BYTES[unit] // 1024**2)


class Number(Kind[float]):
    """A number that may have a fraction."""

    name = "number"

    def __init__(self, minimum: float = 0.0, maximum: float = float(U32)) -> None:
        self.minimum = minimum
        self.maximum = maximum

    def from_toml(self, value: object) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise BadValueError(f"{brief(value)} is no number", "write a number without quotes")
        if not self.minimum <= value <= self.maximum:  # nan compares false, too
            raise BadValueError(f"{brief(value)} is out of range", f"{self.minimum:g} to {self.maximum:g} are possible")
        return float(value)

    def from_text(self, text: str) -> float:
        if not re.fullmatch(r"-?[0-9]{1,10}(\.[0-9]{1,10})?", text, re.ASCII):
            raise BadValueError(f"{brief(text)} is no number", "give decimal digits")
        return self.from_toml(float(text))

    def to_toml(self, value: float) -> str:
        return f"{value:.10g}"


class Seconds(Number):
    """A length of time in seconds."""

    name = "seconds"


class Milliseconds(Seconds):
    """A length of time that is written in milliseconds; the value is in seconds."""

    name = "milliseconds"

    def from_toml(self, value: object) -> float:
        return super().from_toml(Integer(0, U32).from_toml(value) / 1000)

    def from_text(self, text: str) -> float:
        return self.from_toml(Integer(0, U32).from_text(text))

    def to_toml(self, value: float) -> str:
        return str(round(value * 1000))


class Text(Kind[str]):
    """One line of text; `pattern` (a whole match) says more. `lines`: several lines are fine as well."""

    name = "string"

    def __init__(self, pattern: str = "", hint: str = "", *, lines: bool = False) -> None:
        self.pattern = pattern
        self.hint = hint
        self.lines = lines

    def from_toml(self, value: object) -> str:
        if not isinstance(value, str):
            raise BadValueError(f"{brief(value)} is no text", "write it in double quotes")
        # What cannot be in an argument of a program, or would end a line of a kernel's or a program's options.
        if any(not char.isprintable() and not (self.lines and char in "\n\r\t") for char in value):
            raise BadValueError(f"{brief(value)} has control characters", "leave them out")
        if self.pattern and not re.fullmatch(self.pattern, value, re.ASCII):
            raise BadValueError(f"{brief(value)} is malformed", self.hint)
        return value


class Encoded(Text):
    """Text that an annotation holds in base64, because annotations are one line."""

    def from_text(self, text: str) -> str:
        import base64  # only this annotation needs it

        try:
            return self.from_toml(base64.b64decode(text, validate=True).decode())
        except ValueError:
            raise BadValueError(f"{brief(text)} is no text in base64", "give what `base64 -w0 FILE` prints") from None


class Choice(Kind[str]):
    """One of a few words. `synonyms` are other spellings of them."""

    name = "string"

    def __init__(self, *values: str, synonyms: Mapping[str, str] | None = None) -> None:
        self.values = values
        self.synonyms = synonyms or {}

    def from_toml(self, value: object) -> str:
        text = Text().from_toml(value)
        text = self.synonyms.get(text, text)
        if text not in self.values:
            words = ", ".join(word or '""' for word in self.values)
            raise BadValueError(f"{brief(text)} is none of the possible words", f"possible are {words}")
        return text


class Path(Text):
    """An absolute path without `..`, or nothing."""

    name = "path"

    def from_toml(self, value: object) -> str:
        text = super().from_toml(value)
        if text and (not text.startswith("/") or ".." in text.split("/")):
            raise BadValueError(f"{brief(text)} is no absolute path", "give one that starts with / and has no ..")
        return text


class Words(Kind[tuple[str, ...]]):
    """A list of texts of one kind; in an annotation they are one text, cut at `separator`."""

    name = "list of strings"

    def __init__(self, item: Kind[str] | None = None, separator: str = "") -> None:
        self.item = item or Text()
        self.separator = separator

    def from_toml(self, value: object) -> tuple[str, ...]:
        if not isinstance(value, list):
            raise BadValueError(f"{brief(value)} is no list", 'write ["one", "two"]')
        return tuple(self.item.from_toml(word) for word in value)

    def from_text(self, text: str) -> tuple[str, ...]:
        words = re.split(self.separator, text) if self.separator else text.split()
        return self.from_toml([word.strip() for word in words if word.strip()])

    def to_toml(self, value: tuple[str, ...]) -> str:
        return f"[{', '.join(toml_string(word) for word in value)}]"


class Regex(Text):
    """A regular expression that compiles."""

    def from_toml(self, value: object) -> str:
        text = super().from_toml(value)
        try:
            re.compile(text)
        except (re.error, RecursionError, OverflowError) as error:
            raise BadValueError(f"{brief(text)} is no regular expression: {error}") from None
        return text


R = TypeVar("R", bound=tuple[object, ...])


class Records(Kind[tuple[R, ...]]):
    """A list of tables with fields of text; `record` is a NamedTuple whose fields with defaults may be left out."""

    name = "list of tables"

    def __init__(self, record: type[R]) -> None:
        self.record = record
        self.fields: tuple[str, ...] = record._fields  # type: ignore[attr-defined]  # every NamedTuple has them
        self.defaults: Mapping[str, str] = record._field_defaults  # type: ignore[attr-defined]

    def from_toml(self, value: object) -> tuple[R, ...]:
        if not isinstance(value, list):
            raise BadValueError(f"{brief(value)} is no list of tables", f"fields are {', '.join(self.fields)}")
        return tuple(self._record(entry) for entry in value)

    def from_text(self, text: str) -> tuple[R, ...]:
        import json  # only this annotation needs it

        try:
            return self.from_toml(json.loads(text))
        except (ValueError, RecursionError):
            raise BadValueError(f"{brief(text)} is no JSON", "give a JSON list of objects") from None

    def to_toml(self, value: tuple[R, ...]) -> str:
        return f"[{', '.join(self._table(entry) for entry in value)}]"

    def _record(self, entry: object) -> R:
        if not isinstance(entry, dict):
            raise BadValueError(f"{brief(entry)} is no table", f"fields are {', '.join(self.fields)}")
        wrong = [key for key in entry if key not in self.fields]
        missing = [key for key in self.fields if key not in entry and key not in self.defaults]
        if wrong or missing:
            why = f"{brief(wrong[0])} is no field of it" if wrong else f"{missing[0]} is missing"
            raise BadValueError(why, f"fields are {', '.join(self.fields)}")
        return self.record(**{key: Text().from_toml(text) for key, text in entry.items()})

    def _table(self, entry: R) -> str:
        pairs = zip(self.fields, entry, strict=True)
        return "{ " + ", ".join(f"{key} = {toml_string(str(text))}" for key, text in pairs) + " }"


def toml_string(text: str) -> str:
    """`text` as a TOML basic string."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in escaped) + '"'


def brief(value: object) -> str:
    """A value for a message: short, on one line, whatever it is."""
    if isinstance(value, int) and abs(value) > 2**64:
        return "the number"  # turning one of thousands of digits into text is refused by Python itself
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "a table"
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:57] + "…"
