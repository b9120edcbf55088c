"""A regular expression's text as a tree. The syntax is that of RE2, which Rego prescribes.

What RE2 has not (looking around, back references, possessive repeats) is refused, and so is what it has and this file
does not (`\\p`, `\\Q`, the flag U), and what RE2 and other engines read differently (a `[` or `&&` in a class).
"""

from __future__ import annotations

from typing import NamedTuple, Union

MAX_REPEAT = 1000
MAX_DEPTH = 50
MAX_PATTERN = 1 << 16
LAST = chr(0x10FFFF)

Ranges = tuple[tuple[str, str], ...]
"""First and last characters; what is in any of them matches."""


class PatternError(ValueError):
    """The pattern is not understood."""


class Chars(NamedTuple):
    """One character of a class."""

    ranges: Ranges


class Sequence(NamedTuple):
    """One after the other; empty matches the empty text."""

    parts: tuple[Node, ...]


class Choice(NamedTuple):
    """The first that leads to a match."""

    parts: tuple[Node, ...]


class Repeat(NamedTuple):
    """`most` is None for no limit."""

    part: Node
    least: int
    most: int | None
    greedy: bool


class Group(NamedTuple):
    """A part whose place is remembered, from 1 on."""

    part: Node
    number: int


class Assertion(NamedTuple):
    """start, end (of the text), line_start, line_end, boundary, inside (no boundary)."""

    kind: str


Node = Union[Chars, Sequence, Choice, Repeat, Group, Assertion]  # noqa: UP007 - forward names

DIGITS: Ranges = (("0", "9"),)
WORD: Ranges = (("0", "9"), ("A", "Z"), ("_", "_"), ("a", "z"))
SPACE: Ranges = (("\t", "\n"), ("\f", "\r"), (" ", " "))
CLASSES = {"d": DIGITS, "w": WORD, "s": SPACE}
POSIX: dict[str, Ranges] = {
    "alnum": (("0", "9"), ("A", "Z"), ("a", "z")),
    "alpha": (("A", "Z"), ("a", "z")),
    "ascii": (("\0", "\x7f"),),
    "blank": (("\t", "\t"), (" ", " ")),
    "cntrl": (("\0", "\x1f"), ("\x7f", "\x7f")),
    "digit": DIGITS,
    "graph": (("!", "~"),),
    "lower": (("a", "z"),),
    "print": ((" ", "~"),),
    "punct": (("!", "/"), (":", "@"), ("[", "`"), ("{", "~")),
    "space": (("\t", "\r"), (" ", " ")),
    "upper": (("A", "Z"),),
    "word": WORD,
    "xdigit": (("0", "9"), ("A", "F"), ("a", "f")),
}
ESCAPES = {"a": "\a", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
ASSERTIONS = {"A": "start", "z": "end", "b": "boundary", "B": "inside"}
HEX = frozenset("0123456789abcdefABCDEF")


def parse(pattern: str) -> tuple[Node, int]:
    """The tree, and how many groups it has. Raises PatternError."""
    if len(pattern) > MAX_PATTERN:
        raise PatternError(f"longer than {MAX_PATTERN} characters")
    parser = _Parser(pattern)
    node = parser.choice()
    if parser.peek():
        raise PatternError("a ) without its (")
    return node, parser.groups


def inverted(ranges: Ranges) -> Ranges:
    """Every character that is not in the ranges."""
    found, begin = [], 0
    for first, last in sorted(ranges):
        if ord(first) > begin:
            found.append((chr(begin), chr(ord(first) - 1)))
        begin = max(begin, ord(last) + 1)
    if begin <= ord(LAST):
        found.append((chr(begin), LAST))
    return tuple(found)


def folded(ranges: Ranges) -> Ranges:
    """The ranges with the other case of everything in them. Beyond ASCII only single characters have one here."""
    found = set(ranges)
    for first, last in ranges:
        for low, high, shift in (("a", "z", -32), ("A", "Z", 32)):
            begin, end = max(first, low), min(last, high)
            if begin <= end:
                found.add((chr(ord(begin) + shift), chr(ord(end) + shift)))
        if first == last:
            found |= {(other, other) for other in (first.lower(), first.upper()) if len(other) == 1}
    for letter, sign in (("k", "\u212a"), ("s", "\u017f")):
        # Unicode has a second capital K (for kelvin) and a second small s.
        if any(first <= letter <= last for first, last in found):
            found.add((sign, sign))
    return tuple(sorted(found))


class _Parser:
    """A cursor over the pattern. Flags hold from where they are to the end of the group they are in."""

    def __init__(self, pattern: str) -> None:
        self._text = pattern
        self._position = 0
        self._depth = 0
        self._flags = frozenset[str]()
        self.groups = 0

    def peek(self, count: int = 1) -> str:
        """What comes next; shorter, or empty, at the end."""
        return self._text[self._position : self._position + count]

    def choice(self) -> Node:
        """Alternatives up to a `)` or the end."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise PatternError(f"more than {MAX_DEPTH} groups within each other")
        flags = self._flags
        parts = [self._sequence()]
        while self._accept("|"):
            parts.append(self._sequence())
        self._depth -= 1
        self._flags = flags
        return parts[0] if len(parts) == 1 else Choice(tuple(parts))

    def _accept(self, text: str) -> bool:
        found = self._text.startswith(text, self._position)
        self._position += len(text) * found
        return found

    def _take(self) -> str:
        if not (char := self.peek()):
            raise PatternError("it ends too early")
        self._position += 1
        return char

    def _sequence(self) -> Node:
        parts: list[Node] = []
        while self.peek() not in ("", "|", ")"):
            parts.append(self._repeated(self._atom()))
        return parts[0] if len(parts) == 1 else Sequence(tuple(parts))

    def _repeated(self, node: Node) -> Node:
        bounds = self._bounds()
        if bounds is None:
            return node
        greedy = not self._accept("?")
        if self.peek() in ("*", "+", "?") or (self.peek() == "{" and self._bounds() is not None):
            raise PatternError("one repeat behind another")
        return Repeat(node, *bounds, greedy)

    def _bounds(self) -> tuple[int, int | None] | None:
        for sign, bounds in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self._accept(sign):
                return bounds
        end = self._text.find("}", self._position)
        if self.peek() != "{" or end < 0:
            return None
        least, comma, most = self._text[self._position + 1 : end].partition(",")
        if not _is_number(least) or not (most == "" or _is_number(most)):
            return None  # then a brace is a character as others are
        self._position = end + 1
        low = int(least)
        high = low if not comma else int(most) if most else None
        if max(low, high or 0) > MAX_REPEAT or (high is not None and high < low):
            raise PatternError(f"a repeat beyond {MAX_REPEAT}, or with its bounds the wrong way round")
        return low, high

    def _atom(self) -> Node:
        char = self._take()
        if char == "(":
            return self._group()
        if char == "[":
            return Chars(self._class())
        if char == ".":
            return Chars(((chr(0), LAST),) if "s" in self._flags else inverted((("\n", "\n"),)))
        if char == "^":
            return Assertion("line_start" if "m" in self._flags else "start")
        if char == "$":
            return Assertion("line_end" if "m" in self._flags else "end")
        if char in "*+?":
            raise PatternError(f"nothing is before the {char}")
        if char == "\\":
            if self.peek() in ASSERTIONS and self.peek():
                return Assertion(ASSERTIONS[self._take()])
            return Chars(self._fold(self._escape()))
        return Chars(self._fold(((char, char),)))

    def _fold(self, ranges: Ranges) -> Ranges:
        return folded(ranges) if "i" in self._flags else ranges

    def _group(self) -> Node:
        flags = self._flags
        index = 0
        if not self._accept("?"):
            self.groups += 1
            index = self.groups
        elif self._accept("P<") or (self.peek(2) not in ("<=", "<!") and self._accept("<")):
            self._name()
            self.groups += 1
            index = self.groups
        elif self._set_flags():
            return Sequence(())
        node = self.choice()
        self._flags = flags
        if not self._accept(")"):
            raise PatternError("a ( without its )")
        return Group(node, index) if index else node

    def _name(self) -> None:
        end = self._text.find(">", self._position)
        name = self._text[self._position : end]
        if end < 0 or not name.isidentifier() or not name.isascii():
            raise PatternError("a group's name is not understood")
        self._position = end + 1

    def _set_flags(self) -> bool:
        """Read flags up to a `:`, or a `)`: then they hold for the rest of the group around, and it is true."""
        on, sign = set(self._flags), True
        while (char := self._take()) not in (":", ")"):
            if char == "-" and sign:
                sign = False
            elif char in ("i", "m", "s"):
                (on.add if sign else on.discard)(char)
            else:
                raise PatternError(f"(?{char} is not understood")
        self._flags = frozenset(on)
        return char == ")"

    def _escape(self) -> Ranges:
        """What is behind a backslash, as one character or a class."""
        char = self._take()
        if char.lower() in CLASSES:
            return CLASSES[char] if char.islower() else inverted(CLASSES[char.lower()])
        if char == "x":
            return (((code := self._hex()), code),)
        if char in ESCAPES:
            return ((ESCAPES[char], ESCAPES[char]),)
        if char.isalnum() or not char.isascii():
            raise PatternError(f"\\{char} is not understood")
        return ((char, char),)

    def _hex(self) -> str:
        if self._accept("{"):
            digits, closed, _ = self._text[self._position :].partition("}")
            self._position += len(digits) + len(closed)
        else:
            digits = self.peek(2)
            self._position += 2
        if not 1 <= len(digits) <= 6 or not HEX.issuperset(digits) or int(digits, 16) > ord(LAST):
            raise PatternError("a \\x without its digits")
        return chr(int(digits, 16))

    def _class(self) -> Ranges:
        negated = self._accept("^")
        found: list[tuple[str, str]] = []
        while not self._accept("]") or not found:
            if found and self.peek(2) in ("&&", "--", "~~"):
                raise PatternError(f"{self.peek(2)} in a class")
            found += self._item(first=not found)
        ranges = self._fold(tuple(found))
        return inverted(ranges) if negated else ranges

    def _item(self, *, first: bool) -> Ranges:
        """One character, range or named class of a class."""
        if first and self._text.startswith("]", self._position - 1) and self._text[self._position - 1] == "]":
            low: Ranges = (("]", "]"),)  # a bracket that comes first was taken, and is a character
        elif self.peek() == "[":
            return self._posix()
        else:
            char = self._take()
            low = self._escape() if char == "\\" else ((char, char),)
        if self.peek() != "-" or self.peek(2) == "-]" or len(low) != 1 or low[0][0] != low[0][1]:
            return low
        self._take()
        char = self._take()
        high = self._escape() if char == "\\" else ((char, char),)
        if len(high) != 1 or high[0][0] != high[0][1] or high[0][0] < low[0][0] or char == "[":
            raise PatternError("a range in a class is not understood")
        return ((low[0][0], high[0][0]),)

    def _posix(self) -> Ranges:
        name, closed, _ = self._text[self._position + 2 :].partition(":]")
        plain = name.removeprefix("^")
        if self.peek(2) != "[:" or not closed or plain not in POSIX:
            raise PatternError("a [ in a class: write \\[")
        self._position += len(name) + 4
        return POSIX[plain] if plain == name else inverted(POSIX[plain])


def _is_number(text: str) -> bool:
    return text.isdigit() and text.isascii() and len(text) <= 4
