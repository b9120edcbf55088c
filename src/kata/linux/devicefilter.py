"""Which devices the processes of a cgroup v2 may use: a BPF program at the cgroup, which the kernel asks at each open.

v1 has files for it (devices.allow), v2 has not (admin-guide/cgroup-v2.rst, "Device controller"). The program stays
with the cgroup, and goes with it. Needs CAP_BPF or CAP_SYS_ADMIN, and CAP_NET_ADMIN.
"""

from __future__ import annotations

import os
import struct

from kata.linux import bpf, syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Protocol

    class Rule(Protocol):
        """What may be used: "a" for any, "b", or "c" (and "u"), numbers (-1 for any), and any of "r", "w", "m"."""

        @property
        def kind(self) -> str: ...
        @property
        def major(self) -> int: ...
        @property
        def minor(self) -> int: ...
        @property
        def access(self) -> str: ...


# enum bpf_cmd, bpf_prog_type, bpf_attach_type, flags of attaching; struct bpf_cgroup_dev_ctx (linux/bpf.h)
PROG_ATTACH, PROG_TYPE_CGROUP_DEVICE, ATTACH_CGROUP_DEVICE = 8, 15, 6
ALLOW_MULTI, REPLACE = 2, 4
ACCESS_AND_TYPE, MAJOR, MINOR = 0, 4, 8
ACCESS = {"m": 1, "r": 2, "w": 4}
TYPES = {"b": 1, "c": 2, "u": 2}
ALL = sum(ACCESS.values())


def attach(folder: str, rules: Iterable[Rule], before: int | None = None) -> int:
    """Let the processes of the cgroup at `folder` use what the rules say, and nothing else.

    Returns the program's descriptor, by which it can be replaced: `before` is that of the one that goes. Where others
    have programs at this cgroup or above it, all have to agree. Raises OSError; the one before then stays.
    """
    program = bpf.load(PROG_TYPE_CGROUP_DEVICE, ATTACH_CGROUP_DEVICE, b"kata_devices", filter_code(rules))
    try:
        flags = ALLOW_MULTI | (REPLACE if before is not None else 0)
        group = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            syscalls.bpf(PROG_ATTACH, struct.pack("<5I", group, program, ATTACH_CGROUP_DEVICE, flags, before or 0))
        finally:
            os.close(group)
    except BaseException:
        os.close(program)
        raise
    return program


def filter_code(rules: Iterable[Rule]) -> bytes:
    """r2 is the type, r3 the access, r4 and r5 the numbers; the first rule that has all of it says yes."""
    code = bpf.read(2, 1, ACCESS_AND_TYPE) + bpf.move(3, 2) + bpf.mask(2, 0xFFFF) + bpf.shift(3, 16)
    code += bpf.read(4, 1, MAJOR) + bpf.read(5, 1, MINOR)
    return code + b"".join(map(_allow, rules)) + bpf.put(0, 0) + bpf.leave()


def _allow(rule: Rule) -> bytes:
    body: list[bytes | bpf.Jump] = []
    if rule.kind in TYPES:
        body.append(("unless", 2, TYPES[rule.kind]))
    others = ALL & ~sum(ACCESS[letter] for letter in set(rule.access) & ACCESS.keys())
    if others:
        body += [bpf.move(1, 3), bpf.mask(1, others), ("unless", 1, 0)]
    if rule.major >= 0:
        body.append(("unless", 4, rule.major))
    if rule.minor >= 0:
        body.append(("unless", 5, rule.minor))
    return bpf.block([*body, bpf.put(0, 1), bpf.leave()])
