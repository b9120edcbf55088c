"""Requests that look at the guest from outside, or set how it is watched.

One part of `AgentService`. Each method unpacks its message, calls one room, packs the reply: no decisions here. The
rooms are imported at first use, since most sandboxes never need them.
"""

from __future__ import annotations

from kata.agent.service.base import Base
from kata.agent.service.guard import SET_POLICY, require
from kata.protocol.generated import agent_pb2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from google.protobuf.message import Message

    from kata.agent.memagent import MemoryAgent
    from kata.protocol.server import Call


class Observe(Base):
    """Metrics, diagnostic data, packet filter, policy, the memory agent."""

    def get_metrics(self, request: agent_pb2.GetMetricsRequest, call: Call) -> agent_pb2.Metrics:
        """Guest and agent in numbers."""
        from kata.agent import metrics

        return agent_pb2.Metrics(metrics=metrics.render())

    def get_diagnostic_data(
        self, request: agent_pb2.GetDiagnosticDataRequest, call: Call
    ) -> agent_pb2.GetDiagnosticDataResponse:
        """The end of a container's story."""
        from kata.agent import diagnostics

        data = diagnostics.read(request.log_type, self._container(request).spec)
        return agent_pb2.GetDiagnosticDataResponse(data=data)

    def get_ip_tables(self, request: agent_pb2.GetIPTablesRequest, call: Call) -> agent_pb2.GetIPTablesResponse:
        """The rules of the packet filter."""
        from kata.agent import iptables

        return agent_pb2.GetIPTablesResponse(data=iptables.save(self._sandbox.reaper, ipv6=request.is_ipv6))

    def set_ip_tables(self, request: agent_pb2.SetIPTablesRequest, call: Call) -> agent_pb2.SetIPTablesResponse:
        """Replace rules of the packet filter."""
        from kata.agent import iptables

        said = iptables.restore(self._sandbox.reaper, request.data, ipv6=request.is_ipv6)
        return agent_pb2.SetIPTablesResponse(data=said)

    def set_policy(self, request: agent_pb2.SetPolicyRequest, call: Call) -> Message:
        """Replace the policy; the one before decided whether this may be."""
        from kata.agent import policy

        with self._sandbox.policy_change:
            require(self._sandbox, SET_POLICY, request)
            new = self._sandbox.policy = policy.parse(request.policy)
        self._sandbox.log.info("policy replaced")
        if new.allows_failing:
            self._sandbox.log.warn("the policy allows what it denies", rule=policy.FALLBACK)
        return self._done()

    def mem_agent_memcg_set(self, request: agent_pb2.MemAgentMemcgConfig, call: Call) -> Message:
        """How containers' memory is given back."""
        self._memory_agent().set_reclaim(request)
        return self._done()

    def mem_agent_compact_set(self, request: agent_pb2.MemAgentCompactConfig, call: Call) -> Message:
        """How free memory is compacted."""
        self._memory_agent().set_compact(request)
        return self._done()

    def _memory_agent(self) -> MemoryAgent:
        found = self._sandbox.memory_agent
        if found is None:
            raise self._sandbox.no_memory_agent
        return found
