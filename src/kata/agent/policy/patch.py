"""The changes of state that a rule asks for with its answer: a JSON patch (RFC 6902), all of it or nothing.

Called by `decide`. The state is what policies see as `data.pstate`; a patch that names anything else is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kata.agent.policy.values import UNDEFINED, Array, EvaluationError, Object, from_json, lookup, to_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from kata.agent.policy.values import Value

ROOT = "pstate"
MAX_OPS = 1000


def apply(state: Value, ops: Value) -> Value:
    """The state after all operations. Raises EvaluationError for one that cannot be done; nothing is changed then."""
    if not isinstance(ops, Array) or len(ops.items) > MAX_OPS:
        raise EvaluationError(f"ops is not an array of at most {MAX_OPS} operations")
    whole: Value = Object({ROOT: state})
    for op in ops.items:
        whole = _apply(whole, op)
    return lookup(whole, ROOT)


def _apply(whole: Value, op: Value) -> Value:
    kind = lookup(op, "op")
    path = _path(op, "path")
    if kind == "test":
        if _get(whole, path) != _value(op):
            raise EvaluationError(f"the state does not have what the test of {_written(path)} says")
        return whole
    if kind == "remove":
        return _remove(whole, path)
    if kind == "replace":
        _get(whole, path)
        return _change(whole, path, lambda place, step: _set(place, step, _value(op)))
    if kind in ("move", "copy"):
        source = _path(op, "from")
        if kind == "move" and path[: len(source)] == source and path != source:
            raise EvaluationError(f"{_written(source)} cannot be moved into itself")
        found = _get(whole, source)
        return _add(_remove(whole, source) if kind == "move" else whole, path, found)
    if kind == "add":
        return _add(whole, path, _value(op))
    raise EvaluationError(f"{kind!r} is no operation of a JSON patch")


def _path(op: Value, name: str) -> list[str]:
    text = lookup(op, name)
    if not isinstance(text, str) or not text.startswith("/"):
        raise EvaluationError(f"an operation has no {name}")
    steps = [step.replace("~1", "/").replace("~0", "~") for step in text[1:].split("/")]
    if steps[0] != ROOT or len(steps) > 50:
        raise EvaluationError(f"the path {text[:200]!r} is not in /{ROOT}")
    return steps


def _value(op: Value) -> Value:
    found = lookup(op, "value")
    if found is UNDEFINED:
        raise EvaluationError("an operation has no value")
    return from_json(to_json(found))  # the state is JSON: it has no sets


def _get(whole: Value, path: list[str]) -> Value:
    found = whole
    for step in path:
        found = lookup(found, _index(found, step) if isinstance(found, Array) else step)
        if found is UNDEFINED:
            raise EvaluationError(f"{_written(path)} is not in the state")
    return found


def _add(whole: Value, path: list[str], value: Value) -> Value:
    return _change(whole, path, lambda place, step: _insert(place, step, value))


def _remove(whole: Value, path: list[str]) -> Value:
    if path == [ROOT]:
        raise EvaluationError("the state as a whole cannot be removed")
    _get(whole, path)
    return _change(whole, path, _delete)


def _change(place: Value, path: list[str], change: Callable[[Value, str], Value]) -> Value:
    """A value with something behind a path changed: everything on the way is made anew."""
    if len(path) == 1:
        return change(place, path[0])
    step: Value = _index(place, path[0]) if isinstance(place, Array) else path[0]
    inner = lookup(place, step)
    if inner is UNDEFINED:
        raise EvaluationError(f"{_written(path)} is not in the state")
    return _set(place, path[0], _change(inner, path[1:], change))


def _set(place: Value, step: str, value: Value) -> Value:
    if isinstance(place, Object):
        return Object({**place.items, step: value})
    if isinstance(place, Array):
        at = _index(place, step)
        return Array((*place.items[:at], value, *place.items[at + 1 :]))
    raise EvaluationError(f"nothing can be put at {step!r} in the state")


def _insert(place: Value, step: str, value: Value) -> Value:
    if not isinstance(place, Array):
        return _set(place, step, value)
    at = len(place.items) if step == "-" else _index(place, step)
    if at > len(place.items):
        raise EvaluationError(f"{step!r} is beyond an array's end")
    return Array((*place.items[:at], value, *place.items[at:]))


def _delete(place: Value, step: str) -> Value:
    if isinstance(place, Array):
        at = _index(place, step)
        return Array((*place.items[:at], *place.items[at + 1 :]))
    assert isinstance(place, Object)  # it was looked up before
    return Object({key: item for key, item in place.items.items() if key != step})


def _index(place: Array, step: str) -> int:
    if not step.isdigit() or not step.isascii() or (step[0] == "0" and step != "0") or len(step) > 9:
        raise EvaluationError(f"{step!r} is no place in an array")
    return int(step)


def _written(path: list[str]) -> str:
    return "/" + "/".join(path)[:200]
