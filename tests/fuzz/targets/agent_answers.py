"""What a lying agent answers: envelope and messages as the host reads them, and what the host makes of them."""

from __future__ import annotations

from typing import cast

from kata.protocol.answers import longest, read_answer
from kata.protocol.frame import DATA, RESPONSE, Frame
from kata.protocol.generated import agent_pb2, status_pb2, ttrpc_pb2
from kata.protocol.messages import method, service
from kata.protocol.status import RpcError
from kata.sandbox.agent_errors import MESSAGE_LIMIT, understand
from kata.shim.stats import metrics

METHODS = tuple(
    method(name, described.name) for name in ("grpc.AgentService", "grpc.Health") for described in service(name).methods
)
STATS = next(number for number, described in enumerate(METHODS) if described.name == "StatsContainer")


def _response(payload: bytes, code: int = 0, text: str = "") -> bytes:
    return ttrpc_pb2.Response(status=status_pb2.Status(code=code, message=text), payload=payload).SerializeToString()


def _stats() -> bytes:
    stats = agent_pb2.StatsContainerResponse()
    stats.cgroup_stats.memory_stats.stats["anon"] = 2**64 - 1
    stats.cgroup_stats.memory_stats.stats["total_rss"] = 1
    stats.cgroup_stats.cpu_stats.cpu_usage.percpu_usage.append(7)
    stats.cgroup_stats.blkio_stats.io_service_bytes_recursive.add(major=8, minor=1, op="Read", value=2**63)
    stats.cgroup_stats.hugetlb_stats["2MB"].usage = 1
    stats.network_stats.add(name="eth0", rx_bytes=1)
    return stats.SerializeToString()


SEEDS = (
    bytes([0]) + _response(b"", 5, "no such \x1b[2Jcontainer"),
    bytes([1]) + _response(b"", 13, "exec container process `/bin/x`: No such file or directory"),
    bytes([STATS]) + _response(_stats()),
    bytes([len(METHODS) - 2]) + _response(b"\x08\x01"),
)
TOKENS = (
    b"\x0a\x00",
    b"\x12\x00",
    b"\x12\x80\x80\x80\x80\x10",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"anon",
    b"2MB",
)


def target(data: bytes) -> None:
    """The first byte is which call it answers, its highest bit that it comes as data and not as a response."""
    if not data:
        return
    described = METHODS[(data[0] & 0x7F) % len(METHODS)]
    kind = DATA if data[0] & 0x80 else RESPONSE
    try:
        answer = read_answer(described.name, described, Frame(1, kind, 0, data[1:]), longest(described))
    except RpcError as error:
        meant = understand(described.name, error)
        assert len(meant.what) < MESSAGE_LIMIT + 200
        assert meant.what.isprintable()
        return
    assert type(answer) is described.response
    if described.name == "StatsContainer":
        stats = cast("agent_pb2.StatsContainerResponse", answer)
        for cgroup2 in (False, True):
            metrics(stats, cgroup2=cgroup2)[1].SerializeToString()
