"""Functions of arrays, objects and sets, and those that ask what kind a value is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kata.agent.policy.builtins.table import members, table
from kata.agent.policy.values import (
    FALSE,
    TRUE,
    UNDEFINED,
    Array,
    Boolean,
    Object,
    Set,
    boolean,
    lookup,
    ordered,
    weight,
)

if TYPE_CHECKING:
    from kata.agent.policy.meter import Meter
    from kata.agent.policy.values import Value

KINDS = {
    str: "string",
    int: "number",
    float: "number",
    Boolean: "boolean",
    Array: "array",
    Object: "object",
    Set: "set",
}


def count(meter: Meter, value: Value) -> Value:
    """How many elements, or characters."""
    if isinstance(value, str):
        return len(value)
    return len(value.items) if isinstance(value, (Array, Object, Set)) else UNDEFINED


def sort(meter: Meter, value: Value) -> Value:
    """An array in order."""
    found = members(value)
    if found is None:
        return UNDEFINED
    meter.spend(2 * weight(value))
    return Array(ordered(found))


def every(meter: Meter, value: Value) -> Value:
    """all: whether everything is true."""
    found = members(value)
    return UNDEFINED if found is None else boolean(all(item is TRUE for item in found))


def some(meter: Meter, value: Value) -> Value:
    """any: whether something is true."""
    found = members(value)
    return UNDEFINED if found is None else boolean(any(item is TRUE for item in found))


def array_concat(meter: Meter, left: Value, right: Value) -> Value:
    """One array behind another."""
    if not isinstance(left, Array) or not isinstance(right, Array):
        return UNDEFINED
    meter.spend(len(left.items) + len(right.items))
    return Array(left.items + right.items)


def array_slice(meter: Meter, value: Value, begin: Value, end: Value) -> Value:
    """A part of an array; bounds beyond its ends are its ends."""
    if not isinstance(value, Array) or not isinstance(begin, int) or not isinstance(end, int):
        return UNDEFINED
    found = value.items[max(begin, 0) : max(end, 0)]
    meter.spend(len(found))
    return Array(found)


def array_reverse(meter: Meter, value: Value) -> Value:
    """An array the other way round."""
    if not isinstance(value, Array):
        return UNDEFINED
    meter.spend(len(value.items))
    return Array(value.items[::-1])


def union(meter: Meter, value: Value) -> Value:
    """Of a set of sets."""
    if not isinstance(value, Set):
        return UNDEFINED
    found = [item.items for item in value.items if isinstance(item, Set)]
    meter.spend(value.weight)
    return Set(frozenset[object]().union(*found)) if len(found) == len(value.items) else UNDEFINED


def intersection(meter: Meter, value: Value) -> Value:
    """Of a set of sets; empty for none."""
    if not isinstance(value, Set):
        return UNDEFINED
    found = [item.items for item in value.items if isinstance(item, Set)]
    meter.spend(value.weight)
    if len(found) != len(value.items):
        return UNDEFINED
    return Set(found[0].intersection(*found[1:])) if found else Set()


def object_get(meter: Meter, value: Value, key: Value, default: Value) -> Value:
    """What is under a key, or behind a path (an array), or else the default."""
    found = value
    meter.spend(weight(key))
    for step in key.items if isinstance(key, Array) else (key,):
        found = lookup(found, step)
    return default if found is UNDEFINED else found


def object_keys(meter: Meter, value: Value) -> Value:
    """The set of an object's keys."""
    if not isinstance(value, Object):
        return UNDEFINED
    meter.spend(len(value.items))
    return Set(value.items)


def object_remove(meter: Meter, value: Value, keys: Value) -> Value:
    """An object without some keys: an array, a set, or another object's."""
    unwanted = _keys(keys)
    if not isinstance(value, Object) or unwanted is None:
        return UNDEFINED
    meter.spend(len(value.items) + weight(keys))
    return Object({key: item for key, item in value.items.items() if key not in unwanted})


def object_filter(meter: Meter, value: Value, keys: Value) -> Value:
    """An object with some keys only."""
    wanted = _keys(keys)
    if not isinstance(value, Object) or wanted is None:
        return UNDEFINED
    meter.spend(len(value.items) + weight(keys))
    return Object({key: item for key, item in value.items.items() if key in wanted})


def object_union(meter: Meter, left: Value, right: Value) -> Value:
    """Two objects as one; where both have a key, objects are joined likewise and else the second counts."""
    if not isinstance(left, Object) or not isinstance(right, Object):
        return UNDEFINED
    meter.spend(len(left.items) + len(right.items))
    found = dict(left.items)
    for key, item in right.items.items():
        old = found.get(key)
        both = isinstance(old, Object) and isinstance(item, Object)
        found[key] = object_union(meter, old, item) if both else item
    return Object(found)


def object_union_n(meter: Meter, value: Value) -> Value:
    """Likewise, of an array of objects."""
    found: Value = Object({})
    for item in value.items if isinstance(value, Array) else (UNDEFINED,):
        found = object_union(meter, found, item)
    return found


def object_subset(meter: Meter, whole: Value, part: Value) -> Value:
    """Whether all of the second is in the first: keys and values, members, or a run of an array."""
    meter.spend(weight(part))
    if isinstance(whole, Object) and isinstance(part, Object):
        return boolean(all(_covers(meter, lookup(whole, key), item) for key, item in part.items.items()))
    if isinstance(whole, Set) and isinstance(part, Set):
        return boolean(part.items <= whole.items)
    if isinstance(whole, Array) and isinstance(part, Set):
        meter.spend(weight(whole))
        return boolean(part.items <= set(whole.items))
    if isinstance(whole, Array) and isinstance(part, Array):
        size, places = len(part.items), len(whole.items) - len(part.items) + 1
        meter.spend(max(places, 0) * weight(part))
        return boolean(any(whole.items[at : at + size] == part.items for at in range(places)))
    return UNDEFINED


def type_name(meter: Meter, value: Value) -> Value:
    """The name of a value's kind."""
    return KINDS.get(type(value), "null")


def is_null(meter: Meter, value: Value) -> Value:
    """Whether it is null."""
    return boolean(value is None)


def is_string(meter: Meter, value: Value) -> Value:
    """Whether it is a string."""
    return boolean(isinstance(value, str))


def is_numeric(meter: Meter, value: Value) -> Value:
    """Whether it is a number."""
    return boolean(isinstance(value, (int, float)))


def is_boolean(meter: Meter, value: Value) -> Value:
    """Whether it is a boolean."""
    return boolean(isinstance(value, Boolean))


def is_array(meter: Meter, value: Value) -> Value:
    """Whether it is an array."""
    return boolean(isinstance(value, Array))


def is_object(meter: Meter, value: Value) -> Value:
    """Whether it is an object."""
    return boolean(isinstance(value, Object))


def is_set(meter: Meter, value: Value) -> Value:
    """Whether it is a set."""
    return boolean(isinstance(value, Set))


def _keys(value: Value) -> set[Value] | None:
    return set(value.items) if isinstance(value, (Array, Object, Set)) else None


def _covers(meter: Meter, whole: Value, part: Value) -> bool:
    if isinstance(whole, Object) and isinstance(part, Object):
        return object_subset(meter, whole, part) is not FALSE
    return whole == part


TABLE = table(
    {
        "count": count,
        "sort": sort,
        "all": every,
        "any": some,
        "array.concat": array_concat,
        "array.slice": array_slice,
        "array.reverse": array_reverse,
        "union": union,
        "intersection": intersection,
        "object.get": object_get,
        "object.keys": object_keys,
        "object.remove": object_remove,
        "object.filter": object_filter,
        "object.union": object_union,
        "object.union_n": object_union_n,
        "object.subset": object_subset,
        "type_name": type_name,
        "is_null": is_null,
        "is_string": is_string,
        "is_number": is_numeric,
        "is_boolean": is_boolean,
        "is_array": is_array,
        "is_object": is_object,
        "is_set": is_set,
    }
)
