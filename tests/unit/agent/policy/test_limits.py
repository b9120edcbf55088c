"""No policy and no request keeps the agent busy for long, or fills its memory; and no text breaks the parser.

What is counted are steps, so these tests say nothing of time: they would not end if a limit were missing.
"""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kata.agent import policy
from kata.agent.errors import AgentError, BadRequest
from kata.agent.policy.values import EvaluationError
from tests.unit.agent.policy.cases import BUILTINS, LANGUAGE, OPERATORS
from tests.unit.agent.policy.values import value_of


def chain(first: str, each: str, count: int) -> str:
    """Rules r0, r1 ... of which each (`each` with {0} for the rule before) uses the one before; x is the last."""
    rules = [first, *(f"r{index} := {each.format(f'r{index - 1}')}" for index in range(1, count))]
    return "\n".join([*rules, f"x := r{count - 1}"])


GREEDY = {
    "loops": "x { r := numbers.range(1, 999); some a in r; some b in r; some c in r; a + b + c == 0 }",
    "every": "x { every a in numbers.range(1, 2000) { every b in numbers.range(1, 2000) { a + b > 0 } } }",
    "a range": "x := numbers.range(1, 100000000000)",
    "strings": chain('r0 := concat("", [input, input])', 'concat("", [{0}, {0}])', 38),
    "replacing": 'x := replace(replace(concat("", [input, input]), "a", input), "a", input)',
    "one string": 'x := replace(concat("", [input, input]), "a", concat("", [input, input]))',
    "numbers": chain("r0 := 1000000007 + input", "{0} * {0}", 30),
    "arrays": chain("r0 := [input, input]", "[{0}, {0}]", 38),
    "sorting": "x { some i in numbers.range(1, 999); sort(numbers.range(1, 2000)) == i }",
    "sets": "x := {[i, numbers.range(1, 100)] | some i in numbers.range(1, 99999)}",
    "comparing": "x { a := numbers.range(1, 9999); some i in a; a == array.concat(a, []); i < 0 }",
    "membership": "x { a := numbers.range(1, 9999); some i in a; i + 0.5 in a }",
    "with": "x { some i in numbers.range(1, 9999); y with input as i }\ny { z[_] == 0; input }\n"
    "z contains i if { some i in numbers.range(1, 9999); input }",
    "printing": "x { some i in numbers.range(1, 999); some j in numbers.range(1, 999); print(i, j); i < 0 }",
    "walking": "x { some i in numbers.range(1, 9999); walk(numbers.range(1, 999), [_, v]); v == 0 - i }",
    "a pattern": 'x { some i in numbers.range(1, 99999); s := sprintf("%d%s", [i, concat("", [c |'
    ' some k in numbers.range(1, 200); c := ["a", "b"][(k * i) % 2]])]); regex.match("(a|b)*a(a|b){14}c", s) }',
    "patterns": 'x { some i in numbers.range(1, 9999); regex.match(sprintf("(a{90}){%d}b", [1 + (i % 90)]), "aa") }',
    "finding": 'x { s := concat("", [c | some _ in numbers.range(1, 50000); c := "a"]); regex.find_n("a*b|a", s, -1) }',
    "calls": "x := f38(1)\nf0(a) := a\n" + "\n".join(f"f{i}(a) := [f{i - 1}(a), f{i - 1}(a)]" for i in range(1, 39)),
}


@pytest.mark.parametrize("name", GREEDY)
def test_what_asks_for_too_much_is_stopped(name: str) -> None:
    given = {"strings": "a" * 99, "replacing": "a" * 3000, "one string": "a" * 9000}.get(name, 1)
    with pytest.raises((EvaluationError, BadRequest)) as caught:
        value_of(GREEDY[name], given)
    assert any(word in caught.value.what for word in ("steps", "larger than", "longer than", "bits", "within each"))


@pytest.mark.parametrize(
    ("rules", "what"),
    [
        ("x := " + "[" * 60 + "]" * 60, "within each other"),
        ("x := " + "(" * 5000, "within each other"),
        ("x := 1" + " + 1" * 200, "operators"),
        ("x := input" + ".a" * 200, "200 steps|path"),
        ("x := r99\n" + "r0 := input\n" + "\n".join(f"r{i} := r{i - 1}" for i in range(1, 100)), "within each other"),
        ("x { " + "not " * 100 + "true }", "not"),
        ("x := " + "[1 | " * 60 + "true" + "]" * 60, "within each other"),
        ("x := 1" + "\n" * 10 + "y := " + "1" * 400, "300 digits"),
        ("x := [" + "1," * (1 << 19) + "]", "too long"),
    ],
    ids=["arrays", "parentheses", "operators", "path", "rules", "nots", "comprehensions", "digits", "tokens"],
)
def test_what_is_too_large_is_refused_when_it_is_set(rules: str, what: str) -> None:
    with pytest.raises(BadRequest, match=what):
        value_of(rules)


def test_literals_in_the_wrong_order_have_a_limit_too() -> None:
    names = [f"v{index}" for index in range(1500)]
    body = "\n".join(f"  {name} = {after} + 1" for name, after in itertools.pairwise(names))
    with pytest.raises(BadRequest, match="too involved"):
        value_of(f"x {{\n{body}\n  {names[-1]} = 1\n}}")


def test_a_document_has_a_limit() -> None:
    with pytest.raises(BadRequest, match="longer than"):
        policy.parse("package agent_policy\n" + "#" * policy.LIMIT)


def test_a_large_request_is_an_error_and_no_denial_of_service() -> None:
    found = policy.parse("package agent_policy\nX { input.a }")
    with pytest.raises(AgentError, match="X: a value is larger"):
        found.check("X", {"a": list(range(1 << 20))})


VOCABULARY = """x y f input data agent_policy := = == != < > + - * / % | & . , : ; ( ) [ ] { }
if else not some every in contains default import package as with true false null _ 1 2.5 "a" `b`
count concat regex.match print set walk"""
WORDS = ["\n", *VOCABULARY.split()]
TEXT = st.lists(st.sampled_from(WORDS), max_size=40).map(" ".join) | st.text(max_size=60)


@settings(max_examples=400, deadline=None)
@given(TEXT)
def test_any_text_is_a_policy_or_refused(text: str) -> None:
    try:
        found = policy.parse(f"package agent_policy\n{text}")
    except BadRequest as error:
        assert "line" in error.what
        return
    decide_twice(found)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([*LANGUAGE, *OPERATORS, *BUILTINS]), st.data())
def test_policies_with_something_changed_end_too(case: object, data: st.DataObject) -> None:
    rules = case.rules  # type: ignore[attr-defined]
    begin = data.draw(st.integers(0, len(rules)))
    end = data.draw(st.integers(begin, min(len(rules), begin + 4)))
    changed = rules[:begin] + data.draw(st.sampled_from(WORDS)) + rules[end:]
    try:
        found = policy.parse(f"package agent_policy\n{changed}")
    except BadRequest:
        return
    decide_twice(found)


def decide_twice(found: policy.Policy) -> None:
    """A decision is made or is an error, and it is the same the next time."""
    said = []
    for _ in range(2):
        try:
            said.append(str(found.check("x", {"a": [1, "b", None], "n": 3})))
        except AgentError as error:
            said.append(error.what)
    assert said[0] == said[1]
