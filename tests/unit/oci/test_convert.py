"""The specification's two forms: what goes over the wire comes back meaning the same."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kata.oci import convert, shapes
from kata.oci.errors import SpecError
from kata.protocol.generated import oci_pb2

U32 = st.integers(0, 2**32 - 1)
IDS = st.integers(0, 2**32 - 2)
U64 = st.integers(0, 2**64 - 1)
I64 = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)

# Ranges by message and key where the wire has no 64-bit number: written down here a second time, by hand, from the
# protocol's table, so that a row with a wrong type in shapes.py cannot agree with itself.
NARROW = {"height", "width", "uid", "gid", "hostID", "containerID", "size", "fileMode", "weight", "leafWeight"}
NARROW |= {"classID", "priority", "errnoRet"}
UNSIGNED = {"hard", "soft", "swappiness", "shares", "period", "realtimePeriod", "rate", "index", "value", "valueTwo"}


def numbers(shape: shapes.Shape, key: str) -> st.SearchStrategy[int]:
    if key in NARROW:
        return U32
    if key in UNSIGNED or (shape is shapes.HUGEPAGE_LIMIT and key == "limit"):
        return U64
    return I64


def objects(shape: shapes.Shape) -> st.SearchStrategy[dict[str, Any]]:
    """Any JSON object of this shape, each key there or not."""
    fields = {field.key: values(shape, field) for field in shape}
    return st.fixed_dictionaries({}, optional=fields)


def values(shape: shapes.Shape, field: shapes.Field) -> st.SearchStrategy[Any]:
    kind = field.kind
    if kind in (shapes.TEXT, shapes.TEXT_ALWAYS):
        return TEXT
    if kind in (shapes.FLAG, shapes.FLAG_ALWAYS):
        return st.booleans()
    if kind == shapes.NUMBER_OR_ANY:
        return st.integers(0, 2**31)
    if kind in (shapes.INT, shapes.INT_ALWAYS, shapes.INT_OPTIONAL):
        return numbers(shape, field.key)
    if kind == shapes.TEXTS:
        return st.lists(TEXT, max_size=3)
    if kind == shapes.ID_ALWAYS:
        return IDS
    if kind == shapes.IDS:
        return st.lists(IDS, max_size=3)
    if kind == shapes.MAP:
        return st.dictionaries(TEXT, TEXT, max_size=3)
    if kind == shapes.ONE:
        return objects(field.shape)
    return st.lists(objects(field.shape), max_size=2)


# What JSON demands, or what means the same when it is zero; by the path of the object.
REQUIRED: dict[str, dict[str, Any]] = {
    "": {"ociVersion": ""},
    "process": {"cwd": "", "oomScoreAdj": 0},
    "process.consoleSize": {"height": 0, "width": 0},
    "process.user": {"uid": 0, "gid": 0},
    "process.rlimits": {"type": "", "hard": 0, "soft": 0},
    "root": {"path": ""},
    "mounts": {"destination": ""},
    "linux.uidMappings": {"hostID": 0, "containerID": 0, "size": 0},
    "linux.gidMappings": {"hostID": 0, "containerID": 0, "size": 0},
    "linux.namespaces": {"type": ""},
    "linux.devices": {"path": "", "type": "", "major": 0, "minor": 0},
    "linux.resources.devices": {"allow": False},
    "linux.resources.hugepageLimits": {"pageSize": "", "limit": 0},
    "linux.resources.network.priorities": {"name": "", "priority": 0},
    "linux.resources.blockIO.weightDevice": {"major": 0, "minor": 0},
    "linux.seccomp": {"defaultAction": ""},
    "linux.seccomp.syscalls": {"action": ""},
    "linux.seccomp.syscalls.args": {"index": 0, "value": 0, "op": ""},
}
for _name in ("prestart", "poststart", "poststop", "createRuntime", "createContainer", "startContainer"):
    REQUIRED[f"hooks.{_name}"] = {"path": ""}
for _name in ("ReadBps", "WriteBps", "ReadIOPS", "WriteIOPS"):
    REQUIRED[f"linux.resources.blockIO.throttle{_name}Device"] = {"major": 0, "minor": 0, "rate": 0}
KEPT = {"linux.resources.devices": {"major", "minor"}, "linux.seccomp.syscalls": {"errnoRet"}}


def normalise(value: Any, path: str = "") -> Any:
    """The meaning of a JSON value, by the rules of the documentation and not of the code."""
    if isinstance(value, list):
        return [normalise(entry, path) for entry in value]
    if not isinstance(value, dict) or path in ("annotations", "linux.sysctl"):
        return value
    result = dict(REQUIRED.get(path, {}))
    for key, item in value.items():
        inner = normalise(item, f"{path}.{key}" if path else key)
        required = key in REQUIRED.get(path, {}) or key in KEPT.get(path, ())
        empty_object = isinstance(inner, dict) and f"{path}.{key}" not in (".annotations", "linux.sysctl")
        if required or inner or empty_object:
            result[key] = inner
    if path == "linux.resources.devices" and result.get("type", "a") == "a":
        result.pop("major", None)
        result.pop("minor", None)
    return result


@settings(max_examples=150, deadline=None)
@given(objects(shapes.SPEC))
def test_a_spec_survives_the_wire(spec: Any) -> None:
    before = copy.deepcopy(spec)
    raw = convert.spec_to_proto(spec).SerializeToString()
    received = oci_pb2.Spec.FromString(raw)
    assert convert.spec_from_proto(received) == normalise(spec)
    assert spec == before


@settings(max_examples=50, deadline=None)
@given(objects(shapes.SPEC))
def test_what_was_received_is_sent_on_unchanged(spec: Any) -> None:
    once = convert.spec_from_proto(convert.spec_to_proto(spec))
    assert convert.spec_from_proto(convert.spec_to_proto(once)) == once


@settings(max_examples=50, deadline=None)
@given(objects(shapes.PROCESS), objects(shapes.RESOURCES))
def test_processes_and_resources_travel_alone(process: Any, resources: Any) -> None:
    assert convert.process_from_proto(convert.process_to_proto(process)) == normalise(process, "process")
    received = convert.resources_from_proto(convert.resources_to_proto(resources))
    assert received == normalise(resources, "linux.resources")


def test_every_field_of_the_protocol_is_in_a_table() -> None:
    def check(descriptor: Any, shape: shapes.Shape) -> None:
        known = {field.name: field for field in shape}
        unused = {"Solaris", "Windows"} if shape is shapes.SPEC else set()
        assert set(descriptor.fields_by_name) - unused == set(known)
        for name, field in known.items():
            if field.shape:
                check(descriptor.fields_by_name[name].message_type, field.shape)

    check(oci_pb2.Spec.DESCRIPTOR, shapes.SPEC)


def test_traps_of_the_wire() -> None:
    spec: Any = {
        "process": {"rlimits": [{"type": "RLIMIT_NOFILE", "hard": 2, "soft": 1}]},
        "linux": {
            "uidMappings": [{"containerID": 1, "hostID": 2, "size": 3}],
            "seccomp": {"syscalls": [{"names": ["a"], "errnoRet": 0}, {"names": ["b"]}]},
            "resources": {"devices": [{"allow": True, "type": "c", "major": 5, "access": "r"}]},
        },
    }
    message = convert.spec_to_proto(spec)
    assert (message.Process.Rlimits[0].Hard, message.Process.Rlimits[0].Soft) == (2, 1)
    # field numbers as upstream has them: host id is 1, container id 2
    assert message.Linux.UIDMappings[0].SerializeToString() == b"\x08\x02\x10\x01\x18\x03"
    first, second = message.Linux.Seccomp.Syscalls
    assert first.HasField("errnoret") and not second.HasField("errnoret")
    assert (message.Linux.Resources.Devices[0].Major, message.Linux.Resources.Devices[0].Minor) == (5, -1)


@pytest.mark.parametrize("kind", ["a", ""])
def test_a_rule_for_all_devices_has_no_numbers(kind: str) -> None:
    message = oci_pb2.LinuxResources()
    message.Devices.add(Allow=True, Type=kind, Major=0, Minor=0, Access="rwm")
    (rule,) = convert.resources_from_proto(message)["devices"]
    assert "major" not in rule and "minor" not in rule


def test_a_rule_for_one_kind_never_grows_wider() -> None:
    message = oci_pb2.LinuxResources()
    message.Devices.add(Allow=True, Type="b", Major=8, Minor=0, Access="r")
    assert convert.resources_from_proto(message)["devices"] == [
        {"allow": True, "type": "b", "major": 8, "minor": 0, "access": "r"}
    ]


@pytest.mark.parametrize(
    ("spec", "place"),
    [
        ({"process": {"user": {"uid": -1}}}, "process.user.uid"),
        ({"process": {"user": {"uid": True}}}, "process.user.uid"),
        ({"process": {"args": ["a", 1]}}, "process.args[1]"),
        ({"process": {"args": "sh"}}, "process.args"),
        ({"mounts": [{}, {"options": [None]}]}, "mounts[1].options[0]"),
        ({"linux": {"resources": {"memory": {"limit": 2**63}}}}, "linux.resources.memory.limit"),
        ({"linux": {"resources": {"cpu": {"shares": 1.5}}}}, "linux.resources.cpu.shares"),
        ({"annotations": {"a": 1}}, "annotations"),
        ({"annotations": {"a": "\ud800"}}, "annotations"),
        ({"hostname": "\ud800"}, "hostname"),
        ({"linux": []}, "linux"),
        ([], "the specification"),
    ],
)
def test_what_cannot_be_carried_is_named(spec: Any, place: str) -> None:
    with pytest.raises(SpecError) as caught:
        convert.spec_to_proto(spec)
    assert str(caught.value).startswith(f"{place} ")


def test_null_is_absent() -> None:
    spec: Any = {"process": {"args": None, "user": None}, "linux": None}
    assert convert.spec_from_proto(convert.spec_to_proto(spec)) == {
        "ociVersion": "",
        "process": {"cwd": "", "oomScoreAdj": 0},
    }


def test_fields_that_the_protocol_lacks_are_told() -> None:
    spec: Any = {
        "domainname": "d",
        "process": {"user": {"umask": 18}, "ioPriority": {}},
        "linux": {"seccomp": {"defaultErrnoRet": 38}, "resources": {"unified": {"memory.high": "1"}}},
        "mounts": [{}, {"uidMappings": [{}]}],
    }
    assert set(convert.lost_fields(spec)) == {
        "domainname",
        "process.user.umask",
        "linux.seccomp.defaultErrnoRet",
        "linux.resources.unified",
        "mounts[1].uidMappings",
    }
    convert.spec_to_proto(spec)  # and are no error
