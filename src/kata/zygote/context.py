"""What a process inherits and cannot, or should not, be given later: a child of a zygote has the zygote's.

So an asker looks for a zygote whose are the same as its own, by a name made of all of them. Imports nothing: it is
the first thing that a shim does.
"""

from __future__ import annotations

import os
import sys

VARIABLE = "KATA_ZYGOTE"
"""Set to `off` in the environment of whoever starts shims, there is none."""
ORIGIN = "a zygote"
"""What a process is told that comes from one; others are told why not."""
STATUS = ("Uid", "Gid", "Groups", "Cap", "NoNewPrivs", "Seccomp:", "Cpus_allowed_list", "Mems_allowed_list")
"""Lines of /proc/self/status (proc(5)), by how they begin."""
PRIME = (1 << 127) - 1


def wanted() -> bool:
    """Whether zygotes may be used at all."""
    return os.environ.get(VARIABLE, "").lower() not in ("off", "no", "false", "0")


def state() -> str:
    """The state directory. `kata.paths` says the same, but costs more than all of this."""
    return os.path.abspath(os.environ.get("KATA_STATE_DIR") or "/run/vc")


def folder() -> str:
    """Where sockets of zygotes are."""
    return os.path.join(state(), "zygote")


def socket_path() -> str:
    """Where the zygote of this process's context listens. Raises OSError."""
    return os.path.join(folder(), name_of(describe()))


def describe() -> bytes:
    """Whose this process is, its namespaces, root, limits, priority, labels, and which code it runs. Raises OSError."""
    spaces = [os.readlink(f"/proc/self/ns/{name}") for name in sorted(os.listdir("/proc/self/ns"))]
    root = os.stat("/")
    lines = [line for line in _read("/proc/self/status").splitlines() if line.startswith(STATUS)]
    others = [_read("/proc/self/limits"), _read("/proc/self/oom_score_adj"), _label(), str(os.nice(0))]
    code = [sys.executable, os.path.dirname(os.path.dirname(__file__)), *sys.path]
    parts = [*spaces, f"{root.st_dev}:{root.st_ino}", *lines, *others, *code]
    return "\n".join(parts).encode(errors="surrogateescape")


def name_of(context: bytes) -> str:
    """A file's name for it. Nobody who could choose a context would gain by two with one name, so this is no hash of
    cryptography's, which would have to be loaded."""
    return f"{int.from_bytes(context, 'big') % PRIME:032x}"


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def _label() -> str:
    """AppArmor's or SELinux's; without any of them the file cannot be read."""
    try:
        return _read("/proc/self/attr/current").rstrip("\0\n")
    except OSError:
        return ""
