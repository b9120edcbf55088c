"""Which JSON key of a specification is which field of the agent's protocol: one table a message.

Read by `convert` alone. The protocol has no notion of "absent" for plain values, so every row says by its kind what
a zero on the wire means. Never add code: a rule that is no table row belongs in `convert`.

Kinds:
  TEXT, FLAG, INT        empty, false and 0 are absent, as the host runtimes of this protocol send them
  *_ALWAYS               the value means the same whether it is zero or not, or JSON demands it: kept even when zero
  INT_OPTIONAL           presence is on the wire (a oneof)
  NUMBER_OR_ANY          a device number of a cgroup rule; absent ("any") is -1 on the wire
  ID_ALWAYS, IDS         numbers of users or groups, of which 2^32-1 is none
  TEXTS, IDS, MAP        empty is absent
  ONE, MANY              a message (presence is on the wire), a list of them
"""

from __future__ import annotations

from typing import NamedTuple

(
    TEXT,
    TEXT_ALWAYS,
    FLAG,
    FLAG_ALWAYS,
    INT,
    INT_ALWAYS,
    INT_OPTIONAL,
    NUMBER_OR_ANY,
    TEXTS,
    IDS,
    MAP,
    ONE,
    MANY,
    ID_ALWAYS,
) = range(14)


class Field(NamedTuple):
    """One row: JSON key, protocol field, kind, and the table of what is inside."""

    key: str
    name: str
    kind: int
    shape: tuple[Field, ...] = ()


Shape = tuple[Field, ...]

BOX: Shape = (Field("height", "Height", INT_ALWAYS), Field("width", "Width", INT_ALWAYS))

USER: Shape = (
    Field("uid", "UID", ID_ALWAYS),
    Field("gid", "GID", ID_ALWAYS),
    Field("additionalGids", "AdditionalGids", IDS),
    Field("username", "Username", TEXT),
)

CAPABILITIES: Shape = (
    Field("bounding", "Bounding", TEXTS),
    Field("effective", "Effective", TEXTS),
    Field("inheritable", "Inheritable", TEXTS),
    Field("permitted", "Permitted", TEXTS),
    Field("ambient", "Ambient", TEXTS),
)

RLIMIT: Shape = (
    Field("type", "Type", TEXT_ALWAYS),
    Field("hard", "Hard", INT_ALWAYS),
    Field("soft", "Soft", INT_ALWAYS),
)

PROCESS: Shape = (
    Field("terminal", "Terminal", FLAG),
    Field("consoleSize", "ConsoleSize", ONE, BOX),
    Field("user", "User", ONE, USER),
    Field("args", "Args", TEXTS),
    Field("env", "Env", TEXTS),
    Field("cwd", "Cwd", TEXT_ALWAYS),
    Field("capabilities", "Capabilities", ONE, CAPABILITIES),
    Field("rlimits", "Rlimits", MANY, RLIMIT),
    Field("noNewPrivileges", "NoNewPrivileges", FLAG),
    Field("apparmorProfile", "ApparmorProfile", TEXT),
    # Absent would mean "inherit": a workload must not inherit how the agent protects itself from the OOM killer.
    Field("oomScoreAdj", "OOMScoreAdj", INT_ALWAYS),
    Field("selinuxLabel", "SelinuxLabel", TEXT),
)

ROOT: Shape = (Field("path", "Path", TEXT_ALWAYS), Field("readonly", "Readonly", FLAG))

MOUNT: Shape = (
    Field("destination", "destination", TEXT_ALWAYS),
    Field("source", "source", TEXT),
    Field("type", "type", TEXT),
    Field("options", "options", TEXTS),
)

HOOK: Shape = (
    Field("path", "Path", TEXT_ALWAYS),
    Field("args", "Args", TEXTS),
    Field("env", "Env", TEXTS),
    Field("timeout", "Timeout", INT),
)

HOOKS: Shape = (
    Field("prestart", "Prestart", MANY, HOOK),
    Field("poststart", "Poststart", MANY, HOOK),
    Field("poststop", "Poststop", MANY, HOOK),
    Field("createRuntime", "CreateRuntime", MANY, HOOK),
    Field("createContainer", "CreateContainer", MANY, HOOK),
    Field("startContainer", "StartContainer", MANY, HOOK),
)

ID_MAPPING: Shape = (
    Field("hostID", "HostID", INT_ALWAYS),
    Field("containerID", "ContainerID", INT_ALWAYS),
    Field("size", "Size", INT_ALWAYS),
)

NAMESPACE: Shape = (Field("type", "Type", TEXT_ALWAYS), Field("path", "Path", TEXT))

DEVICE: Shape = (
    Field("path", "Path", TEXT_ALWAYS),
    Field("type", "Type", TEXT_ALWAYS),
    Field("major", "Major", INT_ALWAYS),
    Field("minor", "Minor", INT_ALWAYS),
    Field("fileMode", "FileMode", INT),
    Field("uid", "UID", INT),
    Field("gid", "GID", INT),
)

DEVICE_RULE: Shape = (
    Field("allow", "Allow", FLAG_ALWAYS),
    Field("type", "Type", TEXT),
    Field("major", "Major", NUMBER_OR_ANY),
    Field("minor", "Minor", NUMBER_OR_ANY),
    Field("access", "Access", TEXT),
)

MEMORY: Shape = (
    Field("limit", "Limit", INT),
    Field("reservation", "Reservation", INT),
    Field("swap", "Swap", INT),
    Field("kernel", "Kernel", INT),
    Field("kernelTCP", "KernelTCP", INT),
    Field("swappiness", "Swappiness", INT),
    Field("disableOOMKiller", "DisableOOMKiller", FLAG),
)

CPU: Shape = (
    Field("shares", "Shares", INT),
    Field("quota", "Quota", INT),
    Field("period", "Period", INT),
    Field("realtimeRuntime", "RealtimeRuntime", INT),
    Field("realtimePeriod", "RealtimePeriod", INT),
    Field("cpus", "Cpus", TEXT),
    Field("mems", "Mems", TEXT),
)

PIDS: Shape = (Field("limit", "Limit", INT),)

WEIGHT_DEVICE: Shape = (
    Field("major", "Major", INT_ALWAYS),
    Field("minor", "Minor", INT_ALWAYS),
    Field("weight", "Weight", INT),
    Field("leafWeight", "LeafWeight", INT),
)

THROTTLE_DEVICE: Shape = (
    Field("major", "Major", INT_ALWAYS),
    Field("minor", "Minor", INT_ALWAYS),
    Field("rate", "Rate", INT_ALWAYS),
)

BLOCK_IO: Shape = (
    Field("weight", "Weight", INT),
    Field("leafWeight", "LeafWeight", INT),
    Field("weightDevice", "WeightDevice", MANY, WEIGHT_DEVICE),
    Field("throttleReadBpsDevice", "ThrottleReadBpsDevice", MANY, THROTTLE_DEVICE),
    Field("throttleWriteBpsDevice", "ThrottleWriteBpsDevice", MANY, THROTTLE_DEVICE),
    Field("throttleReadIOPSDevice", "ThrottleReadIOPSDevice", MANY, THROTTLE_DEVICE),
    Field("throttleWriteIOPSDevice", "ThrottleWriteIOPSDevice", MANY, THROTTLE_DEVICE),
)

HUGEPAGE_LIMIT: Shape = (
    Field("pageSize", "Pagesize", TEXT_ALWAYS),
    Field("limit", "Limit", INT_ALWAYS),
)

INTERFACE_PRIORITY: Shape = (
    Field("name", "Name", TEXT_ALWAYS),
    Field("priority", "Priority", INT_ALWAYS),
)

NETWORK: Shape = (
    Field("classID", "ClassID", INT),
    Field("priorities", "Priorities", MANY, INTERFACE_PRIORITY),
)

RESOURCES: Shape = (
    Field("devices", "Devices", MANY, DEVICE_RULE),
    Field("memory", "Memory", ONE, MEMORY),
    Field("cpu", "CPU", ONE, CPU),
    Field("pids", "Pids", ONE, PIDS),
    Field("blockIO", "BlockIO", ONE, BLOCK_IO),
    Field("hugepageLimits", "HugepageLimits", MANY, HUGEPAGE_LIMIT),
    Field("network", "Network", ONE, NETWORK),
)

SECCOMP_ARG: Shape = (
    Field("index", "Index", INT_ALWAYS),
    Field("value", "Value", INT_ALWAYS),
    Field("valueTwo", "ValueTwo", INT),
    Field("op", "Op", TEXT_ALWAYS),
)

SECCOMP_SYSCALL: Shape = (
    Field("names", "Names", TEXTS),
    Field("action", "Action", TEXT_ALWAYS),
    Field("errnoRet", "errnoret", INT_OPTIONAL),
    Field("args", "Args", MANY, SECCOMP_ARG),
)

SECCOMP: Shape = (
    Field("defaultAction", "DefaultAction", TEXT_ALWAYS),
    Field("architectures", "Architectures", TEXTS),
    Field("flags", "Flags", TEXTS),
    Field("syscalls", "Syscalls", MANY, SECCOMP_SYSCALL),
)

INTEL_RDT: Shape = (Field("l3CacheSchema", "L3CacheSchema", TEXT),)

LINUX: Shape = (
    Field("uidMappings", "UIDMappings", MANY, ID_MAPPING),
    Field("gidMappings", "GIDMappings", MANY, ID_MAPPING),
    Field("sysctl", "Sysctl", MAP),
    Field("resources", "Resources", ONE, RESOURCES),
    Field("cgroupsPath", "CgroupsPath", TEXT),
    Field("namespaces", "Namespaces", MANY, NAMESPACE),
    Field("devices", "Devices", MANY, DEVICE),
    Field("seccomp", "Seccomp", ONE, SECCOMP),
    Field("rootfsPropagation", "RootfsPropagation", TEXT),
    Field("maskedPaths", "MaskedPaths", TEXTS),
    Field("readonlyPaths", "ReadonlyPaths", TEXTS),
    Field("mountLabel", "MountLabel", TEXT),
    Field("intelRdt", "IntelRdt", ONE, INTEL_RDT),
)

SPEC: Shape = (
    Field("ociVersion", "Version", TEXT_ALWAYS),
    Field("process", "Process", ONE, PROCESS),
    Field("root", "Root", ONE, ROOT),
    Field("hostname", "Hostname", TEXT),
    Field("mounts", "Mounts", MANY, MOUNT),
    Field("hooks", "Hooks", ONE, HOOKS),
    Field("annotations", "Annotations", MAP),
    Field("linux", "Linux", ONE, LINUX),
)
