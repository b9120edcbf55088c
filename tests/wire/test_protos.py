"""The .proto files say what the wire says: numbers, names, types, calls; and a few messages to the byte."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata.protocol.generated import agent_pb2, control_pb2, csi_pb2, health_pb2, oci_pb2, ttrpc_pb2, types_pb2
from kata.protocol.messages import load, message

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor, FieldDescriptor
    from google.protobuf.message import Message

GOLDEN = Path(__file__).with_name("test_protos_golden.txt")
FILES = ("agent.proto", "csi.proto", "health.proto", "oci.proto", "types.proto", "ttrpc.proto", "status.proto")
SCALARS = {3: "int64", 4: "uint64", 5: "int32", 8: "bool", 9: "string", 12: "bytes", 13: "uint32"}

POOL = load().pool


def facts() -> set[str]:
    """Everything that our descriptors say, in the golden file's form."""
    found: set[str] = set()
    for name in FILES:
        file = POOL.FindFileByName(name)
        for descriptor in file.message_types_by_name.values():
            found |= of_message(descriptor)
        enums = [*file.enum_types_by_name.values()]
        for descriptor in file.message_types_by_name.values():
            enums += descriptor.enum_types
        found |= {f"value {enum.full_name} {value.name} {value.number}" for enum in enums for value in enum.values}
        for service in file.services_by_name.values():
            for call in service.methods:
                types = f"{call.input_type.full_name} {call.output_type.full_name}"
                found.add(f"call {service.full_name} {call.name} {types}")
    return found


def of_message(descriptor: Descriptor) -> set[str]:
    if not descriptor.fields:
        return {f"message {descriptor.full_name}"}
    return {f"field {descriptor.full_name} {field.number} {field.name} {type_of(field)}" for field in descriptor.fields}


def type_of(field: FieldDescriptor) -> str:
    inner = field.message_type
    if inner is not None and inner.GetOptions().map_entry:
        return f"map<{type_of(inner.fields_by_name['key'])},{type_of(inner.fields_by_name['value'])}>"
    named = inner or field.enum_type
    plain = named.full_name if named is not None else SCALARS[field.type]
    if field.is_repeated:
        return f"repeated:{plain}"
    synthetic = field.containing_oneof is not None and field.containing_oneof.name == f"_{field.name}"
    return f"optional:{plain}" if synthetic else plain


def test_protos_say_exactly_what_the_golden_file_says() -> None:
    golden = {line for line in GOLDEN.read_text().splitlines() if line and not line.startswith("#")}
    assert facts() == golden


def test_errno_of_a_seccomp_rule_has_presence_through_its_oneof() -> None:
    rule = oci_pb2.LinuxSyscall()
    assert rule.WhichOneof("ErrnoRet") is None
    rule.errnoret = 0
    assert rule.WhichOneof("ErrnoRet") == "errnoret"
    assert rule.SerializeToString() == b"\x18\x00"


def test_memory_agent_settings_tell_absent_from_zero() -> None:
    config = agent_pb2.MemAgentMemcgConfig(disabled=False)
    assert config.HasField("disabled") and not config.HasField("swap")
    assert config.SerializeToString() == b"\x08\x00"


# Tag = number << 3 | wire type (0 varint, 2 length-delimited), worked out by hand from the encoding's description.
BYTES: list[tuple[Message, bytes]] = [
    (agent_pb2.StartContainerRequest(container_id="c1"), b"\x0a\x02c1"),
    (agent_pb2.SignalProcessRequest(container_id="c", exec_id="e", signal=300), b"\x0a\x01c\x12\x01e\x18\xac\x02"),
    (agent_pb2.WaitProcessResponse(status=-1), b"\x08" + b"\xff" * 9 + b"\x01"),
    (agent_pb2.ReseedRandomDevRequest(data=b"\x00\xff"), b"\x12\x02\x00\xff"),
    (agent_pb2.FSGroup(group_id=5, group_change_policy=types_pb2.OnRootMismatch), b"\x10\x05\x18\x01"),
    (agent_pb2.AddSwapRequest(PCIPath=[2, 300]), b"\x0a\x03\x02\xac\x02"),
    (agent_pb2.Interfaces(Interfaces=[types_pb2.Interface(name="eth0")]), b"\x0a\x06\x12\x04eth0"),
    (oci_pb2.LinuxIDMapping(HostID=1, ContainerID=0, Size=2), b"\x08\x01\x18\x02"),
    (oci_pb2.POSIXRlimit(Type="R", Hard=2, Soft=1), b"\x0a\x01R\x10\x02\x18\x01"),
    (oci_pb2.Spec(Annotations={"k": "v"}), b"\x3a\x06\x0a\x01k\x12\x01v"),
    (types_pb2.IPAddress(family=types_pb2.v6, address="::1", mask="64"), b"\x08\x01\x12\x03::1\x1a\x0264"),
    (csi_pb2.VolumeUsage(used=1, unit=csi_pb2.VolumeUsage.INODES), b"\x18\x01\x20\x02"),
    (health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING), b"\x08\x01"),
    (ttrpc_pb2.Request(service="s", method="m", timeout_nano=1), b"\x0a\x01s\x12\x01m\x20\x01"),
    (ttrpc_pb2.Request(metadata=[ttrpc_pb2.KeyValue(key="k", value="v")]), b"\x2a\x06\x0a\x01k\x12\x01v"),
    (ttrpc_pb2.Response(payload=b"p"), b"\x12\x01p"),
    (control_pb2.WaitResponse(exit_code=137, error="e"), b"\x08\x89\x01\x12\x01e"),
]


@pytest.mark.parametrize(("made", "expected"), BYTES, ids=lambda value: type(value).__name__)
def test_messages_have_the_bytes_worked_out_by_hand(made: Message, expected: bytes) -> None:
    assert made.SerializeToString(deterministic=True) == expected
    assert type(made).FromString(expected) == made


def test_fields_of_a_newer_peer_are_skipped_and_kept() -> None:
    data = b"\x0a\x02c1" + b"\xfa\x7f\x03new"
    known = agent_pb2.StartContainerRequest.FromString(data)
    assert known.container_id == "c1"
    assert known.SerializeToString() == data


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "int64": st.integers(-(1 << 63), (1 << 63) - 1),
    "uint64": st.integers(0, (1 << 64) - 1),
    "int32": st.integers(-(1 << 31), (1 << 31) - 1),
    "uint32": st.integers(0, (1 << 32) - 1),
    "bool": st.booleans(),
    "string": TEXT,
    "bytes": st.binary(max_size=40),
}


@st.composite
def filled(draw: st.DrawFn, descriptor: Descriptor, depth: int = 3) -> Message:
    """A message of any content, three levels deep."""
    made = message(descriptor.full_name)()
    for field in descriptor.fields:
        if draw(st.booleans()):
            fill(draw, made, field, depth)
    return made


def fill(draw: st.DrawFn, made: Message, field: FieldDescriptor, depth: int) -> None:
    inner = field.message_type
    if inner is not None and inner.GetOptions().map_entry:
        if inner.fields_by_name["value"].message_type is None:
            getattr(made, field.name)[draw(TEXT)] = draw(VALUES[type_of(inner.fields_by_name["value"])])
    elif inner is not None:
        if depth and inner.file.name in FILES:
            one = draw(filled(inner, depth - 1))
            if field.is_repeated:
                getattr(made, field.name).append(one)
            else:
                getattr(made, field.name).CopyFrom(one)
    else:
        numbers = [value.number for value in field.enum_type.values] if field.enum_type else []
        strategy = st.sampled_from(numbers) if numbers else VALUES[SCALARS[field.type]]
        if field.is_repeated:
            getattr(made, field.name).extend(draw(st.lists(strategy, max_size=3)))
        else:
            setattr(made, field.name, draw(strategy))


@given(st.data())
def test_any_message_survives_the_wire_and_the_public_library_reads_it_alike(data: st.DataObject) -> None:
    names = [
        "grpc.CreateContainerRequest",
        "grpc.StatsContainerResponse",
        "grpc.CopyFileRequest",
        "types.Interface",
        "grpc.MemAgentCompactConfig",
        "ttrpc.Request",
        "ttrpc.Response",
    ]
    made = data.draw(filled(POOL.FindMessageTypeByName(data.draw(st.sampled_from(names)))))
    wire = made.SerializeToString(deterministic=True)
    assert type(made).FromString(wire) == made
    other = PUBLIC.message(made.DESCRIPTOR.full_name).FromString(wire)
    assert other.SerializeToString(deterministic=True) == wire
    assert str(other) == str(made)


PUBLIC = load(public=True)
