"""Parsers of option values: text in, a checked value out. Each raises UsageError that names the option.

The forms are Docker's, because that is what people type.
"""

from __future__ import annotations

import ipaddress
import math
import os
import re
from collections.abc import Mapping
from typing import NamedTuple

from kata.ctl.errors import UsageError
from kata.hypervisor.machine import PublishedPort
from kata.sandbox.config import MINIMUM_MEMORY_MIB

NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{1,63}")
HOSTNAME = re.compile(r"(?!-)[a-zA-Z0-9-]{1,63}(?<!-)(\.(?!-)[a-zA-Z0-9-]{1,63}(?<!-))*")
SIZE = re.compile(r"(\d+(?:\.\d+)?)([bkmgt]?)b?", re.IGNORECASE | re.ASCII)
UNITS = {"": 1, "b": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}


def name(text: str) -> str:
    """A sandbox's name: what upstream allows for a container id (agent API, container id rule)."""
    if not NAME.fullmatch(text):
        raise UsageError(
            f"--name {text!r} is not a name",
            hint="letters, digits, '_', '.', '-'; 2 to 64 of them; no symbol first",
        )
    return text


def hostname(text: str) -> str:
    """A host name of at most 64 characters, the kernel's limit (uname(2))."""
    if len(text) > 64 or not HOSTNAME.fullmatch(text):
        raise UsageError(f"--hostname {text!r} is not a host name", hint="letters, digits and '-', 64 at most")
    return text


def memory_mib(text: str) -> int:
    """`--memory`: a number with b, k, m, g or t, in bytes without; returned in MiB. No more than the host has."""
    match = SIZE.fullmatch(text)
    if not match:
        raise UsageError(f"--memory {text!r} is not a size", hint="for example 512m or 2g")
    mib = int(float(match[1]) * UNITS[match[2].lower()] / UNITS["m"])
    present = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // UNITS["m"]
    if mib > present:
        raise UsageError(f"--memory {text} is more than this host has", hint=f"it has {present}m")
    if mib < MINIMUM_MEMORY_MIB:
        raise UsageError(
            f"--memory {text} is too small: a guest boots with {MINIMUM_MEMORY_MIB}m or more",
            hint=f"--memory {MINIMUM_MEMORY_MIB}m",
        )
    return mib


def cpus(text: str) -> float:
    """`--cpus`: how many, parts allowed."""
    try:
        count = float(text)
    except ValueError:
        count = math.nan
    if not 0.01 <= count <= 255:
        raise UsageError(f"--cpus {text!r} is not a number of CPUs", hint="for example 2 or 0.5")
    return count


def environment(entries: list[str], ours: Mapping[str, str]) -> tuple[str, ...]:
    """`-e K=V`; `-e K` takes the value from our own environment, or nothing when it has none."""
    result = []
    for entry in entries:
        key, equals, _ = entry.partition("=")
        if not key or "\0" in entry:
            raise UsageError(f"-e {entry!r} has no variable name", hint="-e NAME=value")
        if equals:
            result.append(entry)
        elif key in ours:
            result.append(f"{key}={ours[key]}")
    return tuple(result)


class Volume(NamedTuple):
    """A directory or file of the host that the container sees at `destination`."""

    source: str
    destination: str
    readonly: bool = False


def volume(text: str) -> Volume:
    """`-v SRC:DST[:ro|rw]`: an existing path of the host, an absolute path in the container."""
    parts = text.split(":")
    if len(parts) not in (2, 3) or not all(parts):
        raise UsageError(f"-v {text!r} is not SRC:DST[:ro]", hint="for example -v /srv/data:/data:ro")
    source, destination = parts[:2]
    if len(parts) == 3 and parts[2] not in ("ro", "rw"):
        raise UsageError(f"-v {text!r}: {parts[2]!r} is no option", hint="ro or rw")
    if "/" not in source:
        raise UsageError(f"-v {text!r}: named volumes do not exist here", hint=f"a path: -v ./{source}:{destination}")
    if not os.path.isabs(destination) or os.path.normpath(destination) == "/":
        raise UsageError(
            f"-v {text!r}: {destination!r} is not a place in the container", hint="an absolute path below /"
        )
    if not os.path.exists(source):
        raise UsageError(f"-v {text!r}: there is no {source} on this host", hint=f"mkdir -p {source}")
    return Volume(os.path.realpath(source), os.path.normpath(destination), parts[2:] == ["ro"])


def port(text: str) -> PublishedPort:
    """`-p [ADDRESS:]HOST:GUEST[/tcp|/udp]`. Without an address it is published on 127.0.0.1 only."""
    rest, _, protocol = text.partition("/")
    address, _, ports = rest.rpartition(":")
    address, _, host = address.rpartition(":")
    if protocol not in ("", "tcp", "udp"):
        raise UsageError(f"-p {text!r}: {protocol!r} is no protocol", hint="tcp or udp")
    return PublishedPort(
        host_port=_port_number(host, text),
        guest_port=_port_number(ports, text),
        protocol="udp" if protocol == "udp" else "tcp",
        host_address=_address(address, text) if address else "127.0.0.1",
    )


def _port_number(text: str, option: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 65536):
        raise UsageError(f"-p {option!r} is not HOST:GUEST", hint="for example -p 8080:80; ports are 1 to 65535")
    return int(text)


def _address(text: str, option: str) -> str:
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError:
        raise UsageError(f"-p {option!r}: {text!r} is no IPv4 address", hint="-p 127.0.0.1:8080:80") from None
