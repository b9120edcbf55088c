"""The parts of a policy's text as values: what the parser gives and the compiler reads. No behaviour here.

`line` is where a part begins, for messages and for the name of what is printed.
"""

from __future__ import annotations

from typing import NamedTuple, Union

from kata.agent.errors import BadRequest


class Scalar(NamedTuple):
    """A constant that is no collection."""

    line: int
    value: object


class Var(NamedTuple):
    """A name. Every `_` of a text is a name of its own: `$1`, `$2` and so on."""

    line: int
    name: str


class Ref(NamedTuple):
    """`head.a[b]`: a name, or an expression that has a value of its own, and a path into it."""

    line: int
    head: Term
    path: tuple[Term, ...]


class Call(NamedTuple):
    """`name(...)`, and every operator: `plus`, `eq` and so on are functions with an operator's sign as name."""

    line: int
    name: str
    args: tuple[Term, ...]


class ArrayTerm(NamedTuple):
    """`[a, b]`."""

    line: int
    items: tuple[Term, ...]


class SetTerm(NamedTuple):
    """`{a, b}` and `set()`."""

    line: int
    items: tuple[Term, ...]


class ObjectTerm(NamedTuple):
    """`{a: b}`."""

    line: int
    items: tuple[tuple[Term, Term], ...]


class Comprehension(NamedTuple):
    """`[head | body]`; `kind` is array, set or object, and only an object's has a key."""

    line: int
    kind: str
    key: Term | None
    head: Term
    body: tuple[Literal, ...]


class Member(NamedTuple):
    """`value in collection`, `key, value in collection`: a question, it binds nothing."""

    line: int
    key: Term | None
    value: Term
    collection: Term


Term = Union[Scalar, Var, Ref, Call, ArrayTerm, SetTerm, ObjectTerm, Comprehension, Member]  # noqa: UP007 - forward names


class Test(NamedTuple):
    """An expression that has to be neither false nor undefined."""

    line: int
    term: Term


class Assign(NamedTuple):
    """`target := value`: declares the names in the target."""

    line: int
    target: Term
    value: Term


class Unify(NamedTuple):
    """`left = right`: binds what is not bound yet, on either side."""

    line: int
    left: Term
    right: Term


class Declare(NamedTuple):
    """`some a, b`."""

    line: int
    names: tuple[str, ...]


class SomeIn(NamedTuple):
    """`some key, value in collection`: declares the names in key and value, and iterates."""

    line: int
    key: Term | None
    value: Term
    collection: Term


class Every(NamedTuple):
    """`every key, value in collection { body }`; each of the two is a single name."""

    line: int
    key: Var | None
    value: Var
    collection: Term
    body: tuple[Literal, ...]


class Not(NamedTuple):
    """`not literal`."""

    line: int
    literal: Literal


class Print(NamedTuple):
    """`print(...)`: always true."""

    line: int
    args: tuple[Term, ...]


class With(NamedTuple):
    """`literal with input.a as value`: `target` is the path from `input` or `data` on."""

    line: int
    literal: Literal
    target: tuple[str, ...]
    value: Term


Literal = Union[Test, Assign, Unify, Declare, SomeIn, Every, Not, Print, With]  # noqa: UP007 - forward names


class Branch(NamedTuple):
    """A value and the body that it needs; a rule has one, and one more for each `else`."""

    line: int
    value: Term
    body: tuple[Literal, ...]


class Rule(NamedTuple):
    """One definition. `kind` is complete, function, set or object; `key` is an object's key, or a set's member."""

    line: int
    name: str
    kind: str
    args: tuple[Term, ...]
    key: Term | None
    branches: tuple[Branch, ...]
    is_default: bool


class Module(NamedTuple):
    """A whole text. `imports`: names for paths from `input` or `data` on."""

    imports: dict[str, Ref]
    rules: tuple[Rule, ...]


def refused(line: int, why: str, hint: str = "") -> BadRequest:
    """The error for everything that is not understood when a policy is set."""
    return BadRequest(f"the policy's line {line} is not understood: {why}", hint=hint)
