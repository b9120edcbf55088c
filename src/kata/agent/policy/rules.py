"""A module's rules as programs: what belongs together, what contradicts itself, what depends on what.

Door: `compile_module`. A rule that depends on itself is refused here, so that evaluation always ends.
"""

from __future__ import annotations

from kata.agent.policy.bodies import BodyCompiler
from kata.agent.policy.compiler import Unit
from kata.agent.policy.program import Body, Branch, Definition, Program
from kata.agent.policy.scope import Scope, Slots, Unbound, declare_all, declared, term_names
from kata.agent.policy.syntax import Module, Rule, refused
from kata.agent.policy.values import UNDEFINED, EvaluationError

MAX_CHAIN = 40
"""Rules that call each other one within the other."""
KINDS = {"complete": "a value", "function": "a function", "set": "a set", "object": "an object"}


def compile_module(module: Module, package: str) -> dict[str, Program]:
    """All rules by name. Raises BadRequest that names the line and what is wrong there."""
    programs: dict[str, Program] = {}
    for rule in module.rules:
        _enter(programs, rule)
    unit = Unit(package, programs, module.imports)
    lines: dict[str, int] = {}
    for rule in module.rules:
        lines[rule.name] = rule.line
        _add(unit, rule)
    for name, line in lines.items():
        _settle(programs[name], line)
    _refuse_circles(programs, lines)
    return programs


def _enter(programs: dict[str, Program], rule: Rule) -> None:
    if rule.name in ("input", "data"):
        raise refused(rule.line, f"a rule with the name {rule.name}")
    known = programs.setdefault(rule.name, Program(rule.name, rule.kind, len(rule.args)))
    if (known.kind, known.arity) != (rule.kind, len(rule.args)):
        raise refused(
            rule.line,
            f"{rule.name} is {KINDS[known.kind]} with {known.arity} arguments above,"
            f" and {KINDS[rule.kind]} with {len(rule.args)} here",
        )


def _add(unit: Unit, rule: Rule) -> None:
    program = unit.programs[rule.name]
    unit.uses = program.uses
    try:
        if rule.is_default:
            _add_default(unit, rule, program)
        else:
            program.definitions.append(_definition(unit, rule))
    except Unbound as error:
        hint = "something has to give it one, outside of `not` and of a function's arguments"
        raise refused(error.line, f"{error.name} has no value", hint) from None
    except EvaluationError as error:
        raise refused(rule.line, error.what) from None
    except RecursionError:
        raise refused(rule.line, "it is nested too deeply") from None


def _definition(unit: Unit, rule: Rule) -> Definition:
    slots = Slots()
    outside = Scope(slots, None)
    for name in (name for arg in rule.args for name in term_names(arg)):
        outside.declare(name)
    arguments = BodyCompiler(unit, outside, set())
    matchers = [arguments.pattern(arg) for arg in rule.args]
    branches, key = [], None
    for branch in rule.branches:
        for line, name in declared(branch.body):
            if name in outside.names:
                raise refused(line, f"{name} is an argument already")
        scope = Scope(slots, outside)
        heads = [branch.value] if rule.key is None else [branch.value, rule.key]
        declare_all(scope, branch.body, heads, unit.globals)
        compiler = BodyCompiler(unit, scope, set(arguments.bound))
        compiler.body(branch.body)
        value = compiler.term(branch.value)
        key = None if rule.key is None else compiler.term(rule.key).run
        branches.append(Branch(Body([*arguments.steps, *compiler.steps]), *value))
    return Definition(rule.line, slots.size, matchers, key, branches)


def _add_default(unit: Unit, rule: Rule, program: Program) -> None:
    if program.default is not UNDEFINED:
        raise refused(rule.line, f"{rule.name} has a default already")
    if program.kind != "complete":
        raise refused(rule.line, f"a default of {rule.name}, which is {KINDS[program.kind]}")
    program.default = BodyCompiler(unit, Scope(Slots(), None), set()).term(rule.branches[0].value).constant
    if program.default is UNDEFINED:
        raise refused(rule.line, "a default that is no constant")


def _settle(program: Program, line: int) -> None:
    """Find out whether the rule needs an evaluation, now that all its definitions are known."""
    if program.kind not in ("complete", "function"):
        return
    branches = [branch for definition in program.definitions for branch in definition.branches]
    values = [branch.constant for branch in branches]
    program.sure = bool(values) and UNDEFINED not in values and all(value == values[0] for value in values)
    if program.kind == "function":
        return
    bare = [branch.constant for branch in branches if branch.body.empty and branch.constant is not UNDEFINED]
    if any(value != bare[0] for value in bare):
        raise refused(line, f"{program.name} has two values")
    if bare and program.sure:
        program.constant = bare[0]
    elif not program.definitions:
        program.constant = program.default


def _refuse_circles(programs: dict[str, Program], lines: dict[str, int]) -> None:
    """Refuse a rule that depends on itself, and chains that are too long to be evaluated on a thread's stack."""
    depths: dict[str, int] = {}
    for start in programs:
        path: list[tuple[str, list[str]]] = [(start, sorted(programs[start].uses))]
        on_path = {start}
        while path and start not in depths:
            name, left = path[-1]
            if left:
                following = left.pop()
                if following in on_path:
                    raise refused(lines[following], f"{following} depends on itself")
                if following not in depths:
                    path.append((following, sorted(programs[following].uses)))
                    on_path.add(following)
                continue
            depths[name] = 1 + max((depths[used] for used in programs[name].uses), default=0)
            if depths[name] > MAX_CHAIN:
                raise refused(lines[name], f"more than {MAX_CHAIN} rules within each other")
            on_path.discard(name)
            path.pop()
