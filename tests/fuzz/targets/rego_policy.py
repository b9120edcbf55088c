"""A policy's text and a request that it decides about: both are the host's, whom the guest does not trust."""

from __future__ import annotations

import json

from kata.agent.errors import AgentError, BadRequest
from kata.agent.policy import PACKAGE
from kata.agent.policy.decide import Rules
from kata.agent.policy.rules import compile_module  # noqa: F401 - what is measured
from kata.agent.policy.values import EvaluationError

STEPS = 20_000
"""Fewer than in earnest, so that an input takes little time."""
REQUEST = '{"a": [1, 2.5, "x", null, true, {"b": "c"}], "OCI": {"Process": {"Args": ["sh"]}}}'
HEAD = f"package {PACKAGE}\nimport rego.v1\n"


def _seed(text: str) -> bytes:
    return f"{HEAD}{text}\n\0{REQUEST}".encode()


SEEDS = (
    _seed("default R := false\nR if { some i; input.a[i] == 1; print(i, input) }"),
    _seed('R := {"allowed": true, "ops": [{"op": "add", "path": "/pstate/a", "value": [x | x := input.a[_]]}]}'),
    _seed('f(x) := y if { y := sprintf("%v %d", [x, 1]) } else := "n"\nR if regex.match("^(a|b)*c$", f(input.a[2]))'),
    _seed("R if { every x in input.a { x != 7 }; count({k: v | v := input.a[k]}) > 2; not input.z }"),
    _seed('R contains x if { x := base64.decode("YQ=="); startswith(x, "a"); y := 3 % 2; y in {1, 2} }'),
)
TOKENS = (
    b" if ",
    b" else := ",
    b"some ",
    b"every ",
    b"not ",
    b"input",
    b"data.pstate",
    b"regex.match(",
    b"sprintf(",
    b"json.unmarshal(",
    b"`",
    b":=",
    b"==",
    b"[_]",
    b" with input as ",
    b"walk(",
    b"1e308",
    b"/ 0",
    b"\0",
)


def target(data: bytes) -> None:
    """Text and request are apart by a zero byte. Refused, or decided within the steps; the answer does not waver."""
    text, _, request = data.decode("utf-8", "replace").partition("\0")
    try:
        rules = Rules(text, PACKAGE)
    except BadRequest as error:
        assert error.what
        return
    try:
        wanted = json.loads(request or REQUEST)
    except (ValueError, RecursionError):
        return
    for name in sorted(rules._programs)[:8]:
        try:
            rules.decide(name, wanted, STEPS)
        except EvaluationError:
            pass
        except AgentError as error:
            assert error.what
