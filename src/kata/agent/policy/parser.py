"""A policy's text as a `Module`: rules, bodies and literals. The door of the half of this room that reads.

Everything that is not understood is refused here, with its line.
"""

from __future__ import annotations

from typing import NamedTuple

from kata.agent.policy.syntax import (
    Assign,
    Branch,
    Declare,
    Every,
    Literal,
    Member,
    Module,
    Not,
    Print,
    Ref,
    Rule,
    Scalar,
    SomeIn,
    Term,
    Test,
    Unify,
    Var,
    With,
    refused,
)
from kata.agent.policy.terms import TermParser
from kata.agent.policy.values import TRUE

KEYWORDS = frozenset(("in", "every", "if", "contains"))


def parse_module(text: str, package: str) -> Module:
    """The rules of a text. Raises BadRequest that names the line and what is not understood there."""
    try:
        return Parser(text).module(package)
    except RecursionError:
        raise refused(1, "the policy is nested too deeply") from None


class Head(NamedTuple):
    """What a rule begins with. `value` is None where none is said."""

    line: int
    name: str
    kind: str
    args: tuple[Term, ...]
    key: Term | None
    value: Term | None


class Parser(TermParser):
    """The whole language."""

    def module(self, package: str) -> Module:
        """Everything from the package's name to the end of the text."""
        self._package(package)
        imports: dict[str, Ref] = {}
        while self.at("import"):
            self._import(imports)
        rules: list[Rule] = []
        while self.now.kind != "end":
            if not self.now.fresh and not self._tokens[self._position - 1].value == ";":
                raise self.unexpected("a rule begins on a line of its own")
            rules += self._rule()
            while self.accept(";"):
                pass
        return Module(imports, tuple(rules))

    # Head of the text

    def _package(self, package: str) -> None:
        line = self.now.line
        if not self.accept("package") or not isinstance(name := self.expression(), Var) or name.name != package:
            raise refused(line, "the package", f"`package {package}` has to come first")

    def _import(self, imports: dict[str, Ref]) -> None:
        line = self.expect("import").line
        target = self._postfix()
        path = _path(target)
        name = path[-1] if path else ""
        if self.accept("as"):
            name = str(self._plain_name().name)
        if path == ("rego", "v1") or (path[:2] == ("future", "keywords") and KEYWORDS.issuperset(path[2:])):
            return
        if not isinstance(target, Ref) or path[:1] not in (("input",), ("data",)):
            raise refused(line, "this import", "rego.v1, future.keywords and paths from input and data are understood")
        if name in imports:
            raise refused(line, f"{name} is imported already")
        imports[name] = target

    def _plain_name(self) -> Var:
        token = self.advance()
        if token.kind != "name":
            self._position -= token.kind != "end"
            raise self.unexpected("a name has to come here")
        return self._name(token)

    # Rules

    def _rule(self) -> list[Rule]:
        if self.at("default"):
            return [self._default()]
        head = self._head()
        if self.at("{"):
            return self._old_bodies(head)
        branches = [self._branch(head.line, head.value)]
        if self.at("else") and head.kind in ("set", "object"):
            raise self.unexpected("only complete rules and functions have an `else`")
        while self.at("else"):
            branches.append(self._else())
        if head.value is None and not branches[0].body and head.kind not in ("set",):
            raise self.unexpected("a rule needs a value or a body")
        return [_make(head, branches)]

    def _default(self) -> Rule:
        line = self.expect("default").line
        name = self._plain_name().name
        if not self.accept(":=") and not self.accept("="):
            raise self.unexpected("a default has the form `default name := value`")
        return Rule(line, name, "complete", (), None, (Branch(line, self.expression(), ()),), True)

    def _head(self) -> Head:
        line = self.now.line
        name = self._plain_name().name
        kind, key = "complete", None
        args: tuple[Term, ...] = ()
        dotted = False
        if self.now.joined and self.accept("("):
            kind, args = "function", self.items(")")
        elif self.now.joined and self.accept("["):
            kind, key = "object", self.expression()
            self.expect("]")
        elif self.now.joined and self.accept("."):
            kind, key, dotted = "object", self._field(), True
        elif self.accept("contains"):
            kind, key = "set", self.expression()
        if self.now.joined and (self.at(".") or self.at("[")):
            raise self.unexpected("a rule's name has one step of a path at most")
        value = None
        if kind != "set" and (self.accept(":=") or self.accept("=")):
            value = self.expression()
        if kind == "object" and value is None and not dotted:
            if self.at("if"):
                raise self.unexpected(f"say `{name} contains` for a set, or `:= true` for an object")
            kind = "set"
        return Head(line, name, kind, args, key, value)

    def _old_bodies(self, head: Head) -> list[Rule]:
        """Bodies without `if`; each further one is one more definition with the same head."""
        found = []
        while self.at("{"):
            branches = [self._branch(head.line, head.value)]
            while self.at("else") and head.kind in ("complete", "function"):
                branches.append(self._else())
            found.append(_make(head, branches))
        return found

    def _else(self) -> Branch:
        line = self.expect("else").line
        value = self.expression() if self.accept(":=") or self.accept("=") else None
        return self._branch(line, value)

    def _branch(self, line: int, value: Term | None) -> Branch:
        literals: tuple[Literal, ...] = ()
        if self.accept("if"):
            literals = self._braced() if self.at("{") else (self.literal(),)
        elif self.at("{"):
            literals = self._braced()
        return Branch(line, Scalar(line, TRUE) if value is None else value, literals)

    def _braced(self) -> tuple[Literal, ...]:
        self.expect("{")
        return self.body("}")

    # Bodies

    def body(self, closing: str) -> tuple[Literal, ...]:
        """Literals, each on a line of its own or with a `;` between, up to a bracket, which is taken."""
        self.enter()
        found = [self.literal()]
        while not self.accept(closing):
            if not self.accept(";") and not self.now.fresh:
                raise self.unexpected("a line or a `;` ends an expression")
            if not self.at(closing):
                found.append(self.literal())
        self.leave()
        return tuple(found)

    def literal(self) -> Literal:
        """One condition of a body, with what replaces input or data for it."""
        found = self._plain_literal()
        while self.at("with"):
            line = self.advance().line
            target = _path(self._postfix())
            if target[:1] not in (("input",), ("data",)) or target == ("data",):
                raise refused(line, "this `with`", "it can replace input, or a path from input or data on")
            self.expect("as")
            found = With(line, found, target, self.expression())
        return found

    def _plain_literal(self) -> Literal:
        line = self.now.line
        if self.accept("not"):
            return Not(line, self._inner_literal())
        if self.accept("some"):
            return self._some(line)
        if self.accept("every"):
            return self._every(line)
        if self.now.value == "print" and self.now.kind == "name" and self._tokens[self._position + 1].value == "(":
            self.advance()
            self.expect("(")
            return Print(line, self.items(")"))
        return self._relation(line)

    def _inner_literal(self) -> Literal:
        if any(self.at(word) for word in ("some", "every", "not")):
            raise self.unexpected("`not` is followed by an expression")
        return self._relation(self.now.line)

    def _relation(self, line: int) -> Literal:
        term = self.expression()
        if self.at(","):
            return Test(line, self.with_key(term))
        if self.accept(":="):
            return Assign(line, term, self.expression())
        if self.accept("="):
            return Unify(line, term, self.expression())
        return Test(line, term)

    def _some(self, line: int) -> Literal:
        term = self.expression()
        if self.at(",") and not isinstance(term, Member):
            names: list[Term] = [term]
            while self.accept(","):
                names.append(self.expression())
            last = names[-1]
            if isinstance(last, Member) and len(names) == 2:
                return SomeIn(line, names[0], last.value, last.collection)
            return Declare(line, tuple(_declared(name) for name in names))
        if isinstance(term, Member):
            return SomeIn(line, None, term.value, term.collection)
        return Declare(line, (_declared(term),))

    def _every(self, line: int) -> Literal:
        key, value = None, self._plain_name()
        if self.accept(","):
            key, value = value, self._plain_name()
        self.expect("in")
        collection = self._operators(1, bar=True)
        return Every(line, key, value, collection, self._braced())


def _make(head: Head, branches: list[Branch]) -> Rule:
    return Rule(head.line, head.name, head.kind, head.args, head.key, tuple(branches), False)


def _path(term: Term) -> tuple[str, ...]:
    """The names of a path that has nothing else; empty for everything else."""
    if isinstance(term, Var):
        return (term.name,)
    if not isinstance(term, Ref) or not isinstance(term.head, Var):
        return ()
    names = [step.value for step in term.path if isinstance(step, Scalar) and isinstance(step.value, str)]
    return (term.head.name, *map(str, names)) if len(names) == len(term.path) else ()


def _declared(term: Term) -> str:
    if not isinstance(term, Var):
        raise refused(term.line, "`some`", "it declares names, or iterates with `in`")
    return term.name
