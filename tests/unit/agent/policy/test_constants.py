"""Policies: the subset of Rego that is understood, and that everything else is refused instead of guessed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata.agent import policy
from kata.agent.errors import BadRequest

EXEC_DENIED = """# A comment.
package agent_policy

default CreateContainerRequest := true   # allowed
default ReadStreamRequest = true
default ExecProcessRequest := false
"""


def test_rules_defaults_and_what_has_no_rule() -> None:
    found = policy.parse(EXEC_DENIED + "default StartContainerRequest := false\r\nStartContainerRequest := true\n")
    answers = {name: found.allows(f"{name}Request") for name in ("CreateContainer", "ReadStream", "StartContainer")}
    assert answers == {"CreateContainer": True, "ReadStream": True, "StartContainer": True}
    assert not found.allows("ExecProcessRequest")
    assert not found.allows("CopyFileRequest")


def test_requests_without_a_rule_can_be_allowed() -> None:
    found = policy.parse(EXEC_DENIED + "AllowRequestsFailingPolicy := true\n")
    assert found.allows("CopyFileRequest")
    assert not found.allows("ExecProcessRequest")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "line 1"),
        ("default X := true", "line 1"),
        ("package other\ndefault X := true", "line 1"),
        ("package agent_policy\nimport future.keywords.in", "line 2.*import future"),
        ("package agent_policy\n\nX if input.a == 1", "line 3.*input.a"),
        ("package agent_policy\nX { true }", "line 2"),
        ("package agent_policy\nX {\n  false\n}", "line 2"),
        ("package agent_policy\nX := input.OK", "line 2"),
        ("package agent_policy\nX := allowed", "line 2"),
        ("package agent_policy\nX := 1", "line 2"),
        ("package agent_policy\nX := true { input.a }", "line 2"),
        ("package agent_policy\nX := not false", "line 2"),
        ("package agent_policy\nX(a) := true", "line 2"),
        ("package agent_policy\nX := true\nX := false", "line 3"),
        ("package agent_policy\ndefault X := true\ndefault X := true", "line 3"),
        ("package agent_policy\ndefault := true", "line 2"),
        ("package agent_policy\nX := true; Y := false", "line 2"),
        ("package agent_policy\nX := true } else := false", "line 2"),
        ("package agent_policy\n\u0425 := true", "line 2"),
    ],
)
def test_what_is_not_understood_is_refused_by_line(text: str, line: str) -> None:
    with pytest.raises(BadRequest, match=line):
        policy.parse(text)


def test_a_document_has_a_limit() -> None:
    with pytest.raises(BadRequest, match="longer than"):
        policy.parse("package agent_policy\n" + "#" * policy.LIMIT)


@given(st.text(alphabet="XY :=true\nfalsdn{}#.;|", max_size=80))
def test_only_an_unconditional_true_allows(rest: str) -> None:
    try:
        found = policy.parse(f"package agent_policy\n{rest}")
    except BadRequest:
        return
    lines = [line.partition("#")[0].replace(" ", "") for line in rest.split("\n")]
    if found.allows("X"):
        assert {"X:=true", "X=true", "defaultX:=true", "defaultX=true"} & set(lines)
    for answer in ("X:=false", "X=false"):
        assert answer not in lines or not found.allows("X")
