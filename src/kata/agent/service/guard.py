"""The policy's one gate: asked by the server before the handler of any request runs.

Made by `__main__`. Health checks are not subject to the policy: a host that may do nothing else may still know whether
the agent lives.
"""

from __future__ import annotations

from kata.protocol.status import Code, RpcError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from kata.agent.sandbox import Sandbox
    from kata.protocol.messages import Method
    from kata.protocol.server import Call

READ_STREAM = "ReadStreamRequest"
"""Blocked reads are answered with nothing, by the handler: refused, the container would block on its full pipe."""


def guard(sandbox: Sandbox) -> Callable[[Method, Call], None]:
    """What refuses the requests that the sandbox's policy does not allow, with PERMISSION_DENIED."""

    def authorize(method: Method, call: Call) -> None:
        name = method.request.DESCRIPTOR.name
        policy = sandbox.policy
        if policy is None or method.service != "grpc.AgentService" or name == READ_STREAM or policy.allows(name):
            return
        sandbox.log.warn("blocked by policy", request=name)
        raise RpcError(Code.PERMISSION_DENIED, f"{name} is blocked by policy")

    return authorize
