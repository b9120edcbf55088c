"""Literals as steps, in an order in which they can be evaluated. Called by `rules`.

Safety: every name needs a literal that gives it a value. Literals keep the order of the text, save that one which
needs a name goes behind the one that gives it a value; if there is none, the policy is refused.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from kata.agent.policy.compiler import MAX_ATTEMPTS, TermCompiler
from kata.agent.policy.program import Body, Env, Step
from kata.agent.policy.scope import Scope, Unbound, declare_all
from kata.agent.policy.syntax import (
    ArrayTerm,
    Assign,
    Call,
    Declare,
    Every,
    Literal,
    Not,
    ObjectTerm,
    Print,
    SomeIn,
    Term,
    Test,
    Unify,
    Var,
    With,
    refused,
)
from kata.agent.policy.values import FALSE, UNDEFINED, Array, Object, Set, Value, entries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from kata.agent.policy.meter import Meter


class BodyCompiler(TermCompiler):
    """Compiles the literals of one body."""

    def body(self, literals: Sequence[Literal]) -> None:
        """Compile all of them. Raises Unbound for a name that never gets a value here."""
        pending = list(literals)
        while pending:
            pending.pop(self._next(pending))

    def _next(self, pending: Sequence[Literal]) -> int:
        """Compile the first literal that is ready; its index."""
        missing: Unbound | None = None
        for index, literal in enumerate(pending):
            self.unit.attempts += 1
            if self.unit.attempts > MAX_ATTEMPTS:
                raise refused(
                    literal.line, "the policy is too involved", f"more than {MAX_ATTEMPTS} attempts to order it"
                )
            try:
                self._attempt(partial(self._literal, literal))
            except Unbound as error:
                missing = missing or error
            else:
                return index
        assert missing is not None
        raise missing

    def _attempt(self, compile_it: Callable[[], None]) -> None:
        """Do it, or leave everything as it was."""
        steps, bound = len(self.steps), set(self.bound)
        try:
            compile_it()
        except Unbound:
            del self.steps[steps:]
            self.bound.clear()
            self.bound.update(bound)
            raise

    def _check(self, check: Callable[[Env], bool]) -> None:
        self.steps.append(Step(check, None))

    def _literal(self, literal: Literal) -> None:
        if isinstance(literal, Test):
            self._test(literal)
        elif isinstance(literal, Assign):
            self._assign(literal)
        elif isinstance(literal, Unify):
            self._unify(literal.left, literal.right)
        elif isinstance(literal, SomeIn):
            self._some_in(literal)
        elif isinstance(literal, Every):
            self._every(literal)
        elif isinstance(literal, Not):
            self._not(literal)
        elif isinstance(literal, Print):
            self._print(literal)
        elif isinstance(literal, With):
            self._with(literal)
        else:
            assert isinstance(literal, Declare)  # it only declares, and that is done

    def _test(self, literal: Test) -> None:
        term = literal.term
        if isinstance(term, Call) and term.name == "walk" and len(term.args) == 2 and "walk" not in self.unit.programs:
            self._walk(term.args[0], term.args[1])
            return
        code = self.term(term)
        run = code.run

        def check(env: Env) -> bool:
            value = run(env)
            return value is not UNDEFINED and value is not FALSE

        self._check(check)

    def _assign(self, literal: Assign) -> None:
        if not isinstance(literal.target, (Var, ArrayTerm, ObjectTerm)):
            raise refused(literal.line, "':='", "a name, or an array or object of names, has to be before it")
        value = literal.value
        if isinstance(value, Call) and value.name == "walk" and len(value.args) == 1:
            self._walk(value.args[0], literal.target)
            return
        self._give(literal.target, value)

    def _give(self, target: Term, value: Term) -> None:
        """Compare a value with a pattern, and give the pattern's names theirs."""
        run = self.term(value).run
        match = self.pattern(target)

        def check(env: Env) -> bool:
            found = run(env)
            return found is not UNDEFINED and match(env, found)

        self._check(check)

    def _unify(self, left: Term, right: Term) -> None:
        try:
            self._attempt(lambda: self._give(left, right))
        except Unbound:
            try:
                self._attempt(lambda: self._give(right, left))
            except Unbound:
                if not isinstance(left, ArrayTerm) or not isinstance(right, ArrayTerm):
                    raise
                self._unify_all(left, right)

    def _unify_all(self, left: ArrayTerm, right: ArrayTerm) -> None:
        """Names on both sides: element by element."""
        if len(left.items) != len(right.items):
            self._check(lambda env: False)
        for one, other in zip(left.items, right.items, strict=False):
            self._unify(one, other)

    def _some_in(self, literal: SomeIn) -> None:
        run = self.term(literal.collection).run
        match_key = None if literal.key is None else self.pattern(literal.key)
        match = self.pattern(literal.value)

        def each(env: Env) -> Iterator[None]:
            spend = env.evaluation.meter.spend
            for key, value in entries(run(env)):
                spend(1)
                if (match_key is None or match_key(env, key)) and match(env, value):
                    yield

        self.steps.append(Step(None, each))

    def _walk(self, value: Term, target: Term) -> None:
        run = self.term(value).run
        match = self.pattern(target)

        def each(env: Env) -> Iterator[None]:
            root = run(env)
            if root is UNDEFINED:
                return
            for pair in _walked(env.evaluation.meter, (), root):
                if match(env, pair):
                    yield

        self.steps.append(Step(None, each))

    def _every(self, literal: Every) -> None:
        run = self.term(literal.collection).run
        scope = Scope(self.slots, self.scope)
        key = self.slots.new() if literal.key is None else scope.declare(literal.key.name)
        value = scope.declare(literal.value.name)
        inner = self.inner(scope)
        inner.bound |= {key, value}
        within = Scope(self.slots, scope)
        declare_all(within, literal.body, (), self.unit.globals)
        inner = inner.inner(within)
        inner.body(literal.body)
        body = Body(inner.steps)

        def check(env: Env) -> bool:
            collection, slots = run(env), env.slots
            if not isinstance(collection, (Array, Object, Set)):
                return False
            for slots[key], slots[value] in entries(collection):  # noqa: SIM110 - the places are the targets
                if not body.holds(env):
                    return False
            return True

        self._check(check)

    def _not(self, literal: Not) -> None:
        if isinstance(literal.literal, Assign):
            raise refused(literal.line, "':=' behind `not`")
        inner = self.inner()
        inner.only(literal.literal)
        body = Body(inner.steps)
        self._check(lambda env: not body.holds(env))

    def only(self, literal: Literal) -> None:
        """Compile one literal. Raises Unbound when it is not ready."""
        self._literal(literal)

    def _print(self, literal: Print) -> None:
        inner = self.inner()
        runs = [inner.term(arg).run for arg in literal.args]
        line = literal.line

        def check(env: Env) -> bool:
            env.evaluation.meter.print(line, [run(env) for run in runs])
            return True

        self._check(check)

    def _with(self, literal: With) -> None:
        root, path = literal.target[0], literal.target[1:]
        if root == "data" and path[0] == self.unit.package:
            raise refused(literal.line, "`with` in place of a rule")
        value = self.term(literal.value).run
        inner = BodyCompiler(self.unit, self.scope, self.bound, binds=self._binds)
        inner.only(literal.literal)
        body = Body(inner.steps)

        def each(env: Env) -> Iterator[None]:
            outer = env.evaluation
            new = value(env)
            if new is UNDEFINED:
                return
            request = _put(outer.input, path, new) if root == "input" else outer.input
            data = _put(outer.data, path, new) if root == "data" else outer.data
            forked = outer.fork(request, data)
            try:
                env.evaluation = forked
                for _ in body.solutions(env):
                    env.evaluation = outer
                    yield
                    env.evaluation = forked
            finally:
                env.evaluation = outer

        self.steps.append(Step(None, each))


def _put(value: Value, path: Sequence[str], new: Value) -> Value:
    """A value with something else behind a path; what is missing on the way, or is no object, becomes one."""
    if not path:
        return new
    items = value.items if isinstance(value, Object) else {}
    return Object({**items, path[0]: _put(items.get(path[0], UNDEFINED), path[1:], new)})


def _walked(meter: Meter, path: tuple[Value, ...], value: Value) -> Iterator[Value]:
    """[path, value] of a value and of everything in it."""
    meter.spend(2 + len(path))
    yield Array((Array(path), value))
    for key, item in entries(value):
        yield from _walked(meter, (*path, key), item)
