"""Which names a body has, and where their values are kept. Called by the compiler."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kata.agent.policy.syntax import (
    ArrayTerm,
    Assign,
    Call,
    Comprehension,
    Declare,
    Every,
    Literal,
    Member,
    Not,
    ObjectTerm,
    Print,
    Ref,
    Scalar,
    SetTerm,
    SomeIn,
    Term,
    Test,
    Unify,
    Var,
    With,
    refused,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class Unbound(Exception):  # noqa: N818 - not an error yet: the literal may be ready later
    """A name has no value where one is needed."""

    def __init__(self, line: int, name: str) -> None:
        super().__init__(name)
        self.line = line
        self.name = "_" if name.startswith("$") else name


class Slots:
    """The places of one definition."""

    def __init__(self) -> None:
        self.size = 0

    def new(self) -> int:
        """One more place."""
        self.size += 1
        return self.size - 1


class Scope:
    """The names of one body, with those of the bodies around it."""

    def __init__(self, slots: Slots, parent: Scope | None) -> None:
        self.slots = slots
        self.parent = parent
        self.names: dict[str, int] = {}

    def declare(self, name: str) -> int:
        """A place for a name of this body."""
        if name not in self.names:
            self.names[name] = self.slots.new()
        return self.names[name]

    def find(self, name: str) -> int | None:
        """The place of a name; None for a name that no body around here has."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.names:
                return scope.names[name]
            scope = scope.parent
        return None


def declared(literals: Iterable[Literal]) -> Iterator[tuple[int, str]]:
    """(line, name) of what `:=` and `some` declare in a body, not in those within it."""
    for literal in literals:
        while isinstance(literal, With):
            literal = literal.literal
        if isinstance(literal, Assign):
            yield from ((literal.line, name) for name in term_names(literal.target))
        elif isinstance(literal, Declare):
            yield from ((literal.line, name) for name in literal.names)
        elif isinstance(literal, SomeIn):
            for term in (literal.key, literal.value):
                yield from ((literal.line, name) for name in term_names(term) if term is not None)


def declare_all(scope: Scope, literals: tuple[Literal, ...], heads: Iterable[Term], known: Iterable[str]) -> None:
    """Give a place to every name that a body has of its own: declared, or neither around it nor in `known`."""
    for line, name in declared(literals):
        if name in scope.names:
            raise refused(line, f"{name} is declared already")
        scope.declare(name)
    for literal in literals:
        for name in literal_names(literal):
            if name not in known and scope.find(name) is None:
                scope.declare(name)
    for head in heads:
        for name in term_names(head):
            if name not in known and scope.find(name) is None:
                scope.declare(name)


def literal_names(literal: Literal) -> Iterator[str]:
    """All names in a literal, without those in bodies within it."""
    if isinstance(literal, Test):
        yield from term_names(literal.term)
    elif isinstance(literal, (Assign, Unify)):
        for term in literal[1:]:
            yield from term_names(term)
    elif isinstance(literal, SomeIn):
        for part in (literal.key, literal.value, literal.collection):
            yield from term_names(part)
    elif isinstance(literal, Every):
        yield from term_names(literal.collection)
    elif isinstance(literal, Print):
        for term in literal.args:
            yield from term_names(term)
    elif isinstance(literal, (Not, With)):
        yield from literal_names(literal.literal)
        if isinstance(literal, With):
            yield from term_names(literal.value)


def term_names(term: Term | None) -> Iterator[str]:
    """All names in a term, without those in bodies within it."""
    if isinstance(term, Var):
        yield term.name
    elif term is not None and not isinstance(term, (Scalar, Comprehension)):
        for part in parts(term):
            yield from term_names(part)


def parts(term: Term) -> Iterator[Term | None]:
    """The terms that a term is made of."""
    if isinstance(term, Ref):
        yield term.head
        yield from term.path
    elif isinstance(term, Call):
        yield from term.args
    elif isinstance(term, (ArrayTerm, SetTerm)):
        yield from term.items
    elif isinstance(term, ObjectTerm):
        for pair in term.items:
            yield from pair
    elif isinstance(term, Member):
        yield from (term.key, term.value, term.collection)
