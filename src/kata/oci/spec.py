"""The OCI runtime specification's JSON as types: the keys are those of config.json.

Read by everybody who handles a container's specification, for type checkers only (the class names are those of
the specification's own Go types): at run time a specification is the plain dict that `json.loads` gives. Keys that
a newer engine sends and that are not here are tolerated and kept by everyone. Never add behaviour.
Source: opencontainers/runtime-spec, config.md and config-linux.md, version 1.2.
"""

from __future__ import annotations

from typing import TypedDict


class Box(TypedDict, total=False):
    """A terminal's size in characters."""

    height: int
    width: int


class User(TypedDict, total=False):
    """Who a process runs as. `umask` is not carried by the agent's protocol."""

    uid: int
    gid: int
    umask: int
    additionalGids: list[int]
    username: str


class LinuxCapabilities(TypedDict, total=False):
    """The five capability sets, by their kernel names (CAP_...)."""

    bounding: list[str]
    effective: list[str]
    inheritable: list[str]
    permitted: list[str]
    ambient: list[str]


class POSIXRlimit(TypedDict, total=False):
    """One resource limit (RLIMIT_...); both values as getrlimit(2) has them."""

    type: str
    hard: int
    soft: int


class Process(TypedDict, total=False):
    """A container's first process, or one that joins it."""

    terminal: bool
    consoleSize: Box
    user: User
    args: list[str]
    commandLine: str
    env: list[str]
    cwd: str
    capabilities: LinuxCapabilities
    rlimits: list[POSIXRlimit]
    noNewPrivileges: bool
    apparmorProfile: str
    oomScoreAdj: int
    selinuxLabel: str
    scheduler: dict[str, object]
    ioPriority: dict[str, object]
    execCPUAffinity: dict[str, str]


class Root(TypedDict, total=False):
    """The container's root file system."""

    path: str
    readonly: bool


class Mount(TypedDict, total=False):
    """One mount inside the container. The mappings are those of idmapped mounts."""

    destination: str
    source: str
    type: str
    options: list[str]
    uidMappings: list[LinuxIDMapping]
    gidMappings: list[LinuxIDMapping]


class Hook(TypedDict, total=False):
    """A program run at a point of the life cycle; `timeout` in seconds."""

    path: str
    args: list[str]
    env: list[str]
    timeout: int


class Hooks(TypedDict, total=False):
    """Hooks by the point at which they run."""

    prestart: list[Hook]
    createRuntime: list[Hook]
    createContainer: list[Hook]
    startContainer: list[Hook]
    poststart: list[Hook]
    poststop: list[Hook]


class LinuxIDMapping(TypedDict, total=False):
    """A range of user or group ids of a user namespace."""

    containerID: int
    hostID: int
    size: int


class LinuxNamespace(TypedDict, total=False):
    """A namespace to join (with `path`) or to create."""

    type: str
    path: str


class LinuxDevice(TypedDict, total=False):
    """A device node: `type` is c, u (unbuffered, the same as c), b or p."""

    path: str
    type: str
    major: int
    minor: int
    fileMode: int
    uid: int
    gid: int


class LinuxDeviceCgroup(TypedDict, total=False):
    """A device cgroup rule; without `major` or `minor` it holds for all. `type` is a, c or b."""

    allow: bool
    type: str
    major: int
    minor: int
    access: str


class LinuxMemory(TypedDict, total=False):
    """Memory limits in bytes; -1 is no limit."""

    limit: int
    reservation: int
    swap: int
    kernel: int
    kernelTCP: int
    swappiness: int
    disableOOMKiller: bool
    useHierarchy: bool
    checkBeforeUpdate: bool


class LinuxCPU(TypedDict, total=False):
    """CPU time limits (quota and period in microseconds) and the CPUs and memory nodes that may be used."""

    shares: int
    quota: int
    burst: int
    period: int
    realtimeRuntime: int
    realtimePeriod: int
    cpus: str
    mems: str
    idle: int


class LinuxPids(TypedDict, total=False):
    """How many tasks the container may have."""

    limit: int


class LinuxWeightDevice(TypedDict, total=False):
    """I/O weight of one block device."""

    major: int
    minor: int
    weight: int
    leafWeight: int


class LinuxThrottleDevice(TypedDict, total=False):
    """I/O rate limit of one block device, in bytes or operations a second."""

    major: int
    minor: int
    rate: int


class LinuxBlockIO(TypedDict, total=False):
    """Block I/O weights and limits."""

    weight: int
    leafWeight: int
    weightDevice: list[LinuxWeightDevice]
    throttleReadBpsDevice: list[LinuxThrottleDevice]
    throttleWriteBpsDevice: list[LinuxThrottleDevice]
    throttleReadIOPSDevice: list[LinuxThrottleDevice]
    throttleWriteIOPSDevice: list[LinuxThrottleDevice]


class LinuxHugepageLimit(TypedDict, total=False):
    """How many bytes of huge pages of one size (2MB, 1GB) may be used."""

    pageSize: str
    limit: int


class LinuxInterfacePriority(TypedDict, total=False):
    """Priority of traffic through one interface."""

    name: str
    priority: int


class LinuxNetwork(TypedDict, total=False):
    """Class id and priorities of the container's traffic."""

    classID: int
    priorities: list[LinuxInterfacePriority]


class LinuxResources(TypedDict, total=False):
    """Cgroup limits. `unified` and `rdma` are not carried by the agent's protocol."""

    devices: list[LinuxDeviceCgroup]
    memory: LinuxMemory
    cpu: LinuxCPU
    pids: LinuxPids
    blockIO: LinuxBlockIO
    hugepageLimits: list[LinuxHugepageLimit]
    network: LinuxNetwork
    rdma: dict[str, object]
    unified: dict[str, str]


class LinuxSeccompArg(TypedDict, total=False):
    """A comparison with one argument of a system call."""

    index: int
    value: int
    valueTwo: int
    op: str


class LinuxSyscall(TypedDict, total=False):
    """What to do at these system calls. Without `errnoRet` the action's own default applies (EPERM)."""

    names: list[str]
    action: str
    errnoRet: int
    args: list[LinuxSeccompArg]


class LinuxSeccomp(TypedDict, total=False):
    """The system call filter."""

    defaultAction: str
    defaultErrnoRet: int
    architectures: list[str]
    flags: list[str]
    listenerPath: str
    listenerMetadata: str
    syscalls: list[LinuxSyscall]


class LinuxIntelRdt(TypedDict, total=False):
    """Cache and memory bandwidth allocation."""

    closID: str
    l3CacheSchema: str
    memBwSchema: str


class Linux(TypedDict, total=False):
    """What only Linux has."""

    uidMappings: list[LinuxIDMapping]
    gidMappings: list[LinuxIDMapping]
    sysctl: dict[str, str]
    resources: LinuxResources
    cgroupsPath: str
    namespaces: list[LinuxNamespace]
    devices: list[LinuxDevice]
    seccomp: LinuxSeccomp
    rootfsPropagation: str
    maskedPaths: list[str]
    readonlyPaths: list[str]
    mountLabel: str
    intelRdt: LinuxIntelRdt
    timeOffsets: dict[str, dict[str, int]]
    personality: dict[str, object]
    netDevices: dict[str, dict[str, str]]


class Spec(TypedDict, total=False):
    """A container's config.json."""

    ociVersion: str
    process: Process
    root: Root
    hostname: str
    domainname: str
    mounts: list[Mount]
    hooks: Hooks
    annotations: dict[str, str]
    linux: Linux
