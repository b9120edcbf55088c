"""Message classes and service descriptions by name, straight from the descriptor set, at hardly any cost.

Called by the generated `*_pb2` modules, by client and server. Never add a message's meaning here.

The usual generated modules import protobuf's descriptor machinery, which takes longer than all of our own start
(25 ms of 30 ms, 5 MiB). Underneath is upb, a C library with a Python face in `google._upb._message`: it builds
descriptors and classes from a serialised descriptor set in under a millisecond, and that is what is used here.
It is a private module, so the version of protobuf is pinned; where it is missing, the public and slower
`google.protobuf.message_factory` does the same (`load(..., public=True)`, kept under test).

A guest needs only `RUNTIME_FILES` of the protobuf wheel. The file `google/protobuf/internal/well_known_types.py`
is not among them on purpose: upb asks for it at the first class it makes, and it costs 16 ms and 2 MiB for
conveniences (`Timestamp.ToDatetime()`, `Any.Pack()`) that the protocols here do without. `skip_helpers()` spares
a process the same where the whole wheel is installed.
"""

from __future__ import annotations

import posix
import sys
from typing import TYPE_CHECKING, NamedTuple, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from google.protobuf.descriptor import Descriptor, ServiceDescriptor
    from google.protobuf.descriptor_pool import DescriptorPool
    from google.protobuf.message import Message

    Factory = tuple[DescriptorPool, Callable[[Descriptor], type[Message]]]

DESCRIPTOR_SET = __file__.rpartition("/")[0] + "/generated/kata.binpb"

RUNTIME_FILES = (
    "google/_upb/_message.abi3.so",
    "google/protobuf/__init__.py",
    "google/protobuf/message.py",
    "google/protobuf/internal/__init__.py",
    "google/protobuf/internal/enum_type_wrapper.py",
)
"""What of the protobuf wheel has to be on `sys.path`, relative to site-packages. The .so also needs libstdc++."""

HELPERS = "google.protobuf.internal.well_known_types"


class Method(NamedTuple):
    """One unary RPC: its name as on the wire, and its two message classes."""

    service: str
    name: str
    request: type[Message]
    response: type[Message]


class Library:
    """The classes and services of one descriptor set. `message` gives the same class each time."""

    def __init__(self, pool: DescriptorPool, make: Callable[[Descriptor], type[Message]]) -> None:
        self.pool = pool
        self._make = make
        self._classes: dict[str, type[Message]] = {}
        self._methods: dict[tuple[str, str], Method] = {}

    def message(self, name: str) -> type[Message]:
        """The class of the message with this full name. Raises KeyError where there is none."""
        try:
            return self._classes[name]
        except KeyError:
            found = self._classes[name] = self._make(self.pool.FindMessageTypeByName(name))
            return found

    def method(self, service: str, name: str) -> Method:
        """One RPC of a service. Raises KeyError where there is none."""
        try:
            return self._methods[service, name]
        except KeyError:
            found = self._methods[service, name] = self._describe(service, name)
            return found

    def find(self, file: str, name: str) -> object:
        """What a `*_pb2` module would hold under `name`. Raises AttributeError where there is no such thing."""
        descriptor = self.pool.FindFileByName(file)
        if name == "DESCRIPTOR":
            return descriptor
        if name in descriptor.message_types_by_name:
            return self.message(descriptor.message_types_by_name[name].full_name)
        if name in descriptor.enum_types_by_name:
            from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

            return EnumTypeWrapper(descriptor.enum_types_by_name[name])
        for enum in descriptor.enum_types_by_name.values():
            if name in enum.values_by_name:
                return enum.values_by_name[name].number
        raise AttributeError(f"{file} defines no {name}")

    def _describe(self, service: str, name: str) -> Method:
        found = self.pool.FindServiceByName(service).FindMethodByName(name)
        if found is None:
            raise KeyError(f"{service} has no method {name}")
        return Method(
            service,
            name,
            self.message(found.input_type.full_name),
            self.message(found.output_type.full_name),
        )

    def extend(self, path: str) -> None:
        """Add the files of another descriptor set; those that are known already stay. Errors as of `load`."""
        with open(path, "rb") as file:
            for serialized in _split(file.read()):
                self.pool.AddSerializedFile(serialized)


def load(path: str = DESCRIPTOR_SET, *, public: bool = False) -> Library:
    """Read a descriptor set made by `protoc --include_imports`. `public` forgoes the private module.

    Raises OSError where it cannot be read, ValueError where it is not a descriptor set.
    """
    library = Library(*(_public_factory() if public else _factory()))
    library.extend(path)
    return library


def skip_helpers() -> None:
    """Do without the conveniences of well-known types in this whole process; call it before the first class is made.

    For programs that own their process and start often. Without effect once protobuf has loaded them.
    """
    if HELPERS not in sys.modules:
        stand_in = type(sys)(HELPERS)
        vars(stand_in)["WKTBASES"] = {}
        sys.modules[HELPERS] = stand_in


def _factory() -> Factory:
    """upb's pool, and how it makes classes. A class that exists already, as a field's type, comes back as it is."""
    try:
        from google._upb import _message
        from google.protobuf.message import Message
    except ImportError:
        return _public_factory()
    if not _helpers_installed():
        skip_helpers()

    def make(descriptor: Descriptor) -> type[Message]:
        members = {"DESCRIPTOR": descriptor, "__module__": __name__}
        return cast("type[Message]", _message.MessageMeta(descriptor.name, (Message,), members))

    return cast("DescriptorPool", _message.DescriptorPool()), make


def _public_factory() -> Factory:
    from google.protobuf import descriptor_pool, message_factory

    return descriptor_pool.DescriptorPool(), message_factory.GetMessageClass


def _helpers_installed() -> bool:
    """Whether upb would find the helpers; a guest has no file for them, and the first class would fail."""
    from google.protobuf import internal

    folder = (internal.__file__ or "").rpartition("/")[0]
    try:
        posix.stat(f"{folder}/well_known_types.py")
    except OSError:
        return False
    return True


def _split(data: bytes) -> Iterator[bytes]:
    """The files of a FileDescriptorSet, which is nothing but `repeated FileDescriptorProto file = 1`."""
    position = 0
    while position < len(data):
        if data[position] != 0x0A:
            raise ValueError("not a descriptor set: field 1, length-delimited, expected")
        size, start = _varint(data, position + 1)
        position = start + size
        if position > len(data):
            raise ValueError("not a descriptor set: cut short")
        yield data[start:position]


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """A number in protobuf's variable-length form, and where it ends."""
    value = shift = 0
    for byte in data[position : position + 10]:
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, position
    raise ValueError("not a descriptor set: cut short")


_library: Library = load()

message = _library.message
method = _library.method
find = _library.find
extend = _library.extend


def service(name: str) -> ServiceDescriptor:
    """The description of a service. Raises KeyError where there is none."""
    return _library.pool.FindServiceByName(name)
