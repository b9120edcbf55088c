"""Decisions: answers of every form, the state that changes with them, and what the agent makes of them."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any, cast

import pytest

from kata.agent import policy
from kata.agent.errors import BadRequest
from kata.agent.policy import Policy, patch
from kata.agent.policy.values import EvaluationError, from_json, to_json
from kata.agent.sandbox import Sandbox
from kata.agent.service import guard
from kata.agent.service.observe import Observe
from kata.agent.service.processes import Processes
from kata.protocol.generated import agent_pb2
from kata.protocol.messages import method
from kata.protocol.server import Call
from kata.protocol.status import Code, RpcError

CALL = cast("Call", None)


def parsed(rules: str) -> Policy:
    return policy.parse(f"package agent_policy\n{rules}\n")


@pytest.mark.parametrize(
    ("rules", "allowed"),
    [
        ("X { input.a == 1 }", True),
        ('X := {"allowed": true} { input.a == 1 }', True),
        ('X := {"allowed": true, "ops": null} { input.a == 1 }', True),
        ('X := {"allowed": true, "ops": [], "more": 1} { input.a == 1 }', True),
        ('X := {"allowed": false} { input.a == 1 }', False),
        ("default X := false\nX { input.a == 2 }", False),
        ("X := input.a == 2", False),
    ],
)
def test_answers(rules: str, allowed: bool) -> None:
    assert parsed(rules).check("X", {"a": 1}).allowed is allowed


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ("Y { input }", "X: the policy has no answer"),
        ("X { input.a == 2 }", "X: the policy has no answer"),
        ("X := 1 { input }", "neither a boolean"),
        ('X := "yes" { input }', "neither a boolean"),
        ('X := {"ops": []} { input }', "neither a boolean"),
        ('X := {"allowed": 1} { input }', "neither a boolean"),
        ('X := {"allowed": true, "ops": 1} { input }', "ops is not an array"),
        ("X(a) := true", "is a function"),
        ("X contains input.a", "neither a boolean"),
    ],
)
def test_no_answer_is_an_error(rules: str, message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        parsed(rules).check("X", {"a": 1})


def test_what_fails_can_be_allowed() -> None:
    found = parsed("AllowRequestsFailingPolicy := true\nX { input.a == 2 }\nY := input.a == 2")
    assert found.allows_failing
    assert found.check("X", {}).allowed
    assert found.check("Y", {"a": 1}).allowed
    assert found.check("Z", {}).allowed
    assert not parsed("AllowRequestsFailingPolicy { input.a }\nX { false }").allows_failing


COUNTING = """X := {"allowed": ok, "ops": ops} {
  n := object.get(data.pstate, "n", 0)
  ok := n < input.limit
  ops := [{"op": "add", "path": "/pstate/n", "value": n + 1}]
}
N := data.pstate.n == input
"""


def test_the_state_changes_with_what_is_allowed_only() -> None:
    found = parsed(COUNTING)
    assert [found.check("X", {"limit": 2}).allowed for _ in range(4)] == [True, True, False, False]
    assert found.check("N", 2).allowed


def test_a_patch_that_fails_changes_nothing() -> None:
    found = parsed(
        """X := {"allowed": true, "ops": [
  {"op": "add", "path": "/pstate/a", "value": 1},
  {"op": "remove", "path": "/pstate/b"},
] } { input }
A { data.pstate.a }
default A := false"""
    )
    with pytest.raises(EvaluationError, match="X: /pstate/b is not in the state"):
        found.check("X", 1)
    assert not found.check("A", 1).allowed


def test_decisions_are_made_one_at_a_time() -> None:
    found = parsed(COUNTING)
    allowed: list[bool] = []
    threads = [
        threading.Thread(target=lambda: allowed.extend(found.check("X", {"limit": 60}).allowed for _ in range(20)))
        for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(allowed) == 100
    assert sum(allowed) == 60


@pytest.mark.parametrize(
    ("ops", "expected"),
    [
        ([{"op": "add", "path": "/pstate/x", "value": [1]}], {"a": {"b": [1, 2]}, "x": [1]}),
        ([{"op": "add", "path": "/pstate/a/b/0", "value": 0}], {"a": {"b": [0, 1, 2]}}),
        ([{"op": "add", "path": "/pstate/a/b/-", "value": 3}], {"a": {"b": [1, 2, 3]}}),
        ([{"op": "add", "path": "/pstate/m~1n~0o", "value": 3}], {"a": {"b": [1, 2]}, "m/n~o": 3}),
        ([{"op": "replace", "path": "/pstate/a/b/1", "value": 3}], {"a": {"b": [1, 3]}}),
        ([{"op": "remove", "path": "/pstate/a/b/0"}], {"a": {"b": [2]}}),
        ([{"op": "remove", "path": "/pstate/a"}], {}),
        ([{"op": "move", "from": "/pstate/a/b", "path": "/pstate/c"}], {"a": {}, "c": [1, 2]}),
        ([{"op": "copy", "from": "/pstate/a/b/0", "path": "/pstate/c"}], {"a": {"b": [1, 2]}, "c": 1}),
        ([{"op": "test", "path": "/pstate/a/b", "value": [1, 2]}], {"a": {"b": [1, 2]}}),
        ([{"op": "replace", "path": "/pstate", "value": {}}], {}),
    ],
)
def test_patches(ops: list[object], expected: object) -> None:
    assert to_json(patch.apply(from_json({"a": {"b": [1, 2]}}), from_json(ops))) == expected


@pytest.mark.parametrize(
    "op",
    [
        {"op": "add", "path": "/agent_policy/x", "value": 1},
        {"op": "add", "path": "", "value": 1},
        {"op": "add", "path": "pstate/x", "value": 1},
        {"op": "add", "path": "/pstate/x"},
        {"op": "add", "path": "/pstate/a/b/7", "value": 1},
        {"op": "add", "path": "/pstate/a/b/01", "value": 1},
        {"op": "add", "path": "/pstate/nothing/x", "value": 1},
        {"op": "replace", "path": "/pstate/nothing", "value": 1},
        {"op": "remove", "path": "/pstate/nothing"},
        {"op": "remove", "path": "/pstate"},
        {"op": "move", "from": "/pstate/a", "path": "/pstate/a/b"},
        {"op": "copy", "from": "/secret", "path": "/pstate/c"},
        {"op": "test", "path": "/pstate/a/b", "value": [1]},
        {"op": "other", "path": "/pstate/a"},
        {"path": "/pstate/a"},
        1,
    ],
)
def test_patches_that_cannot_be_done(op: object) -> None:
    with pytest.raises(EvaluationError):
        patch.apply(from_json({"a": {"b": [1, 2]}}), from_json([op]))


# What the agent makes of it


def sandbox(found: Policy | None) -> Sandbox:
    """As much of a sandbox as asking a policy needs."""
    log = SimpleNamespace(warn=lambda *words, **fields: None, info=lambda *words, **fields: None)
    return cast("Sandbox", SimpleNamespace(policy=found, policy_change=threading.Lock(), log=log))


def ask(found: Policy | None, rpc: str, request: Any) -> None:
    guard(sandbox(found))(method("grpc.AgentService", rpc), request, CALL)


def test_the_guard_says_what_was_printed() -> None:
    found = parsed('default ExecProcessRequest := false\nExecProcessRequest { print("id", input.container_id); false }')
    with pytest.raises(RpcError) as caught:
        ask(found, "ExecProcess", agent_pb2.ExecProcessRequest(container_id="c"))
    assert caught.value.code == Code.PERMISSION_DENIED
    assert caught.value.message == "ExecProcessRequest is blocked by policy: agent_policy:3: id c"
    ask(None, "ExecProcess", agent_pb2.ExecProcessRequest())
    with pytest.raises(EvaluationError, match="StartContainerRequest: the policy has no answer"):
        ask(found, "StartContainer", agent_pb2.StartContainerRequest())


def test_the_policy_decides_whether_it_may_be_replaced() -> None:
    box = sandbox(parsed('SetPolicyRequest { contains(input.policy, "# signed") }\ndefault SetPolicyRequest := false'))
    service = Observe(box)
    first = box.policy
    with pytest.raises(RpcError, match="SetPolicyRequest is blocked by policy"):
        service.set_policy(agent_pb2.SetPolicyRequest(policy="package agent_policy"), CALL)
    with pytest.raises(BadRequest, match="line 3"):
        service.set_policy(agent_pb2.SetPolicyRequest(policy="package agent_policy\n# signed\nX {"), CALL)
    assert box.policy is first
    service.set_policy(agent_pb2.SetPolicyRequest(policy="package agent_policy\n# signed\nX := true"), CALL)
    assert box.policy is not first
    with pytest.raises(EvaluationError, match="SetPolicyRequest: the policy has no answer"):
        service.set_policy(agent_pb2.SetPolicyRequest(policy="package agent_policy\n# signed"), CALL)


@pytest.mark.parametrize(
    ("rules", "hidden"),
    [
        ("default ReadStreamRequest := false", True),
        ("default ReadStreamRequest := true", False),
        ('ReadStreamRequest { input.container_id == "loud" }', True),
        ('ReadStreamRequest { input.container_id == "quiet" }', False),
    ],
)
def test_output_is_hidden_where_reading_it_is_not_allowed(rules: str, hidden: bool) -> None:
    service = Processes(sandbox(parsed(rules)))
    request = agent_pb2.ReadStreamRequest(container_id="quiet")
    assert service._redacted(request) is hidden
    ask(parsed(rules), "ReadStdout", request)  # never refused: the handler keeps the data back
