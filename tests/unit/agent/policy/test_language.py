"""The language: what it means, what contradicts itself, what is refused and where."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kata.agent.errors import BadRequest
from kata.agent.policy.values import EvaluationError
from tests.unit.agent.policy.cases import BUILTINS, LANGUAGE, OPERATORS, Case
from tests.unit.agent.policy.values import value_of


def strict(value: Any) -> str:
    """A value so that true is not 1."""
    return "undefined" if value is ... else json.dumps(value, sort_keys=True)


@pytest.mark.parametrize("case", [*LANGUAGE, *OPERATORS, *BUILTINS], ids=lambda case: case.rules[:60])
def test_values(case: Case) -> None:
    assert strict(value_of(case.rules, case.given)) == strict(case.expected)


@pytest.mark.parametrize(
    "rules",
    [
        "x := 1 { input }\nx := 2 { input }",
        "x := v { some v in [1, 2] }",
        "x := f(1)\nf(a) := 1 { a > 0 }\nf(a) := 2 { a > 0 }",
        'x[k] := v { some v in [1, 2]; k := "a" }',
        'x := {k: v | some v in [1, 2]; k := "a"}',
        'x := {k: 1, "a": 2} { k := "a" }',
    ],
)
def test_contradictions_are_errors(rules: str) -> None:
    with pytest.raises(EvaluationError, match="two values"):
        value_of(rules, [1])


def test_no_contradiction_in_saying_the_same_twice() -> None:
    assert value_of("x := v { some v in [2, 2] }\nx := 2 { input }", [1]) == 2


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        # Text
        ("x := 'a'", "line 2.*'a'"),
        ('x := "a', "line 2"),
        (r'x := "\q"', "line 2.*escape"),
        ("x := 01", "line 2"),
        ("x := 1e999", "line 2.*too large"),
        ("x := ", "line 3.*it ends here"),
        ("x := [1", "line 3"),
        ("x := [1 2]", "line 2.*','"),
        ("x := 1 y := 2", "line 2.*own"),
        ("x { true false }", "line 2.*ends an expression"),
        ("x {\n}", "line 3"),
        ("x", "line 3.*value or a body"),
        ("x := 1 < 2 < 3", "line 2.*chained"),
        ("x := -y\ny := 1", "line 2.*only a number"),
        ("x := y .z\ny := 1", "line 2"),
        ("x := f (1)\nf(a) := 1", "line 2"),
        ("if := 1", "line 2.*'if'"),
        ("input := 1", "line 2.*name input"),
        ("x := {1: 2, 1: 3}", "line 2.*one key twice"),
        ("import other.thing\nx := 1", "line 2.*import"),
        ("import input.a\nimport input.b as a\nx := 1", "line 3.*imported already"),
        ("import future.keywords.unknown\nx := 1", "line 2.*import"),
        # Names
        ("x { y }", "line 2.*y has no value"),
        ("x := y", "line 2.*y has no value"),
        ("x { not y == 1 }", "line 2.*y has no value"),
        ("x { not input[_] == 1 }", "line 2.*_ has no value"),
        ("x { y := y + 1 }", "line 2.*y has no value"),
        ("x { [y] == [1] }", "line 2.*y has no value"),
        ("x {\n  y := 1\n  y := 2\n}", "line 4.*declared already"),
        ("x { some y; y := 1 }", "line 2.*declared already"),
        ("x { z := [y | false]; z == y }", "line 2.*y has no value"),
        ("x { f(y) }\nf(a) := a", "line 2.*y has no value"),
        ("x := f(1)\nf(a) := b { a := 2; b := a }", "line 3.*argument already"),
        ("x := data", "line 2.*data as a whole"),
        ("x := data[input]", "line 2.*data as a whole"),
        ("x := data.agent_policy", "line 2.*name of a rule"),
        ("x := data.agent_policy.nothing", "line 2.*name of a rule"),
        # Rules
        ("x := 1\nx := 2", "line 3.*two values"),
        ("default x := 1\ndefault x := 1", "line 3.*default already"),
        ("default x := input", "line 2.*no constant"),
        ("default x(a) := 1", "line 2"),
        ("x := 1\nx(a) := 1", "line 3.*x is a value"),
        ("x(a) := 1\nx(a, b) := 1", "line 3.*1 arguments above"),
        ("x contains 1\nx := 2", "line 3.*x is a set"),
        ("x { x }", "line 2.*depends on itself"),
        ("x { y }\ny { not z }\nz := count([1 | x])", "depends on itself"),
        ("x := f(1)\nf(a) := f(a - 1)", "line 3.*depends on itself"),
        ("x { data.agent_policy.x }", "line 2.*depends on itself"),
        ("x[y] if y := 1", "line 2.*contains"),
        ("x.a.b := 1", "line 2.*one step"),
        ("x contains 1 if true else := 2", "line 2.*else"),
        ("x := f\nf(a) := 1", "line 2.*without arguments"),
        ("x := y(1)\ny := 1", "line 2.*is no function"),
        # Functions
        ("x := unknown(1)", "line 2.*no function unknown"),
        ("x := http.send({})", "line 2.*no function http.send"),
        ("x := time.now_ns()", "line 2.*no function"),
        ("x := count(1, 2)", "line 2.*1 arguments, not 2"),
        ("x := f(1, 2)\nf(a) := 1", "line 2.*1 arguments, not 2"),
        ('x { regex.match("(?=a)", input) }', "line 2.*pattern"),
        # with
        ("x { true with other as 1 }", "line 2.*with"),
        ("x { true with data.agent_policy.y as 1 }\ny := 1", "line 2.*place of a rule"),
        ("x { true with count as 1 }", "line 2.*with"),
    ],
)
def test_what_is_refused_when_it_is_set(rules: str, message: str) -> None:
    with pytest.raises(BadRequest) as caught:
        value_of(rules)
    found = f"{caught.value.what}; {caught.value.hint}".replace("\n", " ")
    import re

    assert re.search(message, found), found


def test_prints_are_kept_with_their_lines() -> None:
    from kata.agent.policy.meter import Meter
    from tests.unit.agent.policy.values import compiled

    meter = Meter({})
    rules = 'x {\n  print("got", input, input.nothing)\n  y := {1}\n  print(y)\n  false\n}'
    compiled(rules).value("x", {"a": ["b", None, True]}, meter)
    assert meter.printed("p") == 'p:3: got {"a": ["b", null, true]} <undefined> p:5: {1}'


def test_what_is_printed_has_a_limit() -> None:
    from kata.agent.policy.meter import MAX_TEXT, Meter
    from tests.unit.agent.policy.values import compiled

    meter = Meter({})
    compiled("x { some i in numbers.range(1, 9000); print(i, input); i < 0 }").value("x", ["a" * 9000] * 9, meter)
    text = meter.printed("p")
    assert MAX_TEXT < len(text) < 2 * MAX_TEXT
    assert text.startswith("... ")
    assert "p:2: 9000 " in text
    assert "p:2: 1 " not in text
