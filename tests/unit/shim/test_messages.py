"""What goes to containerd: events in order, counters of both hierarchies, codes of errors, messages to the byte."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kata.errors import KataError
from kata.log import Logger
from kata.protocol.generated import agent_pb2
from kata.protocol.generated.host import cgroups_v1_pb2, cgroups_v2_pb2, events_pb2, forward_pb2, task_pb2, task_v3_pb2
from kata.protocol.messages import message, method
from kata.protocol.server import Server, snake_case
from kata.protocol.status import Code, RpcError
from kata.protocol.transport import listen
from kata.sandbox import errors
from kata.shim.events import TOPICS, Publisher, as_any, timestamp
from kata.shim.kind import KindError
from kata.shim.service import TaskService, to_status
from kata.shim.stats import metrics

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from kata.protocol.server import Call


class Events:
    """containerd's side."""

    def __init__(self, refuse: int = 0) -> None:
        self.got: list[forward_pb2.ForwardRequest] = []
        self.refuse = refuse
        self.changed = threading.Condition()

    def forward(self, request: forward_pb2.ForwardRequest, call: Call) -> Message:
        with self.changed:
            if self.refuse:
                self.refuse -= 1
                raise RpcError(Code.UNAVAILABLE, "restarting")
            self.got.append(request)
            self.changed.notify_all()
        return message("google.protobuf.Empty")()


@pytest.mark.parametrize("refusals", [0, 2])
def test_events_arrive_in_order_also_after_a_restart(tmp_path: Path, refusals: int) -> None:
    peer = Events(refusals)
    path = tmp_path / "t.sock"
    with Server(
        {"containerd.services.events.ttrpc.v1.Events": peer}, lambda error: RpcError(Code.INTERNAL, str(error))
    ) as server:
        threading.Thread(target=server.serve, args=(listen(f"unix://{path}"),), daemon=True).start()
        publisher = Publisher(str(path), "ns", Logger(2, level="critical"))
        for number in range(20):
            publisher.publish(events_pb2.TaskStart(container_id="box", pid=number))
        publisher.close(20.0)
    envelopes = [request.envelope for request in peer.got]
    assert {(entry.namespace, entry.topic, entry.event.type_url) for entry in envelopes} == {
        ("ns", "/tasks/start", "containerd.events.TaskStart")
    }
    assert [events_pb2.TaskStart.FromString(entry.event.value).pid for entry in envelopes] == list(range(20))


def test_without_an_address_events_go_nowhere_and_cost_nothing() -> None:
    publisher = Publisher("", "ns", Logger(2, level="critical"))
    publisher.publish(events_pb2.TaskOOM(container_id="box"))
    publisher.close(5.0)


def test_every_event_has_its_topic() -> None:
    names = {name for name in events_pb2.DESCRIPTOR.message_types_by_name if name != "TaskIO"}
    assert set(TOPICS) == names


CALLS = (
    *("State", "Create", "Start", "Delete", "Pids", "Pause", "Resume", "Checkpoint", "Kill", "Exec", "ResizePty"),
    *("CloseIO", "Update", "Wait", "Stats", "Connect", "Shutdown"),
)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("version", ["v2", "v3"])
def test_every_request_of_containerd_is_served(name: str, version: str) -> None:
    assert task_v3_pb2.DESCRIPTOR  # version 3 is described
    request = method(f"containerd.task.{version}.Task", name).request
    assert request.DESCRIPTOR.full_name.startswith("containerd.task.v2.")
    assert callable(getattr(TaskService, snake_case(name)))


# Tag = number << 3 | wire type, worked out by hand.
BYTES: list[tuple[Message, bytes]] = [
    (task_pb2.StateResponse(id="a", status=task_pb2.STOPPED, exec_id="e"), b"\x0a\x01a\x20\x03\x5a\x01e"),
    (task_pb2.KillRequest(id="a", signal=9, all=True), b"\x0a\x01a\x18\x09\x20\x01"),
    (task_pb2.ResizePtyRequest(id="a", width=80, height=24), b"\x0a\x01a\x18\x50\x20\x18"),
    (events_pb2.TaskExit(container_id="c", id="e", pid=7, exit_status=1), b"\x0a\x01c\x12\x01e\x18\x07\x20\x01"),
    (timestamp(1.5), b"\x08\x01\x10\x80\xca\xb5\xee\x01"),
    (cgroups_v2_pb2.Metrics(memory=cgroups_v2_pb2.MemoryStat(usage=1)), b"\x22\x03\x80\x02\x01"),
    (cgroups_v1_pb2.MemoryEntry(limit=1, usage=2, max=3, failcnt=4), b"\x08\x01\x10\x02\x18\x03\x20\x04"),
]


@pytest.mark.parametrize(("made", "expected"), BYTES, ids=lambda value: type(value).__name__)
def test_messages_have_the_bytes_worked_out_by_hand(made: Message, expected: bytes) -> None:
    assert made.SerializeToString(deterministic=True) == expected


def counters() -> agent_pb2.StatsContainerResponse:
    reply = agent_pb2.StatsContainerResponse()
    group = reply.cgroup_stats
    cpu = group.cpu_stats.cpu_usage
    cpu.total_usage, cpu.usage_in_usermode, cpu.usage_in_kernelmode = 9_000, 6_000, 3_000
    group.cpu_stats.throttling_data.throttled_time = 5_000
    group.memory_stats.usage.usage, group.memory_stats.usage.limit = 1000, 2000
    for name, value in (("anon", 11), ("file", 22), ("inactive_file", 33), ("pgfault", 44)):
        group.memory_stats.stats[name] = value
    for minor, scale in ((0, 1), (16, 10)):
        for op, value in (("Read", 100), ("Write", 200), ("Discard", 7)):
            group.blkio_stats.io_service_bytes_recursive.add(major=253, minor=minor, op=op, value=value * scale)
    group.hugetlb_stats["2MB"].usage = 4096
    reply.network_stats.add(name="eth0", rx_bytes=1, tx_bytes=2)
    return reply


def test_counters_for_a_host_of_cgroup_v2() -> None:
    url, made = metrics(counters(), cgroup2=True)
    assert url == "io.containerd.cgroups.v2.Metrics" and isinstance(made, cgroups_v2_pb2.Metrics)
    assert (made.cpu.usage_usec, made.cpu.user_usec, made.cpu.system_usec, made.cpu.throttled_usec) == (9, 6, 3, 5)
    assert (made.memory.anon, made.memory.inactive_file, made.memory.usage, made.memory.usage_limit) == (
        *(11, 33),
        *(1000, 2000),
    )
    entries = [(entry.minor, entry.rbytes, entry.wbytes) for entry in made.io.usage]
    assert entries == [(0, 100, 200), (16, 1000, 2000)]  # one entry a device, never one for all
    assert (made.network[0].name, made.hugetlb[0].pagesize, made.hugetlb[0].current) == ("eth0", "2MB", 4096)


def test_counters_for_a_host_of_cgroup_v1() -> None:
    url, made = metrics(counters(), cgroup2=False)
    assert url == "io.containerd.cgroups.v1.Metrics" and isinstance(made, cgroups_v1_pb2.Metrics)
    assert (made.cpu.usage.total, made.cpu.usage.user, made.cpu.usage.kernel) == (9_000, 6_000, 3_000)
    memory = made.memory
    assert (memory.rss, memory.cache, memory.inactive_file, memory.total_inactive_file, memory.pg_fault) == (
        *(11, 22, 33, 33, 44),
    )
    assert (memory.usage.usage, memory.usage.limit, memory.hierarchical_memory_limit) == (1000, 2000, 2000)
    assert len(made.blkio.io_service_bytes_recursive) == 6


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.NotFoundError("no task"), Code.NOT_FOUND),
        (errors.ExistsError("there is one"), Code.ALREADY_EXISTS),
        (errors.ConflictError("it runs"), Code.FAILED_PRECONDITION),
        (errors.ConfigError("wrong"), Code.INVALID_ARGUMENT),
        (KindError("which pod"), Code.INVALID_ARGUMENT),
        (errors.GuestError("gone"), Code.UNKNOWN),
        (KataError("broken"), Code.UNKNOWN),
        (ValueError("a fault"), Code.INTERNAL),
    ],
)
def test_errors_have_their_codes(error: Exception, code: Code) -> None:
    status = to_status(error)
    assert status.code == code and status.message.startswith("kata: ")
    assert "Traceback" not in status.message


def test_an_error_says_layer_cause_and_what_to_do() -> None:
    error = errors.GuestError("the guest did not answer", hint="give it more memory", detail="console tail")
    assert to_status(error).message == "kata: guest: the guest did not answer (give it more memory)\nconsole tail"


def test_any_has_the_plain_name_as_its_url() -> None:
    packed = as_any(events_pb2.TaskOOM(container_id="box"))
    assert (packed.type_url, packed.value) == ("containerd.events.TaskOOM", b"\x0a\x03box")
