"""Expressions from tokens: the half of the parser that knows terms and operators. `parser` builds on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kata.agent.policy.lexer import Token, tokens
from kata.agent.policy.syntax import (
    ArrayTerm,
    Call,
    Comprehension,
    Member,
    ObjectTerm,
    Ref,
    Scalar,
    SetTerm,
    Term,
    Var,
    refused,
)
from kata.agent.policy.values import FALSE, TRUE

if TYPE_CHECKING:
    from collections.abc import Callable

    from kata.agent.policy.syntax import Literal
    from kata.errors import KataError

MAX_DEPTH = 50
"""Of brackets within brackets, and operators within operators."""
RELATION = 1
UNION = 2
OPERATORS = {
    **dict.fromkeys(("==", "!=", "<", "<=", ">", ">="), RELATION),
    "|": UNION,
    "&": 3,
    **dict.fromkeys("+-", 4),
    **dict.fromkeys("*/%", 5),
}
"""The larger, the tighter. `in` binds less than all of them."""
CONSTANTS = {"true": TRUE, "false": FALSE, "null": None}


class TermParser:
    """A cursor over tokens, and a method for every kind of term."""

    def __init__(self, text: str) -> None:
        self._tokens = tokens(text)
        self._position = 0
        self._depth = 0
        self._wildcards = 0

    # The cursor

    @property
    def now(self) -> Token:
        """The token that comes next."""
        return self._tokens[self._position]

    def at(self, value: str) -> bool:
        """Whether a sign or word comes next."""
        token = self.now
        return token.value == value and token.kind in ("sign", "word")

    def advance(self) -> Token:
        """Take the next token; the last one stays."""
        token = self.now
        if token.kind != "end":
            self._position += 1
        return token

    def accept(self, value: str) -> bool:
        """Take a sign or word if it comes next."""
        if found := self.at(value):
            self.advance()
        return found

    def expect(self, value: str) -> Token:
        """Take a sign or word. Raises BadRequest when something else comes."""
        if not self.at(value):
            raise self.unexpected(f"{value!r} has to come here")
        return self.advance()

    def unexpected(self, hint: str) -> KataError:
        """The error for the token that comes next."""
        token = self.now
        return refused(token.line, "it ends here" if token.kind == "end" else f"{str(token.value)[:40]!r}", hint)

    # Expressions

    def expression(self, *, bar: bool = True) -> Term:
        """A term with its operators. Without `bar` a `|` is not an operator but what begins a comprehension's body."""
        self.enter()
        term = self._operators(RELATION, bar=bar)
        while self.at("in"):
            line = self.advance().line
            term = Member(line, None, term, self._operators(RELATION, bar=bar))
        self.leave()
        return term

    def with_key(self, first: Term) -> Term:
        """`key, value in collection`, of which the key was read."""
        line = self.expect(",").line
        second = self.expression()
        if not isinstance(second, Member) or second.key is not None:
            raise refused(line, "','", "a comma may stand here in `key, value in collection` only")
        return second._replace(key=first)

    def body(self, closing: str) -> tuple[Literal, ...]:
        """Literals up to a bracket, which is taken."""
        raise NotImplementedError

    def enter(self) -> None:
        """One bracket or operator deeper. Raises BadRequest when that is too deep."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise refused(self.now.line, f"more than {MAX_DEPTH} brackets and operators within each other")

    def leave(self) -> None:
        """Back again."""
        self._depth -= 1

    def _operators(self, least: int, *, bar: bool) -> Term:
        term = self._postfix()
        while self.now.kind == "sign":
            sign = str(self.now.value)
            strength = OPERATORS.get(sign, 0)
            if strength < least or (strength == UNION and not bar):
                break
            line = self.advance().line
            self.enter()
            right = self._operators(strength + 1, bar=bar)
            self.leave()
            term = Call(line, sign, (term, right))
            if strength == RELATION and OPERATORS.get(str(self.now.value)) == RELATION and self.now.kind == "sign":
                raise self.unexpected("comparisons cannot be chained")
            if self._size(term) > MAX_DEPTH:
                raise refused(line, f"more than {MAX_DEPTH} operators in a row")
        return term

    def _size(self, term: Term) -> int:
        """How many operators follow each other, as they nest to the left."""
        count = 0
        while isinstance(term, Call) and term.name in OPERATORS:
            term, count = term.args[0], count + 1
        return count

    def _postfix(self) -> Term:
        term = self._primary()
        path: list[Term] = []
        while self.now.joined and self.now.kind == "sign":
            line = self.now.line
            if self.at("("):
                term, path = self._call(line, term, path), []
            elif self.accept("."):
                path.append(self._field())
            elif self.accept("["):
                path.append(self.expression())
                self.expect("]")
            else:
                break
        if len(path) > MAX_DEPTH:
            raise refused(term.line, f"a path with more than {MAX_DEPTH} steps")
        return Ref(term.line, term, tuple(path)) if path else term

    def _field(self) -> Term:
        token = self.now
        if token.kind not in ("name", "word") or not token.joined:
            raise self.unexpected("a name has to follow the dot")
        self.advance()
        return Scalar(token.line, token.value)

    def _call(self, line: int, term: Term, path: list[Term]) -> Term:
        steps = [step.value for step in path if isinstance(step, Scalar) and isinstance(step.value, str)]
        if not isinstance(term, Var) or len(steps) != len(path):
            raise self.unexpected("only a function's name can be called")
        name = ".".join((term.name, *map(str, steps)))
        self.expect("(")
        args = self.items(")")
        return SetTerm(line, ()) if name == "set" and not args else Call(line, name, args)

    def items(self, closing: str) -> tuple[Term, ...]:
        """Expressions with commas between them up to a bracket, which is taken. One comma may be at the end."""
        found = []
        while not self.accept(closing):
            found.append(self.expression())
            if not self.at(closing):
                self.expect(",")
        return tuple(found)

    def _primary(self) -> Term:
        token = self.advance()
        if token.kind in ("number", "string"):
            return Scalar(token.line, token.value)
        if token.kind == "word" and token.value in CONSTANTS:
            return Scalar(token.line, CONSTANTS[str(token.value)])
        if token.kind == "name" or (token.value == "contains" and self.at("(")):
            return self._name(token)
        brackets: dict[object, Callable[[int], Term]] = {
            "[": self._array,
            "{": self._braces,
            "(": self._parentheses,
            "-": self._negative,
        }
        if token.kind != "sign" or token.value not in brackets:
            self._position -= token.kind != "end"
            raise self.unexpected("a value has to come here")
        return brackets[token.value](token.line)

    def _name(self, token: Token) -> Var:
        if token.value != "_":
            return Var(token.line, str(token.value))
        self._wildcards += 1
        return Var(token.line, f"${self._wildcards}")

    def _negative(self, line: int) -> Term:
        token = self.now
        if token.kind != "number" or not isinstance(token.value, (int, float)):
            raise self.unexpected("only a number can have a sign")
        self.advance()
        return Scalar(line, -token.value)

    def _parentheses(self, line: int) -> Term:
        term = self.expression()
        if self.at(","):
            term = self.with_key(term)
        self.expect(")")
        return term

    def _array(self, line: int) -> Term:
        if self.accept("]"):
            return ArrayTerm(line, ())
        first = self.expression(bar=False)
        if self.accept("|"):
            return Comprehension(line, "array", None, first, self.body("]"))
        return ArrayTerm(line, (first, *self._more("]")))

    def _braces(self, line: int) -> Term:
        if self.accept("}"):
            return ObjectTerm(line, ())
        first = self.expression(bar=False)
        if self.at(":"):
            return self._object(line, first)
        if self.accept("|"):
            return Comprehension(line, "set", None, first, self.body("}"))
        return SetTerm(line, (first, *self._more("}")))

    def _more(self, closing: str) -> tuple[Term, ...]:
        if self.accept(closing):
            return ()
        self.expect(",")
        return self.items(closing)

    def _object(self, line: int, key: Term) -> Term:
        self.expect(":")
        value = self.expression(bar=False)
        if self.accept("|"):
            return Comprehension(line, "object", key, value, self.body("}"))
        pairs = [(key, value)]
        while not self.accept("}"):
            self.expect(",")
            if self.accept("}"):
                break
            key = self.expression()
            self.expect(":")
            pairs.append((key, self.expression()))
        return ObjectTerm(line, tuple(pairs))
