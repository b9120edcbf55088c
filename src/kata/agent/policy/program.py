"""A compiled policy as it runs: rules, bodies and the decision under way. `compiler` makes these, `decide` uses them.

A body is a list of steps over an `Env`, which has a place for every name. A check either holds or not; what iterates
gives one solution after the other, each with other values in those places. Rules cannot reach themselves (`rules`
refuses that), so how deep this goes is known before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from kata.agent.policy.meter import cost
from kata.agent.policy.values import UNDEFINED, EvaluationError, Object, Set, Value, weight

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from kata.agent.policy.meter import Meter

    Run = Callable[["Env"], Value]
    Check = Callable[["Env"], bool]
    Each = Callable[["Env"], Iterator[None]]
    Matcher = Callable[["Env", Value], bool]


class Env:
    """The values of a rule's names while it is evaluated, by their place."""

    __slots__ = ("evaluation", "slots")

    def __init__(self, evaluation: Evaluation, size: int) -> None:
        self.evaluation = evaluation
        self.slots: list[Value] = [UNDEFINED] * size


class Step(NamedTuple):
    """One condition: exactly one of the two is there."""

    check: Check | None
    each: Each | None


class Body:
    """Conditions that hold together."""

    __slots__ = ("_checks", "_steps")

    def __init__(self, steps: Sequence[Step]) -> None:
        self._steps = tuple(steps)
        checks = [step.check for step in steps if step.check is not None]
        self._checks = checks if len(checks) == len(steps) else None

    @property
    def empty(self) -> bool:
        """Whether there are no conditions at all."""
        return not self._steps

    def holds(self, env: Env) -> bool:
        """Whether there is any solution; its values are in `env` then."""
        if self._checks is None:
            return any(True for _ in self._from(env, 0))
        env.evaluation.meter.spend(1 + len(self._checks))
        for check in self._checks:  # noqa: SIM110 - the hot loop: a generator would double its cost
            if not check(env):
                return False
        return True

    def solutions(self, env: Env) -> Iterator[None]:
        """Each solution, while its values are in `env`."""
        if self._checks is None:
            return self._from(env, 0)
        return iter((None,)) if self.holds(env) else iter(())

    def _from(self, env: Env, index: int) -> Iterator[None]:
        meter = env.evaluation.meter
        for position in range(index, len(self._steps)):
            meter.spend(1)
            check, each = self._steps[position]
            if check is not None:
                if not check(env):
                    return
            elif each is not None:
                for _ in each(env):
                    yield from self._from(env, position + 1)
                return
        yield


class Branch(NamedTuple):
    """A value, and what has to hold for it; `constant` is the value where it is known already, else UNDEFINED."""

    body: Body
    run: Run
    constant: Value


class Definition:
    """One of a rule's definitions: patterns of its arguments, the key it gives, and its branches in order."""

    def __init__(
        self, line: int, size: int, args: Sequence[Matcher], key: Run | None, branches: Sequence[Branch]
    ) -> None:
        self.line = line
        self.size = size
        self.args = tuple(args)
        self.key = key
        self.branches = tuple(branches)

    def values(self, evaluation: Evaluation, arguments: Sequence[Value]) -> Iterator[tuple[Value, Value]]:
        """(key, value) of each solution of the first branch that has any."""
        env = Env(evaluation, self.size)
        for matcher, argument in zip(self.args, arguments, strict=True):
            if not matcher(env, argument):
                return
        for branch in self.branches:
            found = False
            for _ in branch.body.solutions(env):
                result = branch.run(env)
                key = self.key(env) if self.key is not None else None
                if result is not UNDEFINED and key is not UNDEFINED:
                    found = True
                    yield key, result
            if found:
                return


class Program:
    """A rule: all its definitions. `constant` is its value where that needs no evaluation, else UNDEFINED.

    `sure`: all definitions give the same constant, so the first solution decides.
    """

    def __init__(self, name: str, kind: str, arity: int) -> None:
        self.name = name
        self.kind = kind
        self.arity = arity
        self.definitions: list[Definition] = []
        self.default: Value = UNDEFINED
        self.constant: Value = UNDEFINED
        self.sure = False
        self.uses: set[str] = set()

    def evaluate(self, evaluation: Evaluation) -> Value:
        """The value of a rule without arguments. Raises EvaluationError for a contradiction."""
        if self.kind == "set":
            return self._set(evaluation)
        if self.kind == "object":
            return self._object(evaluation)
        return self.call(evaluation, ())

    def call(self, evaluation: Evaluation, arguments: Sequence[Value]) -> Value:
        """The value for these arguments; the default where no definition has one. Raises EvaluationError likewise."""
        found: Value = UNDEFINED
        meter = evaluation.meter
        for definition in self.definitions:
            meter.spend(4)
            for _, value in definition.values(evaluation, arguments):
                if found is UNDEFINED:
                    found = value
                    if self.sure:
                        return found
                elif self._differ(meter, found, value):
                    raise EvaluationError(f"{self.name} has two values at once (line {definition.line} is one's)")
        return self.default if found is UNDEFINED else found

    def _differ(self, meter: Meter, one: Value, other: Value) -> bool:
        meter.spend(cost(one, other))
        return one != other

    def _set(self, evaluation: Evaluation) -> Value:
        found = set[Value]()
        for definition in self.definitions:
            for key, _ in definition.values(evaluation, ()):
                evaluation.meter.spend(weight(key))
                found.add(key)
        return Set(found)

    def _object(self, evaluation: Evaluation) -> Value:
        found: dict[Value, Value] = {}
        for definition in self.definitions:
            for key, value in definition.values(evaluation, ()):
                evaluation.meter.spend(weight(key))
                if key in found and self._differ(evaluation.meter, found[key], value):
                    raise EvaluationError(f"{self.name} has two values for one key (line {definition.line})")
                found[key] = value
        return Object(found)


class Evaluation:
    """One decision under way: what it is about, what it found already, what it may still cost."""

    __slots__ = ("_constants", "cache", "data", "input", "meter")

    def __init__(self, request: Value, data: Value, constants: dict[str, Value], meter: Meter) -> None:
        self.input = request
        self.data = data
        self.meter = meter
        self._constants = constants
        self.cache = dict(constants)

    def rule(self, program: Program) -> Value:
        """A rule's value, evaluated once."""
        found = self.cache.get(program.name)
        if found is None and program.name not in self.cache:
            found = self.cache[program.name] = program.evaluate(self)
        return found

    def fork(self, request: Value, data: Value) -> Evaluation:
        """The same decision with another input or data: what was found already does not hold there."""
        self.meter.spend(len(self._constants))
        return Evaluation(request, data, self._constants, self.meter)
