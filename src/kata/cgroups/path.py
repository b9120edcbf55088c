"""Where a sandbox's cgroups are, from what the engine says. Pure (shim behaviour, section 8: host cgroups).

Two forms of `cgroupsPath`: a path of cgroupfs (`/kubepods/pod1/abc`), and systemd's `slice:prefix:name`
(`kubepods-pod1.slice:cri-containerd:abc`). The cgroup of a sandbox lies where the engine wants its container: a scope
has the name that the engine asks for, as with other runtimes, a folder one of its own: engines remove theirs by name.
"""

from __future__ import annotations

import posixpath

import msgspec

PREFIX = "kata_"
OVERHEAD = "/kata_overhead"
OVERHEAD_SLICE = "/kata_overhead.slice"
SCOPE = ".scope"


class Placement(msgspec.Struct, frozen=True):
    """The cgroups of one sandbox, below each tree's root. `overhead` is empty when all of it is in `sandbox`.

    `scopes`: they are to be systemd's. Where it does not run, or refuses, they are `folders` instead.
    """

    sandbox: str
    overhead: str = ""
    scopes: bool = False

    def folders(self) -> Placement:
        """The same without systemd."""
        if not self.scopes:
            return self
        above, unit = posixpath.split(self.sandbox)
        apart = posixpath.basename(self.overhead).removesuffix(SCOPE).removeprefix(f"{OVERHEAD[1:]}-")
        return Placement(posixpath.join(above, PREFIX + unit), apart and f"{OVERHEAD}/{apart}")

    def paths(self) -> tuple[str, ...]:
        """All of them; the overhead last, since it leads to the other."""
        return (self.sandbox, self.overhead) if self.overhead else (self.sandbox,)


def placement(cgroups_path: str, sandbox_id: str, *, together: bool) -> Placement:
    """`together`: shim, VMM and daemons are in the pod's cgroup as the guest's CPUs are (`sandbox_cgroup_only`)."""
    unit = _scope_path(cgroups_path)
    if unit:
        apart = f"{OVERHEAD_SLICE}/{OVERHEAD[1:]}-{sandbox_id}{SCOPE}"
        return Placement(unit, "" if together else apart, scopes=True)
    return Placement(sandbox_path(cgroups_path, sandbox_id), "" if together else f"{OVERHEAD}/{sandbox_id}")


def sandbox_path(cgroups_path: str, sandbox_id: str) -> str:
    """The absolute path of the folder for a sandbox; no path of an engine leads out of the tree."""
    parts = _parts(cgroups_path)
    if parts:
        folder, base = slice_path(parts[0]), _unit(parts[1], parts[2])
    else:
        folder, base = posixpath.split(posixpath.normpath("/" + cgroups_path.strip("/")))
    return posixpath.join(folder, PREFIX + (base or sandbox_id))


def slice_path(name: str) -> str:
    """The folder of a slice: `a-b.slice` is below `a.slice` (systemd.slice(5)). Empty is systemd's own choice."""
    stem = (name or "system.slice").removesuffix(".slice")
    if stem == "-":
        return "/"
    words = stem.split("-")
    return "/" + "/".join("-".join(words[: count + 1]) + ".slice" for count in range(len(words)))


def _scope_path(cgroups_path: str) -> str:
    """Where systemd puts the scope that is asked for; empty when none is: slices have no processes."""
    parts = _parts(cgroups_path)
    unit = _unit(parts[1], parts[2]) if parts else ""
    return posixpath.join(slice_path(parts[0]), unit) if unit.endswith(SCOPE) else ""


def _parts(cgroups_path: str) -> list[str]:
    """Slice, prefix and name; nothing for a path of cgroupfs."""
    parts = cgroups_path.split(":")
    return parts if len(parts) == 3 and "/" not in cgroups_path else []


def _unit(prefix: str, name: str) -> str:
    """The unit that systemd would be asked for."""
    if name.endswith((".slice", ".scope")):
        return name
    return f"{prefix}-{name}.scope" if prefix else f"{name}.scope"
