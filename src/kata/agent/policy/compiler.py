"""Terms as functions of an `Env`: the half of the compiler that knows expressions. `bodies` builds on it.

A term gives one value. Where a path has a name without a value yet (`xs[i]`, `xs[_]`), a step that iterates is put
before the literal, and the term reads the place that the step fills; so only steps ever have more than one solution.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from kata.agent.policy.builtins import BUILTINS
from kata.agent.policy.meter import cost
from kata.agent.policy.program import Body, Env, Program, Step
from kata.agent.policy.runs import array_matcher, is_in, object_comprehension, object_matcher, put
from kata.agent.policy.scope import Scope, Slots, Unbound, declare_all
from kata.agent.policy.syntax import (
    ArrayTerm,
    Call,
    Comprehension,
    Literal,
    Member,
    ObjectTerm,
    Ref,
    Scalar,
    SetTerm,
    Term,
    Var,
    refused,
)
from kata.agent.policy.values import (
    UNDEFINED,
    Array,
    Object,
    Set,
    Value,
    boolean,
    entries,
    lookup,
    weight,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Self

    from kata.agent.policy.program import Matcher, Run

MAX_ATTEMPTS = 100_000
"""Literals that may be compiled for one policy; one that is not ready yet is tried again later."""


class Code(NamedTuple):
    """A compiled term; `constant` is its value where that is known already."""

    run: Run
    constant: Value = UNDEFINED


class Unit:
    """The policy that is compiled: its rules by name, its imports."""

    def __init__(self, package: str, programs: dict[str, Program], imports: dict[str, Ref]) -> None:
        self.package = package
        self.programs = programs
        self.imports = imports
        self.globals = frozenset((*programs, *imports, "input", "data"))
        self.attempts = 0
        self.uses: set[str] = set()

    def use(self, name: str) -> Program:
        """A rule that the one being compiled depends on."""
        self.uses.add(name)
        return self.programs[name]


class TermCompiler:
    """Compiles the terms of one body. `steps` grows as it goes; `bound` are the places that have a value by then."""

    def __init__(self, unit: Unit, scope: Scope, bound: set[int], *, binds: bool = True) -> None:
        self.unit = unit
        self.scope = scope
        self.bound = bound
        self.steps: list[Step] = []
        self._binds = binds

    @property
    def slots(self) -> Slots:
        """The places of the definition."""
        return self.scope.slots

    def inner(self, scope: Scope | None = None) -> Self:
        """For a body within this one, or (without a scope) for a part that must not give names a value."""
        return type(self)(self.unit, scope or self.scope, set(self.bound), binds=scope is not None)

    def body(self, literals: Sequence[Literal]) -> None:
        """Compile literals, in an order in which every name has a value where it needs one."""
        raise NotImplementedError

    # Terms

    def term(self, term: Term) -> Code:
        """Compile a term. Raises Unbound where a name has no value yet, BadRequest for what is not understood."""
        if isinstance(term, Scalar):
            return constant(term.value)
        if isinstance(term, Var):
            return self._var(term)
        if isinstance(term, Ref):
            return self._ref(term)
        if isinstance(term, Call):
            return self._call(term)
        if isinstance(term, Comprehension):
            return self._comprehension(term)
        if isinstance(term, Member):
            return self._member(term)
        return self._collection(term)

    def pattern(self, term: Term) -> Matcher:
        """What compares a value with a term, and gives the term's names without a value theirs."""
        if isinstance(term, Var) and self.is_open(term):
            return self._bind(term)
        if isinstance(term, ArrayTerm) and self.is_open(term):
            return array_matcher([self.pattern(item) for item in term.items])
        if isinstance(term, ObjectTerm) and self.is_open(term):
            pairs = [(self.term(key).constant, self.pattern(item)) for key, item in term.items]
            if any(key is UNDEFINED for key, _ in pairs):
                raise refused(term.line, "a key of an object pattern is no constant")
            return object_matcher(dict(pairs))
        run = self.term(term).run

        def match(env: Env, value: Value) -> bool:
            expected = run(env)
            env.evaluation.meter.spend(cost(expected, value))
            return expected == value

        return match

    def is_open(self, term: Term) -> bool:
        """Whether a term is a pattern with names that have no value yet."""
        if isinstance(term, Var):
            slot = self.scope.find(term.name)
            return slot is not None and slot not in self.bound
        if isinstance(term, ArrayTerm):
            return any(self.is_open(item) for item in term.items)
        return isinstance(term, ObjectTerm) and any(self.is_open(item) for _, item in term.items)

    def _bind(self, term: Var) -> Matcher:
        slot = self.scope.find(term.name)
        if slot is None or not self._binds or term.name not in self.scope.names:
            raise Unbound(term.line, term.name)
        self.bound.add(slot)
        place = slot

        def match(env: Env, value: Value) -> bool:
            env.slots[place] = value
            return True

        return match

    def _var(self, term: Var) -> Code:
        slot = self.scope.find(term.name)
        if slot is not None:
            if slot not in self.bound:
                raise Unbound(term.line, term.name)
            return _read(slot)
        if term.name == "input":
            return Code(lambda env: env.evaluation.input)
        if term.name in self.unit.imports:
            return self._ref(self.unit.imports[term.name])
        if term.name in self.unit.programs:
            return self._rule(term.line, term.name)
        raise refused(term.line, f"{term.name} as a whole", "name what is wanted of it")

    def _rule(self, line: int, name: str) -> Code:
        program = self.unit.use(name)
        if program.kind == "function":
            raise refused(line, f"the function {name} without arguments")
        return Code(lambda env: env.evaluation.rule(program))

    def _ref(self, term: Ref) -> Code:
        head, path = term.head, term.path
        if isinstance(head, Var) and self.scope.find(head.name) is None:
            if head.name in self.unit.imports:
                found = self.unit.imports[head.name]
                head, path = found.head, (*found.path, *path)
            if isinstance(head, Var) and head.name == "data":
                return self._data(term.line, path)
        code = self.term(head)
        for step in path:
            code = self._step(code, step)
        return code

    def _data(self, line: int, path: Sequence[Term]) -> Code:
        """`data`: rules below the package's name, else what the agent keeps there."""
        first = path[0]
        if not isinstance(first, Scalar) or not isinstance(first.value, str):
            raise refused(line, "data as a whole", "name what is wanted of it")
        code = Code(lambda env: env.evaluation.data)
        if first.value == self.unit.package:
            second = path[1] if len(path) > 1 else first
            if second is first or not isinstance(second, Scalar) or second.value not in self.unit.programs:
                raise refused(line, f"data.{self.unit.package} without the name of a rule")
            code, path = self._rule(line, str(second.value)), path[1:]
            path = path[1:]
        for step in path:
            code = self._step(code, step)
        return code

    def _step(self, base: Code, step: Term) -> Code:
        if self.is_open(step):
            return self._iterate(base, step)
        code = self.term(step)
        run, key_of, key = base.run, code.run, code.constant
        if key is UNDEFINED:
            return Code(lambda env: lookup(run(env), key_of(env)))
        if base.constant is not UNDEFINED:
            return constant(lookup(base.constant, key))

        def get(env: Env) -> Value:
            found = run(env)
            return found.items.get(key, UNDEFINED) if isinstance(found, Object) else lookup(found, key)

        return Code(get)

    def _iterate(self, base: Code, step: Term) -> Code:
        run, slot, match = base.run, self.slots.new(), self.pattern(step)

        def each(env: Env) -> Iterator[None]:
            spend = env.evaluation.meter.spend
            for key, value in entries(run(env)):
                spend(1)
                if match(env, key):
                    env.slots[slot] = value
                    yield

        self.steps.append(Step(None, each))
        return _read(slot)

    def _call(self, term: Call) -> Code:
        name = term.name.removeprefix(f"data.{self.unit.package}.")
        runs = [self.term(arg) for arg in term.args]
        if name in self.unit.programs:
            return self._user_call(term, self.unit.use(name), [code.run for code in runs])
        builtin = BUILTINS.get(name)
        if builtin is None:
            raise refused(term.line, f"there is no function {name}")
        if builtin.arity != len(runs):
            raise refused(term.line, f"{name} has {builtin.arity} arguments, not {len(runs)}")
        _check_pattern(term, name, runs)
        call = builtin.run
        if len(runs) == 2:
            first, second = runs[0].run, runs[1].run

            def call_two(env: Env) -> Value:
                left, right = first(env), second(env)
                if left is UNDEFINED or right is UNDEFINED:
                    return UNDEFINED
                return call(env.evaluation.meter, left, right)

            return Code(call_two)
        get = [code.run for code in runs]

        def call_any(env: Env) -> Value:
            values = [run(env) for run in get]
            return UNDEFINED if UNDEFINED in values else call(env.evaluation.meter, *values)

        return Code(call_any)

    def _user_call(self, term: Call, program: Program, runs: Sequence[Run]) -> Code:
        if program.kind != "function" or program.arity != len(runs):
            what = f"has {program.arity} arguments, not {len(runs)}" if program.kind == "function" else "is no function"
            raise refused(term.line, f"{program.name} {what}")

        def call(env: Env) -> Value:
            values = [run(env) for run in runs]
            return UNDEFINED if any(value is UNDEFINED for value in values) else program.call(env.evaluation, values)

        return Code(call)

    def _member(self, term: Member) -> Code:
        key = None if term.key is None else self.term(term.key).run
        value, collection = self.term(term.value).run, self.term(term.collection).run

        def run(env: Env) -> Value:
            wanted, among = value(env), collection(env)
            place = None if key is None else key(env)
            if UNDEFINED in (wanted, among) or place is UNDEFINED:
                return UNDEFINED
            if key is not None:
                env.evaluation.meter.spend(weight(wanted))
                return boolean(lookup(among, place) == wanted)
            return boolean(is_in(env.evaluation.meter, wanted, among))

        return Code(run)

    def _collection(self, term: ArrayTerm | SetTerm | ObjectTerm) -> Code:
        if isinstance(term, ObjectTerm):
            return self._object(term)
        codes = [self.term(item) for item in term.items]
        make: type[Array | Set] = Array if isinstance(term, ArrayTerm) else Set
        if all(code.constant is not UNDEFINED for code in codes):
            return constant(make(code.constant for code in codes))
        runs = [code.run for code in codes]

        def run(env: Env) -> Value:
            values = [get(env) for get in runs]
            if any(value is UNDEFINED for value in values):
                return UNDEFINED
            meter = env.evaluation.meter
            meter.spend(len(values) if make is Array else sum(map(weight, values)))
            return make(values)

        return Code(run)

    def _object(self, term: ObjectTerm) -> Code:
        codes = [(self.term(key), self.term(value)) for key, value in term.items]
        keys = [key.constant for key, _ in codes]
        if all(key is not UNDEFINED for key in keys):
            if len(set(keys)) != len(keys):
                raise refused(term.line, "an object with one key twice")
            if all(value.constant is not UNDEFINED for _, value in codes):
                return constant(Object({key.constant: value.constant for key, value in codes}))
        runs = [(key.run, value.run) for key, value in codes]

        def run(env: Env) -> Value:
            found: dict[Value, Value] = {}
            for get_key, get in runs:
                key, value = get_key(env), get(env)
                if key is UNDEFINED or value is UNDEFINED:
                    return UNDEFINED
                env.evaluation.meter.spend(weight(key))
                put(env.evaluation.meter, found, key, value)
            return Object(found)

        return Code(run)

    def _comprehension(self, term: Comprehension) -> Code:
        scope = Scope(self.slots, self.scope)
        heads = [term.head] if term.key is None else [term.key, term.head]
        declare_all(scope, term.body, heads, self.unit.globals)
        inner = self.inner(scope)
        inner.body(term.body)
        key = None if term.key is None else inner.term(term.key).run
        head = inner.term(term.head).run
        body = Body(inner.steps)
        if key is not None:
            return Code(object_comprehension(body, key, head))
        is_set = term.kind == "set"

        def run(env: Env) -> Value:
            found: list[Value] = []
            spend = env.evaluation.meter.spend
            for _ in body.solutions(env):
                value = head(env)
                if value is not UNDEFINED:
                    spend(weight(value) if is_set else 1)
                    found.append(value)
            return Set(found) if is_set else Array(found)

        return Code(run)


def constant(value: Value) -> Code:
    """The code of a value that is known."""
    return Code(lambda env: value, value)


def _read(slot: int) -> Code:
    return Code(lambda env: env.slots[slot])


def _check_pattern(term: Call, name: str, codes: Sequence[Code]) -> None:
    """Refuse a pattern that is known now and not understood, rather than at the first request that needs it."""
    from kata.agent.policy.regex import PatternError, Regex

    if not name.startswith("regex.") or name == "regex.is_valid":
        return
    pattern = codes[1 if name == "regex.replace" else 0].constant
    try:
        if isinstance(pattern, str):
            Regex(pattern)
    except PatternError as error:
        raise refused(term.line, f"the pattern {pattern!r}: {error}") from None
