"""The policy's one gate: asked by the server before the handler of any request runs.

Made by `__main__`. Health checks are not subject to the policy: a host that may do nothing else may still know whether
the agent lives.
"""

from __future__ import annotations

from kata.protocol.status import Code, RpcError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.message import Message

    from kata.agent.policy import Decision
    from kata.agent.sandbox import Sandbox
    from kata.protocol.messages import Method
    from kata.protocol.server import Call

READ_STREAM = "ReadStreamRequest"
"""Blocked reads are answered with nothing, by the handler: refused, the container would block on its full pipe."""
SET_POLICY = "SetPolicyRequest"
"""Asked by the handler, which must not let another policy in between the answer and the change."""


def guard(sandbox: Sandbox) -> Callable[[Method, Message, Call], None]:
    """What refuses the requests that the sandbox's policy does not allow, with PERMISSION_DENIED."""

    def authorize(method: Method, request: Message, call: Call) -> None:
        name = request.DESCRIPTOR.name
        if method.service == "grpc.AgentService" and name not in (READ_STREAM, SET_POLICY):
            require(sandbox, name, request)

    return authorize


def require(sandbox: Sandbox, name: str, request: Message) -> None:
    """Raise RpcError (PERMISSION_DENIED) for a request that the policy does not allow, with what it printed.

    Raises AgentError where the policy has no answer.
    """
    decision = decide(sandbox, name, request)
    if decision is None or decision.allowed:
        return
    sandbox.log.warn("blocked by policy", request=name)
    reason = f": {decision.reason}" if decision.reason else ""
    raise RpcError(Code.PERMISSION_DENIED, f"{name} is blocked by policy{reason}")


def decide(sandbox: Sandbox, name: str, request: Message) -> Decision | None:
    """What the policy says; None where there is none. Raises AgentError where it has no answer."""
    policy = sandbox.policy
    return None if policy is None else policy.check(name, request)
