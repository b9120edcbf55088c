"""From host device numbers to the guest's: the whole batch of changes to a container's specification, as values.

Called by `devices` once every handler has returned, and for the environment of a later exec. Handlers never see
the specification; they return SpecUpdates. `apply_updates` is pure: it walks each list of the untouched spec once,
looks entries up by what they are on the *host*, and builds a new spec. So the order of devices does not matter,
nothing is translated twice though the two number spaces overlap, and an error changes nothing.
Never read a file, wait or log here.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from kata.agent.edits import NO_EDITS, Edits, GuestNode, UpdateError, add_nodes, allow_nodes, apply_edits
from kata.linux.pci import PciError, parse_address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping, Sequence

    from kata.oci.spec import LinuxDevice, LinuxDeviceCgroup, Process, Spec


__all__ = ["GuestNode", "HostKey", "SpecUpdate", "UpdateError", "apply_updates", "merge_pci", "translate_env"]

HostKey = tuple[str, int, int]
"""What a device is on the host: kind (b or c), major, minor. Block and char numbers are different spaces."""

_PREFIX = "PCIDEVICE_"
_INFO = "_INFO"
# A whole address only: not the tail of a longer run of digits, not the head of one.
_ADDRESSES = re.compile(r"(?<![0-9a-fA-F:.])[0-9a-fA-F]{4}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7](?![0-9a-fA-F])")


class SpecUpdate(NamedTuple):
    """What one handler found out; the device of the spec is found by `container_path`.

    Without `node` nothing but the environment changes. `final_path` replaces the device's path in the container.
    `pci` pairs the PCI addresses on the host with those in the guest. `edits` are what comes with the device beside
    it.
    """

    container_path: str
    node: GuestNode | None
    final_path: str = ""
    pci: tuple[tuple[str, str], ...] = ()
    edits: Edits = NO_EDITS


def apply_updates(spec: Spec, updates: Sequence[SpecUpdate]) -> Spec:
    """The spec with every update carried out; `spec` itself stays as it was. Raises UpdateError.

    Refused: two updates of one path, updates that no device of the spec waits for, a device of another kind than
    the spec says, one host device that would become two in the guest, two devices that would share a path.
    """
    by_path = _index(updates)
    linux = spec.get("linux", {})
    translation: dict[HostKey, GuestNode] = {}
    devices = [_move(device, by_path, translation) for device in linux.get("devices", [])]
    _require_all_used(by_path, linux.get("devices", []))
    edits = [update.edits for update in updates]
    result = apply_edits(spec, edits)
    devices, added = add_nodes(_unique(devices, {update.final_path for update in updates}), edits)
    if translation or added:
        resources = linux.get("resources", {})
        rules = [_translate_rule(rule, translation) for rule in resources.get("devices", [])]
        rules += _allow(translation) + allow_nodes(added)
        result["linux"] = {**linux, "devices": devices, "resources": {**resources, "devices": rules}}
    process = result.get("process")
    if process is not None:
        result["process"] = translate_process(process, merge_pci(updates))
    return result


def merge_pci(updates: Iterable[SpecUpdate]) -> dict[str, str]:
    """Host PCI address to guest PCI address, over all devices of a container. Raises UpdateError on a conflict."""
    merged: dict[str, str] = {}
    for update in updates:
        for host, guest in update.pci:
            key = host.lower()
            if merged.setdefault(key, guest) != guest:
                raise UpdateError(f"Conflicting guest addresses for PCI device {host}: {merged[key]} and {guest}")
    return merged


def translate_process(process: Process, pci: Mapping[str, str]) -> Process:
    """The process with its environment translated; for the container's own and for each exec."""
    env = process.get("env")
    return {**process, "env": translate_env(env, pci)} if env and pci else process


def translate_env(env: Sequence[str], pci: Mapping[str, str]) -> list[str]:
    """`PCIDEVICE_*` variables with guest PCI addresses instead of the host's (Kubernetes' SR-IOV device plugin).

    A variable whose value is no list of PCI addresses, or has one that is not known, stays as it is, and so does
    its `_INFO` twin; in the JSON text of the others' twins exactly their addresses are replaced.
    """
    known: dict[str, dict[str, str]] = {}
    for entry in env:
        name, _, value = entry.partition("=")
        pairs = _pairs(value, pci) if name.startswith(_PREFIX) and not name.endswith(_INFO) else {}
        if pairs:
            known[name] = pairs
    return [_translate_entry(entry, known) for entry in env]


def _translate_entry(entry: str, known: Mapping[str, Mapping[str, str]]) -> str:
    name, _, value = entry.partition("=")
    pairs = known.get(name) or known.get(name.removesuffix(_INFO))
    if not pairs:
        return entry
    return f"{name}={_ADDRESSES.sub(lambda match: pairs.get(match[0].lower(), match[0]), value)}"


def _pairs(value: str, pci: Mapping[str, str]) -> dict[str, str]:
    """What to replace in a list of addresses; nothing when one of them is no address or not known."""
    pairs = {}
    for item in value.split(","):
        try:
            host = str(parse_address(item))
        except PciError:
            return {}
        if host not in pci:
            return {}
        pairs[host] = pci[host]
    return pairs


def _index(updates: Iterable[SpecUpdate]) -> dict[str, SpecUpdate]:
    by_path: dict[str, SpecUpdate] = {}
    for update in updates:
        if update.node is None:
            continue
        if update.container_path in by_path:
            raise UpdateError(f"Conflicting device updates for {update.container_path}")
        by_path[update.container_path] = update
    return by_path


def _require_all_used(by_path: Mapping[str, SpecUpdate], devices: Iterable[LinuxDevice]) -> None:
    missing = sorted(by_path.keys() - {device.get("path") for device in devices})
    if missing:
        raise UpdateError(f"Missing devices in OCI spec: {', '.join(missing)}")


def _move(device: LinuxDevice, by_path: Mapping[str, SpecUpdate], translation: dict[HostKey, GuestNode]) -> LinuxDevice:
    """The device as it is in the guest; what it was on the host goes into `translation`."""
    path = device.get("path", "")
    update = by_path.get(path)
    if update is None or update.node is None:
        return device
    node = update.node
    key = _key(device.get("type", ""), device.get("major", 0), device.get("minor", 0))
    if key[0] != node.kind:
        raise UpdateError(
            f"{path} is a device of type {device.get('type')!r} in the spec but {node.kind!r} in the guest"
        )
    if translation.setdefault(key, node) != node:
        raise UpdateError(
            f"Conflicting resource updates for host_major={key[1]} host_minor={key[2]}: "
            f"{path} is {node.major}:{node.minor} in the guest, another path of the same device is not"
        )
    return {**device, "path": update.final_path or path, "major": node.major, "minor": node.minor}


def _key(kind: str, major: int, minor: int) -> HostKey:
    return ("c" if kind == "u" else kind), major, minor  # u is an unbuffered character device


def _translate_rule(rule: LinuxDeviceCgroup, translation: Mapping[HostKey, GuestNode]) -> LinuxDeviceCgroup:
    """The rule with guest numbers; a rule without a number speaks of many devices and is left alone."""
    if rule.get("major") is None or rule.get("minor") is None:
        return rule
    node = translation.get(_key(rule.get("type", "a"), rule["major"], rule["minor"]))
    return {**rule, "major": node.major, "minor": node.minor} if node else rule


def _allow(translation: Mapping[HostKey, GuestNode]) -> list[LinuxDeviceCgroup]:
    """A rule that allows each device which the container was given, in the order of the spec."""
    return [
        {"allow": True, "type": node.kind, "major": node.major, "minor": node.minor, "access": "rwm"}
        for node in dict.fromkeys(translation.values())
    ]


def _unique(devices: Iterable[LinuxDevice], final_paths: Container[str]) -> list[LinuxDevice]:
    """Each final path once: entries that became the same node there are one, different ones an error."""
    unique: list[LinuxDevice] = []
    seen: dict[str, HostKey] = {}
    for device in devices:
        path = device.get("path", "")
        numbers = _numbers(device)
        if path in final_paths and seen.get(path, numbers) != numbers:
            raise UpdateError(f"Two different devices would be at {path} in the container")
        if path not in final_paths or path not in seen:
            unique.append(device)
        seen.setdefault(path, numbers)
    return unique


def _numbers(device: LinuxDevice) -> HostKey:
    return _key(device.get("type", ""), device.get("major", 0), device.get("minor", 0))
