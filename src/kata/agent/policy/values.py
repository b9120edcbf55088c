"""Rego's values, immutable and comparable: what the evaluator works with instead of Python's own.

Called by every file of the room. Nothing of the language's syntax belongs here.

null is None, numbers are int and float, strings are str; booleans, arrays, objects and sets are classes of this file.
Python's own would be wrong: there True equals 1, and a set or a key cannot hold a list. `UNDEFINED` is what an
expression without a value gives; it is never part of another value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kata.agent.errors import AgentError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

Value = object
"""None, Boolean, int, float, str, Array, Object or Set."""
MAX_WEIGHT = 1 << 20
"""Of one value. A scalar weighs 1, a string 1 more for every 16 characters, a collection the sum of what is in it."""
MAX_NUMBER_BITS = 1024


class EvaluationError(AgentError):
    """A decision could not be made: the policy contradicts itself, or asks for too much."""


class Undefined:
    """The type of `UNDEFINED`."""

    def __repr__(self) -> str:
        return "<undefined>"


UNDEFINED: Final = Undefined()


class Boolean:
    """One of `TRUE` and `FALSE`; compared by identity."""

    __slots__ = ("value",)

    def __init__(self, value: bool) -> None:
        self.value = value

    def __repr__(self) -> str:
        return "true" if self.value else "false"


TRUE: Final = Boolean(True)
FALSE: Final = Boolean(False)


def boolean(value: bool) -> Boolean:
    """Rego's form of a Python bool."""
    return TRUE if value else FALSE


class Array:
    """A list of values."""

    __slots__ = ("_hash", "items", "weight")

    def __init__(self, items: Iterable[Value] = ()) -> None:
        self.items = tuple(items)
        self.weight = _sum(self.items)
        self._hash: int | None = None

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Array) and self.items == other.items)

    def __hash__(self) -> int:
        # Kept: a value that holds one other many times would be walked many times.
        if self._hash is None:
            self._hash = hash(self.items)
        return self._hash


class Object:
    """Values by key; any value is a key. Iteration goes by the order of the keys, as in Rego."""

    __slots__ = ("_hash", "_keys", "items", "weight")

    def __init__(self, items: Mapping[Value, Value]) -> None:
        self.items = dict(items)
        self.weight = _sum(self.items) + _sum(self.items.values())
        self._hash: int | None = None
        self._keys: list[Value] | None = None

    def keys(self) -> list[Value]:
        """The keys in order; not to be changed."""
        if self._keys is None:
            self._keys = ordered(self.items)
        return self._keys

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Object) and self.items == other.items)

    def __hash__(self) -> int:
        if self._hash is None:
            self._hash = hash(frozenset(self.items.items()))
        return self._hash


class Set:
    """Different values, iterated in order."""

    __slots__ = ("_hash", "_sorted", "items", "weight")

    def __init__(self, items: Iterable[Value] = ()) -> None:
        self.items = frozenset(items)
        self.weight = _sum(self.items)
        self._hash: int | None = None
        self._sorted: list[Value] | None = None

    def sorted(self) -> list[Value]:
        """The members in order; not to be changed."""
        if self._sorted is None:
            self._sorted = ordered(self.items)
        return self._sorted

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Set) and self.items == other.items)

    def __hash__(self) -> int:
        if self._hash is None:
            self._hash = hash(self.items)
        return self._hash


def weight(value: Value) -> int:
    """How large a value is; see MAX_WEIGHT."""
    if isinstance(value, str):
        return 1 + (len(value) >> 4)
    if isinstance(value, (Array, Object, Set)):
        return value.weight
    return 1


def number(value: int | float) -> Value:
    """A number as a value: a whole one is an int, however it was made. UNDEFINED for what is not finite.

    Raises EvaluationError for an integer beyond MAX_NUMBER_BITS.
    """
    if isinstance(value, float):
        if value - value != 0:  # infinite, or not a number
            return UNDEFINED
        return int(value) if value.is_integer() and abs(value) < 1 << 53 else value
    if value.bit_length() > MAX_NUMBER_BITS:
        raise EvaluationError(f"a number has more than {MAX_NUMBER_BITS} bits")
    return value


def ordered(items: Iterable[Value]) -> list[Value]:
    """Values in Rego's order: null, booleans, numbers, strings, arrays, objects, sets."""
    return sorted(items, key=order)


def order(value: Value) -> tuple[object, ...]:
    """What to compare instead of the value."""
    if isinstance(value, str):
        return (3, value)
    if isinstance(value, (int, float)):
        return (2, value)
    if isinstance(value, Array):
        return (4, tuple(order(item) for item in value.items))
    if isinstance(value, Object):
        return (5, tuple((order(key), order(value.items[key])) for key in value.keys()))  # noqa: SIM118 - in order
    if isinstance(value, Set):
        return (6, tuple(order(item) for item in value.sorted()))
    if isinstance(value, Boolean):
        return (1, value.value)
    return (0,)


def from_json(value: object) -> Value:
    """The value of what `json.loads` gives. Raises EvaluationError for what is too large or not finite."""
    if isinstance(value, bool):
        return boolean(value)
    if isinstance(value, (int, float)):
        found = number(value)
        if found is UNDEFINED:
            raise EvaluationError("a number is not finite")
        return found
    if isinstance(value, list):
        return Array(from_json(item) for item in value)
    if isinstance(value, dict):
        return Object({key: from_json(item) for key, item in value.items()})
    return value


def to_json(value: Value) -> object:
    """What `json.dumps` takes; a set is a list there, a key that is no string is its text."""
    if isinstance(value, Boolean):
        return value.value
    if isinstance(value, Array):
        return [to_json(item) for item in value.items]
    if isinstance(value, Set):
        return [to_json(item) for item in value.sorted()]
    if isinstance(value, Object):
        return {_key(key): to_json(value.items[key]) for key in value.keys()}  # noqa: SIM118 - in order
    return value


def entries(collection: Value) -> Iterator[tuple[Value, Value]]:
    """(key, value) of everything in a collection; a set's members are keys of themselves. Nothing for the rest."""
    if isinstance(collection, Array):
        yield from enumerate(collection.items)
    elif isinstance(collection, Object):
        for key in collection.keys():  # noqa: SIM118 - in order
            yield key, collection.items[key]
    elif isinstance(collection, Set):
        for item in collection.sorted():
            yield item, item


def lookup(collection: Value, key: Value) -> Value:
    """What a collection has under a key; UNDEFINED for nothing, and for what is no collection."""
    if isinstance(collection, Object):
        return collection.items.get(key, UNDEFINED)
    if isinstance(collection, Array):
        if isinstance(key, int) and 0 <= key < len(collection.items):
            return collection.items[key]
    elif isinstance(collection, Set) and key in collection.items:
        return key
    return UNDEFINED


def _key(key: Value) -> str:
    if isinstance(key, str):
        return key
    import json

    return json.dumps(to_json(key))


def _sum(items: Iterable[Value]) -> int:
    total = 1
    for item in items:
        total += weight(item)
    if total > MAX_WEIGHT:
        raise EvaluationError(f"a value is larger than {MAX_WEIGHT} units")
    return total
