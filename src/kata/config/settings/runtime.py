"""`[runtime]`: the host side: network, cgroups, what containers get."""

from kata.config.kinds import Choice, Flag, Integer, Path, Records, Seconds, Text, Words
from kata.config.setting import Section, Setting
from kata.config.values import SharedMount

NO_SELINUX = "SELinux labels are not set"
TRACES = "spans are not sent to a collector by the runtime"


class Runtime(Section):
    """Names, network, resources, volumes, debugging."""

    section = "runtime"

    name = Setting(
        Choice("virt_container", "linux_container", "wasm_container", synonyms={"virt-container": "virt_container"}),
        "virt_container",
        "What makes containers.",
        annotation=True,
        refused_values={
            "linux_container": "containers run in VMs here, and nowhere else",
            "wasm_container": "containers run in VMs here, and nowhere else",
        },
    )
    hypervisor_name = Setting(
        Text(),
        "",
        "Which `[hypervisor.NAME]` holds; there is but one, and a pod can only name that.",
        annotation=True,
    )
    agent_name = Setting(Choice("kata"), "kata", "Which `[agent.NAME]` holds.", annotation=True)
    enable_debug = Setting(Flag(), False, "The runtime logs more.")
    log_level = Setting(Text(), "info", "The runtime's level of logging.", ignored="`enable_debug` says how much")
    internetworking_model = Setting(
        Choice("tcfilter", "macvtap", "none", "l3forwarding"),
        "tcfilter",
        "How the pod's interfaces are joined to the VM's: tcfilter, macvtap or none.",
        annotation=True,
        refused_values={"l3forwarding": "tcfilter and macvtap join interfaces; forwarding is an experiment"},
    )
    disable_new_netns = Setting(
        Flag(), False, "The VMM stays in the host's network namespace; only with model none.", annotation=True
    )
    dan_conf = Setting(
        Path(),
        "/run/kata-containers/dans",
        "The folder of files for directly attached networks.",
        ignored="networks are found in the pod's namespace",
    )
    sandbox_cgroup_only = Setting(
        Flag(),
        False,
        "All that belongs to a sandbox runs in the pod's cgroup; else its overhead has a cgroup apart.",
        annotation=True,
    )
    static_sandbox_resource_mgmt = Setting(
        Flag(),
        False,
        "Size the VM once, by what its pod asks for, and never resize it.",
        aliases=("runtime.static_resource_mgmt",),
    )
    enable_vcpus_pinning = Setting(
        Flag(),
        False,
        "Pin each virtual CPU to one of the pod's cpuset when there are as many.",
        annotation=("runtime.enable_vcpus_pinning", "io.katacontainers.enable_vcpus_pinning"),
    )
    create_container_timeout = Setting(
        Seconds(1),
        60.0,
        "Seconds that creating a container may take.",
        annotation=True,
        aliases=("agent.create_container_timeout",),
    )
    disable_guest_seccomp = Setting(
        Flag(), False, "Containers run without their seccomp profiles; the VM is the wall.", annotation=True
    )
    guest_selinux_label = Setting(
        Text(),
        "",
        "The SELinux label of containers in the guest.",
        aliases=("hypervisor.selinux_label",),
        annotation=True,
        ignored=NO_SELINUX,
    )
    sandbox_bind_mounts = Setting(
        Words(Text(r"/[^:]*(:r[ow])?", "an absolute path, with :ro or :rw after it if need be")),
        (),
        "Paths of the host that all containers' guests see, read-only unless :rw is said.",
    )
    shared_mounts = Setting(
        Records(SharedMount),
        (),
        "Folders of one container that another one sees; JSON in an annotation.",
        annotation=True,
    )
    emptydir_mode = Setting(
        Choice("shared-fs", "block-encrypted", "block-plain"),
        "shared-fs",
        "What an emptyDir on disk is: shared-fs, block-encrypted or block-plain.",
        refused_values={"block-encrypted": "the guest cannot encrypt disks"},
    )
    disable_guest_empty_dir = Setting(
        Flag(),
        True,
        "An emptyDir on disk stays on the host, and is shared.",
        quiet=(False,),
        ignored="`emptydir_mode` says so",
    )
    kubelet_root_dir = Setting(
        Path(),
        "",
        "The kubelet's folder: its volumes are known by their paths below it; empty for such paths anywhere.",
    )
    pod_resource_api_sock = Setting(
        Path(),
        "",
        "The kubelet's socket that says which devices a pod has.",
        ignored="devices are taken from a container's spec and its CDI annotations",
    )
    vfio_mode = Setting(
        Choice("guest-kernel", "vfio"),
        "guest-kernel",
        "A passed-through device is driven by the guest's kernel, or is a VFIO group for the container.",
        annotation=True,
        ignored="host devices are not passed through by VFIO",
    )
    experimental = Setting(
        Words(separator=r"[\s,]+"),
        (),
        "Names of experiments to take part in.",
        annotation=True,
        ignored="there are none",
    )
    experimental_force_guest_pull = Setting(
        Flag(),
        False,
        "The guest pulls all images itself.",
        annotation=True,
        refused="the guest cannot pull images",
    )
    enable_pprof = Setting(
        Flag(), False, "Serve Go's profiles.", annotation=True, ignored="a Python program has none of Go's profiles"
    )
    enable_tracing = Setting(Flag(), False, "Send spans of the runtime.", ignored=TRACES)
    jaeger_endpoint = Setting(Text(), "", "The collector's URL.", ignored=TRACES)
    jaeger_user = Setting(Text(), "", "The user's name for it.", ignored=TRACES)
    jaeger_password = Setting(Text(), "", "The password for it.", ignored=TRACES, secret=True)
    keep_abnormal = Setting(
        Flag(),
        False,
        "Keep the sandbox when its agent does not answer.",
        ignored="a sandbox ends only when its VM or agent is really gone",
    )
    use_passfd_io = Setting(
        Flag(), False, "Streams go over vsock.", quiet=(True,), ignored="streams go over the agent's protocol"
    )
    passfd_listener_port = Setting(
        Integer(), 1027, "The vsock port for them.", ignored="streams go over the agent's protocol"
    )
