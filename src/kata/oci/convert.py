"""A specification's JSON to the agent's protocol and back.

Called by the host when it asks for a container or a process, and by the agent when it is asked. What maps to what
stands in `shapes`; here is only how a row is carried out. Both directions are total: a value that cannot be
carried raises SpecError naming its JSON path, and nothing is adapted on the way (that is the sandbox's and the
agent's work). Never add a default.

Three rules deserve words. The user or group 2^32-1 is refused both ways: setresuid(2) takes it for "as before", so a
process of nobody's would run as root (GO-2025-3528). A cgroup rule's "any device number" is absent in JSON and -1 on
the wire; a rule for all kinds ("a", or no type) has no numbers at all, although some runtimes put 0 there. Any other 0
stays 0, since a minor number of 0 is a real one and an allow rule must never grow wider on its way. And a limit of 0 is
absent on the wire: cgroups have no limit of that value, the one exception being swappiness, which cannot be sent as 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from kata.oci import shapes
from kata.oci.errors import SpecError
from kata.oci.shapes import Field, Shape
from kata.protocol.generated import oci_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from google.protobuf.message import Message

    from kata.oci.spec import LinuxResources, Process, Spec

ANY_NUMBER = -1
AS_BEFORE = 2**32 - 1
_ALWAYS = frozenset((shapes.TEXT_ALWAYS, shapes.FLAG_ALWAYS, shapes.INT_ALWAYS, shapes.ID_ALWAYS))
_LISTS = frozenset((shapes.TEXTS, shapes.IDS))
_IDENTITIES = frozenset((shapes.ID_ALWAYS, shapes.IDS))
_TYPES: dict[int, type] = {
    shapes.TEXT: str,
    shapes.TEXT_ALWAYS: str,
    shapes.FLAG: bool,
    shapes.FLAG_ALWAYS: bool,
    shapes.INT: int,
    shapes.INT_ALWAYS: int,
    shapes.INT_OPTIONAL: int,
    shapes.NUMBER_OR_ANY: int,
    shapes.TEXTS: list,
    shapes.MAP: dict,
    shapes.ONE: dict,
    shapes.MANY: list,
    shapes.ID_ALWAYS: int,
    shapes.IDS: list,
}


def spec_to_proto(spec: Spec) -> oci_pb2.Spec:
    """The protocol's form of a specification. Raises SpecError."""
    message = oci_pb2.Spec()
    _write(message, shapes.SPEC, spec, "")
    return message


def spec_from_proto(message: oci_pb2.Spec) -> Spec:
    """The specification that a message carries. Raises SpecError."""
    return cast("Spec", _read(message, shapes.SPEC))


def process_to_proto(process: Process) -> oci_pb2.Process:
    """The protocol's form of a process. Raises SpecError."""
    message = oci_pb2.Process()
    _write(message, shapes.PROCESS, process, "process")
    return message


def process_from_proto(message: oci_pb2.Process) -> Process:
    """The process that a message carries. Raises SpecError."""
    return cast("Process", _read(message, shapes.PROCESS))


def resources_to_proto(resources: LinuxResources) -> oci_pb2.LinuxResources:
    """The protocol's form of resource limits. Raises SpecError."""
    message = oci_pb2.LinuxResources()
    _write(message, shapes.RESOURCES, resources, "linux.resources")
    return message


def resources_from_proto(message: oci_pb2.LinuxResources) -> LinuxResources:
    """The resource limits that a message carries."""
    return cast("LinuxResources", _read(message, shapes.RESOURCES))


def check(spec: Spec) -> None:
    """Raise SpecError unless every field that is known here has its type, is in its range, and is there if it must."""
    spec_to_proto(spec)
    for place, needed, entries in (
        ("mounts", "destination", spec.get("mounts", [])),
        ("linux.namespaces", "type", spec.get("linux", {}).get("namespaces", [])),
    ):
        for index, entry in enumerate(cast("list[dict[str, object]]", entries)):
            if not entry.get(needed):
                raise SpecError(f"{place}[{index}] has no {needed}")


def lost_fields(spec: Spec) -> list[str]:
    """The JSON paths of what is set in `spec` and has no place in the protocol, for a warning."""
    return list(_lost(spec, shapes.SPEC, ""))


def _write(message: Message, shape: Shape, value: object, path: str) -> None:
    source = _check(value, dict, path or "the specification")
    for field in shape:
        item = source.get(field.key)
        place = f"{path}.{field.key}" if path else field.key
        if item is not None:  # engines written in Go put null where they mean absent
            _write_field(message, field, item, place)
        elif field.kind == shapes.NUMBER_OR_ANY:
            setattr(message, field.name, ANY_NUMBER)


def _write_field(message: Message, field: Field, item: object, place: str) -> None:
    checked = _check(item, _TYPES[field.kind], place)
    if field.kind in _IDENTITIES:
        _refuse_as_before(checked, place)
    try:
        if field.kind == shapes.ONE:
            child = getattr(message, field.name)
            child.SetInParent()
            _write(child, field.shape, checked, place)
        elif field.kind == shapes.MANY:
            children = getattr(message, field.name)
            for index, entry in enumerate(checked):
                _write(children.add(), field.shape, entry, f"{place}[{index}]")
        elif field.kind in _LISTS:
            getattr(message, field.name).extend(_check_all(field, checked, place))
        elif field.kind == shapes.MAP:
            getattr(message, field.name).update(checked)
            _refuse_nul((*checked, *checked.values()), place)
        else:
            setattr(message, field.name, checked)
            _refuse_nul((checked,), place)
    except (TypeError, ValueError) as error:  # what protobuf says of a number out of range or a wrong type
        raise SpecError(f"{place} cannot be sent to the guest: {error}") from error


def _check(value: object, wanted: type, place: str) -> Any:  # noqa: ANN401 - `wanted` is the type, which is data
    if type(value) is not wanted:  # exact: True is no number
        raise SpecError(f"{place} must be {_NAMES[wanted]}, not {_NAMES.get(type(value), 'something else')}")
    return value


def _check_all(field: Field, values: list[object], place: str) -> list[object]:
    wanted = str if field.kind == shapes.TEXTS else int
    _refuse_nul(values, place)
    return [_check(value, wanted, f"{place}[{index}]") for index, value in enumerate(values)]


def _refuse_as_before(value: Any, place: str) -> None:  # noqa: ANN401 - an id, or a list of them
    if AS_BEFORE in (value if not isinstance(value, int) else (value,)):
        raise SpecError(f"{place} has {AS_BEFORE}, which is no user or group: root would stay root")


def _refuse_nul(values: Iterable[object], place: str) -> None:
    """No name, path or variable has a NUL in it: for whoever reads it next it would end there."""
    if any(isinstance(value, str) and "\0" in value for value in values):
        raise SpecError(f"{place} has a NUL character in it")


def _read(message: Message, shape: Shape) -> dict[str, object]:
    result: dict[str, object] = {}
    for field in shape:
        value = _read_field(message, field)
        if value is not None:
            result[field.key] = value
    if shape is shapes.DEVICE_RULE and result.get("type", "a") == "a":
        result.pop("major", None)
        result.pop("minor", None)
    return result


def _read_field(message: Message, field: Field) -> object:
    """The field's JSON value, or None where it is absent."""
    kind = field.kind
    if kind in (shapes.ONE, shapes.INT_OPTIONAL) and not message.HasField(field.name):
        return None
    value = getattr(message, field.name)
    if kind == shapes.ONE:
        return _read(value, field.shape)
    if kind == shapes.MANY:
        return [_read(entry, field.shape) for entry in value] or None
    if kind in _IDENTITIES:
        _refuse_as_before(value, field.key)
    if kind in _LISTS:
        return list(value) or None
    if kind == shapes.MAP:
        return dict(value) or None
    if kind == shapes.NUMBER_OR_ANY:
        return None if value < 0 else value
    if kind == shapes.INT_OPTIONAL or kind in _ALWAYS:
        return cast("object", value)
    return value or None


def _lost(value: object, shape: Shape, path: str) -> Iterator[str]:
    if not isinstance(value, dict):
        return
    known = {field.key: field for field in shape}
    for key, item in value.items():
        place = f"{path}.{key}" if path else key
        field = known.get(key)
        if field is None:
            if item not in (None, "", [], {}):
                yield place
        elif field.kind == shapes.ONE:
            yield from _lost(item, field.shape, place)
        elif field.kind == shapes.MANY and isinstance(item, list):
            for index, entry in enumerate(item):
                yield from _lost(entry, field.shape, f"{place}[{index}]")


_NAMES: dict[type, str] = {
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a fraction",
    list: "a list",
    dict: "an object",
    type(None): "null",
}
