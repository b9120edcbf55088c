"""Policies of constants: as cheap as a table, and understood exactly as the evaluator understands them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata.agent import policy
from kata.agent.errors import AgentError, BadRequest
from kata.agent.policy.decide import Rules

EXEC_DENIED = """# A comment.
package agent_policy

import future.keywords.if

default CreateContainerRequest := true   # allowed
default ReadStreamRequest = true
default ExecProcessRequest := false
"""


def test_rules_defaults_and_what_has_no_rule() -> None:
    found = policy.parse(EXEC_DENIED + "default StartContainerRequest := false\r\nStartContainerRequest := true\n")
    for name in ("CreateContainer", "ReadStream", "StartContainer"):
        assert found.check(f"{name}Request", {}).allowed
    assert not found.check("ExecProcessRequest", {}).allowed
    with pytest.raises(AgentError, match="CopyFileRequest: the policy has no answer"):
        found.check("CopyFileRequest", {})


def test_a_list_of_requests_denies_the_others() -> None:
    found = policy.Policy({"CopyFileRequest": True}, otherwise=False)
    assert found.check("CopyFileRequest", {}).allowed
    assert found.check("ExecProcessRequest", {}) == (False, "")


def test_a_policy_that_is_tried_out_allows_everything() -> None:
    found = policy.parse(EXEC_DENIED + "AllowRequestsFailingPolicy := true\n")
    assert found.allows_failing
    assert found.check("CopyFileRequest", {}).allowed
    assert found.check("ExecProcessRequest", {}).allowed


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "line 1"),
        ("default X := true", "line 1"),
        ("package other\ndefault X := true", "line 1"),
        ("package agent_policy\nX := allowed", "line 2"),
        ("package agent_policy\nX := true\nX := false", "line 3"),
        ("package agent_policy\ndefault X := true\ndefault X := true", "line 3"),
        ("package agent_policy\ndefault := true", "line 2"),
        ("package agent_policy\nX := true } else := false", "line 2"),
        ("package agent_policy\n\u0425 := true", "line 2"),
        ("package agent_policy\nX := true\nimport rego.v1", "line 3"),
        ("package agent_policy\nimport := true", "line 2"),
    ],
)
def test_what_is_not_understood_is_refused_by_line(text: str, line: str) -> None:
    with pytest.raises(BadRequest, match=line):
        policy.parse(text)


STATEMENTS = """X := true
X = false
default X := true
default X = false
Y := true
X := true # no
# X := true
import rego.v1
X := true; Y := false
X if true
default  X:=true
X:=false
import := true
X := true}
`X := true`
"""
LINES = st.sampled_from(STATEMENTS.split("\n"))


@given(st.lists(LINES, max_size=6).map("\n".join))
def test_the_evaluator_says_the_same(rest: str) -> None:
    text = f"package agent_policy\n{rest}"
    try:
        rules = Rules(text, "agent_policy")
    except BadRequest:
        with pytest.raises(BadRequest):
            policy.parse(text)
        return
    found = policy.parse(text)
    for name in ("X", "Y"):
        assert outcome(lambda name=name: found.check(name, {}).allowed) == outcome(  # type: ignore[misc]
            lambda name=name: rules.decide(name, {})[0]  # type: ignore[misc]
        )


def outcome(decide: Callable[[], bool | None]) -> bool | None:
    """What is decided; None for an error."""
    try:
        return decide()
    except AgentError:
        return None


def test_constants_do_not_load_the_evaluator() -> None:
    program = (
        "import sys\nfrom kata.agent import policy\n"
        f"found = policy.parse({EXEC_DENIED!r})\n"
        "assert found.check('ReadStreamRequest', None).allowed\n"
        "print([name for name in sys.modules if name.startswith('kata.agent.policy.')])"
    )
    path = ":".join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={"PYTHONPATH": path},
    )
    assert done.stdout.strip() == "[]"
