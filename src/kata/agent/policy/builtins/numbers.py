"""Operators, comparison and arithmetic. Integers are exact; what has a fraction is a double."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from kata.agent.policy.builtins.table import members, table
from kata.agent.policy.meter import cost
from kata.agent.policy.values import (
    MAX_NUMBER_BITS,
    UNDEFINED,
    Array,
    Boolean,
    Set,
    boolean,
    number,
    order,
    weight,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from kata.agent.policy.meter import Meter
    from kata.agent.policy.values import Value

_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


def equal(meter: Meter, left: Value, right: Value) -> Value:
    """`==`."""
    if isinstance(left, (str, int, float)):
        return boolean(left == right)
    meter.spend(cost(left, right))
    return boolean(left == right)


def unequal(meter: Meter, left: Value, right: Value) -> Value:
    """`!=`."""
    meter.spend(cost(left, right))
    return boolean(left != right)


def less(meter: Meter, left: Value, right: Value) -> Value:
    """`<`; kinds of values have an order too."""
    return boolean(_ranks(meter, left, right) < 0)


def at_most(meter: Meter, left: Value, right: Value) -> Value:
    """`<=`."""
    return boolean(_ranks(meter, left, right) <= 0)


def more(meter: Meter, left: Value, right: Value) -> Value:
    """`>`."""
    return boolean(_ranks(meter, left, right) > 0)


def at_least(meter: Meter, left: Value, right: Value) -> Value:
    """`>=`."""
    return boolean(_ranks(meter, left, right) >= 0)


def plus(meter: Meter, left: Value, right: Value) -> Value:
    """`+`."""
    return _arithmetic(left, right, lambda a, b: a + b)


def minus(meter: Meter, left: Value, right: Value) -> Value:
    """`-`, of numbers and of sets."""
    if isinstance(left, Set) and isinstance(right, Set):
        meter.spend(len(left.items))
        return Set(left.items - right.items)
    return _arithmetic(left, right, lambda a, b: a - b)


def times(meter: Meter, left: Value, right: Value) -> Value:
    """`*`."""
    return _arithmetic(left, right, lambda a, b: a * b)


def divide(meter: Meter, left: Value, right: Value) -> Value:
    """`/`: a whole number where it comes out even; undefined for a division by zero."""
    if isinstance(left, int) and isinstance(right, int) and right and left % right == 0:
        return left // right
    return UNDEFINED if right == 0 else _arithmetic(left, right, lambda a, b: a / b)


def remainder(meter: Meter, left: Value, right: Value) -> Value:
    """`%` of integers, with the sign of the first."""
    if not isinstance(left, int) or not isinstance(right, int) or not right:
        return UNDEFINED
    found = abs(left) % abs(right)
    return -found if left < 0 else found


def union_of_two(meter: Meter, left: Value, right: Value) -> Value:
    """`|`."""
    if not isinstance(left, Set) or not isinstance(right, Set):
        return UNDEFINED
    meter.spend(len(left.items) + len(right.items))
    return Set(left.items | right.items)


def intersection_of_two(meter: Meter, left: Value, right: Value) -> Value:
    """`&`."""
    if not isinstance(left, Set) or not isinstance(right, Set):
        return UNDEFINED
    meter.spend(min(len(left.items), len(right.items)))
    return Set(left.items & right.items)


def absolute(meter: Meter, value: Value) -> Value:
    """abs."""
    return abs(value) if isinstance(value, (int, float)) else UNDEFINED


def ceil(meter: Meter, value: Value) -> Value:
    """The next whole number."""
    return -int(-value // 1) if isinstance(value, (int, float)) else UNDEFINED


def floor(meter: Meter, value: Value) -> Value:
    """The whole number before."""
    return int(value // 1) if isinstance(value, (int, float)) else UNDEFINED


def rounded(meter: Meter, value: Value) -> Value:
    """The nearest whole number; a half goes away from zero."""
    if not isinstance(value, (int, float)) or isinstance(value, int):
        return value if isinstance(value, int) else UNDEFINED
    size = int(abs(value))
    size += abs(value) - size >= 0.5
    return -size if value < 0 else size


def number_range(meter: Meter, first: Value, last: Value) -> Value:
    """All integers from one to another, both included."""
    if not isinstance(first, int) or not isinstance(last, int):
        return UNDEFINED
    meter.spend(abs(last - first) + 1)
    step = 1 if first <= last else -1
    return Array(range(first, last + step, step))


def to_number(meter: Meter, value: Value) -> Value:
    """The number that a string, a boolean or null stands for."""
    if isinstance(value, (int, float)):
        return value
    if isinstance(value, Boolean):
        return int(value.value)
    if value is None:
        return 0
    if not isinstance(value, str) or len(value) > 300 or not _NUMBER.fullmatch(value):
        return UNDEFINED
    digits = value.lstrip("+-")
    return number(int(value) if digits.isdigit() else float(value))


def total(meter: Meter, value: Value) -> Value:
    """sum."""
    return _fold(meter, value, 0, lambda a, b: a + b)


def product(meter: Meter, value: Value) -> Value:
    """product."""
    return _fold(meter, value, 1, lambda a, b: a * b)


def largest(meter: Meter, value: Value) -> Value:
    """max, of values of any kind."""
    found = members(value)
    meter.spend(weight(value))
    return max(found, key=order) if found else UNDEFINED


def smallest(meter: Meter, value: Value) -> Value:
    """min."""
    found = members(value)
    meter.spend(weight(value))
    return min(found, key=order) if found else UNDEFINED


def negate(meter: Meter, value: Value) -> Value:
    """bits.negate."""
    return ~value if isinstance(value, int) else UNDEFINED


def shift_left(meter: Meter, value: Value, by: Value) -> Value:
    """bits.lsh."""
    if not isinstance(value, int) or not isinstance(by, int) or not 0 <= by <= MAX_NUMBER_BITS:
        return UNDEFINED
    return number(value << by)


def shift_right(meter: Meter, value: Value, by: Value) -> Value:
    """bits.rsh."""
    if not isinstance(value, int) or not isinstance(by, int) or not 0 <= by <= MAX_NUMBER_BITS:
        return UNDEFINED
    return value >> by


def bit_and(meter: Meter, left: Value, right: Value) -> Value:
    """bits.and."""
    return left & right if isinstance(left, int) and isinstance(right, int) else UNDEFINED


def bit_or(meter: Meter, left: Value, right: Value) -> Value:
    """bits.or."""
    return left | right if isinstance(left, int) and isinstance(right, int) else UNDEFINED


def bit_xor(meter: Meter, left: Value, right: Value) -> Value:
    """bits.xor."""
    return left ^ right if isinstance(left, int) and isinstance(right, int) else UNDEFINED


def _ranks(meter: Meter, left: Value, right: Value) -> int:
    meter.spend(cost(left, right))
    first, second = order(left), order(right)
    return (first > second) - (first < second)


def _arithmetic(left: Value, right: Value, operation: Callable[[float, float], float]) -> Value:
    if not isinstance(left, (int, float)) or not isinstance(right, (int, float)):
        return UNDEFINED
    try:
        return number(operation(left, right))
    except OverflowError:
        return UNDEFINED


def _fold(meter: Meter, value: Value, start: float, operation: Callable[[float, float], float]) -> Value:
    found = members(value)
    meter.spend(weight(value))
    if found is None:
        return UNDEFINED
    result: Value = start
    for item in found:
        result = _arithmetic(result, item, operation)
    return result


TABLE = table(
    {
        "==": equal,
        "!=": unequal,
        "<": less,
        "<=": at_most,
        ">": more,
        ">=": at_least,
        "+": plus,
        "-": minus,
        "*": times,
        "/": divide,
        "%": remainder,
        "|": union_of_two,
        "&": intersection_of_two,
        "abs": absolute,
        "ceil": ceil,
        "floor": floor,
        "round": rounded,
        "numbers.range": number_range,
        "to_number": to_number,
        "sum": total,
        "product": product,
        "max": largest,
        "min": smallest,
        "bits.negate": negate,
        "bits.lsh": shift_left,
        "bits.rsh": shift_right,
        "bits.and": bit_and,
        "bits.or": bit_or,
        "bits.xor": bit_xor,
    }
)
