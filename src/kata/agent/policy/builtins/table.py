"""What a built-in function is, and how a file of them makes its table."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from kata.agent.policy.values import Array, Set

if TYPE_CHECKING:
    from collections.abc import Callable

    from kata.agent.policy.values import Value


class Builtin(NamedTuple):
    """`run` takes the meter and `arity` arguments."""

    run: Callable[..., Value]
    arity: int


def table(functions: dict[str, Callable[..., Value]]) -> dict[str, Builtin]:
    """Functions by the name they have in a policy; how many arguments each takes is read from it."""
    return {name: Builtin(run, run.__code__.co_argcount - 1) for name, run in functions.items()}


def members(collection: Value) -> list[Value] | None:
    """What is in an array or a set, in order; None for anything else."""
    if isinstance(collection, Array):
        return list(collection.items)
    return collection.sorted() if isinstance(collection, Set) else None


def strings(collection: Value) -> list[str] | None:
    """Likewise, where all of them are strings."""
    found = members(collection)
    if found is None:
        return None
    words = [item for item in found if isinstance(item, str)]
    return words if len(words) == len(found) else None
