"""One CDI specification file of the guest, as checked values (Container Device Interface, SPEC.md, version 1.1.0).

Read by `cdi`. Whoever writes such a file is not trusted to have written it well: each key and value is checked, what
is not known is refused as CDI wants it, and size and kind of the file are looked at before its text. JSON alone is
read; a `.yaml` file is taken when its text is JSON, which YAML allows. Never wait or resolve a device number here.
"""

from __future__ import annotations

import json
import os
import re
import stat
from typing import NamedTuple

from kata.agent.devices.errors import DeviceError
from kata.agent.edits import HOOK_KINDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata.oci.spec import Hook, Mount

SUFFIXES = (".json", ".yaml", ".yml")
MAX_BYTES = 1 << 20
"""Of one file; the largest that NVIDIA's tool writes for a full machine has a tenth of it."""

VERSION = re.compile(r"v?[01]\.[0-9]{1,3}\.[0-9]{1,3}")
VENDOR = re.compile(r"[A-Za-z]([A-Za-z0-9_.-]*[A-Za-z0-9])?")
CLASS = re.compile(r"[A-Za-z]([A-Za-z0-9_.-]*[A-Za-z0-9])?")
DEVICE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.:-]*[A-Za-z0-9])?")
ENTRY = re.compile(r"[^=\0]+=[^\0]*")
ACCESS = re.compile(r"[rwm]{1,3}")
MAX_MAJOR, MAX_MINOR, MAX_MODE, MAX_ID = 0xFFF, 0xFFFFF, 0o7777, 0xFFFFFFFE


class CdiSpecError(DeviceError):
    """A specification file that cannot be used. `kind` is the kind of its devices, where it said so."""

    kind = ""


class Node(NamedTuple):
    """A device node to be: `path` in the container, `host_path` in the guest, to be looked at if `kind` is empty."""

    path: str
    host_path: str
    kind: str
    major: int
    minor: int
    access: str
    mode: int | None
    uid: int | None
    gid: int | None


class ContainerEdits(NamedTuple):
    """What a device, or all of a file's, bring into a container."""

    nodes: tuple[Node, ...] = ()
    env: tuple[str, ...] = ()
    mounts: tuple[Mount, ...] = ()
    hooks: tuple[tuple[str, Hook], ...] = ()
    gids: tuple[int, ...] = ()


class CdiSpec(NamedTuple):
    """One file: its kind (`vendor/class`), its devices by name, and what comes with any of them."""

    path: str
    kind: str
    devices: dict[str, ContainerEdits]
    common: ContainerEdits


def read_spec(path: str) -> CdiSpec:
    """The specification in a file. Raises CdiSpecError, FileNotFoundError when it is gone."""
    text = _read(path)
    try:
        content = json.loads(text)
    except RecursionError:
        raise CdiSpecError(f"the CDI specification {path} is nested too deep") from None
    except ValueError as error:  # also a number with thousands of digits, and text that is not UTF-8
        hint = "This agent reads CDI specifications in JSON alone." if not path.endswith(".json") else ""
        raise CdiSpecError(f"the CDI specification {path} is no JSON: {error}", hint=hint) from None
    return parse_spec(content, path)


def parse_spec(content: object, path: str) -> CdiSpec:
    """The specification in decoded JSON; `path` is for messages. Raises CdiSpecError."""
    kind = ""
    try:
        fields = _Fields(content, path)
        kind = parse_kind(fields.text("kind"))
        if not VERSION.fullmatch(fields.text("cdiVersion")):
            raise CdiSpecError(f"{path}: cdiVersion is none that this agent knows (0.x and 1.x)")
        fields.skip("annotations")
        devices = {}
        for device in fields.entries("devices"):
            name, edits = _parse_device(device)
            if name in devices:
                raise CdiSpecError(f"{path}: there are two devices {name!r}")
            devices[name] = edits
        common = _parse_edits(fields.fields("containerEdits"))
        fields.done()
    except CdiSpecError as error:
        error.kind = kind
        raise
    return CdiSpec(path, kind, devices, common)


def parse_kind(text: str) -> str:
    """A kind, `vendor/class`. Raises CdiSpecError."""
    vendor, slash, cls = text.partition("/")
    if not slash or not VENDOR.fullmatch(vendor) or not CLASS.fullmatch(cls):
        raise CdiSpecError(f"{text!r} is no kind of CDI devices (<vendor>/<class>)")
    return text


def _read(path: str) -> bytes:
    """The file's bytes. No link is followed, and nothing is opened that could block or grow without end."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise CdiSpecError(f"the CDI specification {path} cannot be opened: {error.strerror}") from error
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise CdiSpecError(f"the CDI specification {path} is no regular file")
        data = b""
        while len(data) <= MAX_BYTES and (chunk := os.read(fd, MAX_BYTES + 1 - len(data))):
            data += chunk
    finally:
        os.close(fd)
    if len(data) > MAX_BYTES:
        raise CdiSpecError(f"the CDI specification {path} has more than {MAX_BYTES} bytes")
    return data


def _parse_device(device: _Fields) -> tuple[str, ContainerEdits]:
    name = device.text("name")
    if not DEVICE.fullmatch(name):
        raise CdiSpecError(f"{device.where}: {name!r} is no name of a device")
    device.skip("annotations")
    edits = _parse_edits(device.fields("containerEdits"))
    device.done()
    return name, edits


def _parse_edits(edits: _Fields) -> ContainerEdits:
    edits.skip("intelRdt")  # caches are shared out on the host: no container of a guest gets such settings
    if edits.entries("netDevices"):
        raise CdiSpecError(f"{edits.where}: netDevices are not supported by this agent")
    parsed = ContainerEdits(
        nodes=tuple(_parse_node(entry) for entry in edits.entries("deviceNodes")),
        env=tuple(edits.texts("env", ENTRY)),
        mounts=tuple(_parse_mount(entry) for entry in edits.entries("mounts")),
        hooks=tuple(_parse_hook(entry) for entry in edits.entries("hooks")),
        gids=tuple(edits.numbers("additionalGids", MAX_ID)),
    )
    edits.done()
    return parsed


def _parse_node(entry: _Fields) -> Node:
    path = entry.path("path")
    kind = entry.text("type", "")
    if kind not in ("", "b", "c", "u"):
        raise CdiSpecError(f"{entry.where}: type {kind!r} is no device's (b, c or u)")
    access = entry.text("permissions", "") or "rwm"
    if not ACCESS.fullmatch(access):
        raise CdiSpecError(f"{entry.where}: permissions {access!r} are not of r, w and m")
    major, minor = entry.number("major", MAX_MAJOR) or 0, entry.number("minor", MAX_MINOR) or 0
    node = Node(
        path=path,
        host_path=entry.path("hostPath", path),
        # As in CDI: a type without a major number says nothing yet.
        kind=("c" if kind == "u" else kind) if major else "",
        major=major,
        minor=minor,
        access=access,
        mode=entry.number("fileMode", MAX_MODE),
        uid=entry.number("uid", MAX_ID),
        gid=entry.number("gid", MAX_ID),
    )
    entry.done()
    return node


def _parse_mount(entry: _Fields) -> Mount:
    mount: Mount = {
        "destination": entry.path("containerPath"),
        "source": entry.text("hostPath"),
        "type": entry.text("type", "") or "bind",
        "options": entry.texts("options"),
    }
    entry.done()
    return mount


def _parse_hook(entry: _Fields) -> tuple[str, Hook]:
    kind = entry.text("hookName")
    if kind not in HOOK_KINDS:
        raise CdiSpecError(f"{entry.where}: {kind!r} is no point at which a hook runs ({', '.join(HOOK_KINDS)})")
    hook: Hook = {"path": entry.path("path")}
    if args := entry.texts("args"):
        hook["args"] = args
    if env := entry.texts("env", ENTRY):
        hook["env"] = env
    timeout = entry.number("timeout", MAX_ID)
    if timeout is not None:
        hook["timeout"] = timeout
    entry.done()
    return kind, hook


class _Fields:
    """A JSON object whose keys are taken one by one; `done` refuses what was not taken. All raise CdiSpecError."""

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, dict):
            raise CdiSpecError(f"{where} is no JSON object")
        self.where = where
        self._left = dict(value)

    def skip(self, name: str) -> None:
        self._left.pop(name, None)

    def done(self) -> None:
        if self._left:
            raise CdiSpecError(f"{self.where}: the key {min(self._left)!r} is not known")

    def text(self, name: str, default: str | None = None) -> str:
        value = self._left.pop(name, None)
        if value is None and default is not None:
            return default
        return self._text(value, name)

    def path(self, name: str, default: str | None = None) -> str:
        value = self.text(name, default)
        if not value.startswith("/") or ".." in value.split("/"):
            raise CdiSpecError(f"{self.where}: {name} {value!r} is no absolute path without ..")
        return value

    def number(self, name: str, limit: int) -> int | None:
        value = self._left.pop(name, None)
        return None if value is None else self._number(value, name, limit)

    def texts(self, name: str, form: re.Pattern[str] | None = None) -> list[str]:
        found = [self._text(value, name) for value in self._list(name)]
        for text in found:
            if form is not None and not form.fullmatch(text):
                raise CdiSpecError(f"{self.where}: {text!r} in {name} is not <name>=<value>")
        return found

    def numbers(self, name: str, limit: int) -> list[int]:
        return [self._number(value, name, limit) for value in self._list(name)]

    def entries(self, name: str) -> list[_Fields]:
        return [_Fields(value, f"{self.where}: {name}[{index}]") for index, value in enumerate(self._list(name))]

    def fields(self, name: str) -> _Fields:
        value = self._left.pop(name, None)
        return _Fields({} if value is None else value, f"{self.where}: {name}")

    def _list(self, name: str) -> list[object]:
        value = self._left.pop(name, None)
        if value is None:
            return []
        if not isinstance(value, list):
            raise CdiSpecError(f"{self.where}: {name} is no list")
        return value

    def _text(self, value: object, name: str) -> str:
        if not isinstance(value, str) or not value or "\0" in value or not _is_unicode(value):
            raise CdiSpecError(f"{self.where}: {name} is no text, or empty")
        return value

    def _number(self, value: object, name: str, limit: int) -> int:
        # bool is an int to Python, but not to JSON
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= limit:
            raise CdiSpecError(f"{self.where}: {name} is no number from 0 to {limit}")
        return value


def _is_unicode(text: str) -> bool:
    """Half a surrogate pair, which JSON can hold, is no character that a file name or variable could have."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
