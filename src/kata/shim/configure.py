"""From a pod's first specification and the operator's configuration to the sandbox that it gets.

Called by `pod` when a sandbox starts. Looks at the configuration's files and the guest's assets; changes nothing.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal, NamedTuple, cast

from msgspec.structs import replace

from kata import config as configuration
from kata import paths
from kata.cgroups.path import placement
from kata.config.guest import kernel_params
from kata.osbuilder.assets import present
from kata.protocol.generated.host import runtimeoptions_pb2
from kata.sandbox import resources, volumes
from kata.sandbox.config import (
    GuestAssets,
    PodNetworkConfig,
    SandboxConfig,
    SandboxMount,
    SharedMount,
    Sharing,
    Sizing,
)
from kata.sandbox.errors import ConfigError
from kata.sandbox.resources import Workload
from kata.shim.bundle import annotations_of
from kata.shim.hardware import disk_options, guest_options, hardware, patience

if TYPE_CHECKING:
    from google.protobuf.any_pb2 import Any as AnyMessage

    from kata.config import Config
    from kata.hypervisor.machine import DiskDriver, ImageType
    from kata.oci.spec import Linux, Spec
    from kata.shim.kind import Kind
    from kata.storage.daemon import Cache

HOSTNAME_LIMIT = 64
"""Bytes of a host name (sethostname(2))."""
DEFAULT_SLOTS = 10
"""How often memory can be added where the configuration says 0."""
ROOT_PORTS, MOST_ROOT_PORTS = 2, 8
"""Places for disks that come later: each costs a little of the boot, and SCSI takes what finds none."""
LATE_NICS = 1
"""Places for networks that come later, which nobody announces."""


class Configured(NamedTuple):
    """The operator's settings, and the sandbox that follows from them and the specification."""

    config: Config
    sandbox: SandboxConfig


def configure(kind: Kind, spec: Spec, options: AnyMessage | None = None) -> Configured:
    """What holds for a new sandbox. `options` are containerd's for this runtime. Raises KataError."""
    annotations = annotations_of(spec)
    path, text = operators(options)
    config = configuration.load(annotations=annotations, operator_path=path, operator_text=text)
    config.check_runnable()
    return Configured(config, sandbox_config(config, kind, spec))


def container_spec(configured: Configured | None, spec: Spec) -> Spec:
    """A container's specification without what the operator does not want guests to do. None decides nothing."""
    linux = spec.get("linux", {})
    if configured is None or "seccomp" not in linux or not configured.config.runtime.disable_guest_seccomp:
        return spec
    kept: Linux = {**linux}
    del kept["seccomp"]
    return {**spec, "linux": kept}


def operators(options: AnyMessage | None) -> tuple[str | None, str]:
    """What containerd's own configuration says for this runtime: the path of a file, or the text of one.

    Options of other runtimes say nothing. Raises ConfigError for a text that is none.
    """
    if options is None or not options.type_url.endswith("runtimeoptions.v1.Options"):
        return None, ""
    from google.protobuf.message import DecodeError

    try:
        found = runtimeoptions_pb2.Options.FromString(options.value)
        return found.config_path or None, found.config_body.decode()
    except DecodeError:
        raise ConfigError("containerd's options for the runtime are no such message") from None
    except UnicodeDecodeError:
        raise ConfigError("containerd's options for the runtime are not UTF-8") from None


def sandbox_config(config: Config, kind: Kind, spec: Spec) -> SandboxConfig:
    """The sandbox of a pod, or of a container of its own. Raises KataError when there is nothing to boot from."""
    hypervisor = config.hypervisor
    sizing = sizing_of(config, spec)
    work = resources.workload_of(spec, Workload(sizing.announced_vcpus, sizing.announced_memory_mib))
    machine_type = hypervisor.machine_type
    if machine_type not in ("q35", "microvm"):
        raise ConfigError(f"machine type {machine_type!r} cannot be run")
    return SandboxConfig(
        id=kind.sandbox_id,
        hostname=spec.get("hostname", "").encode()[:HOSTNAME_LIMIT].decode(errors="ignore"),
        assets=guest_assets(config),
        vcpus=resources.vcpus(sizing.own_vcpus, work, hypervisor.default_maxvcpus),
        memory_mib=resources.memory_mib(sizing.own_memory_mib, work, hypervisor.default_maxmemory),
        sizing=sizing,
        cgroup=placement(
            spec.get("linux", {}).get("cgroupsPath", ""), kind.sandbox_id, together=config.runtime.sandbox_cgroup_only
        ),
        balloon=hypervisor.reclaim_guest_freed_memory,
        preallocate=hypervisor.enable_mem_prealloc,
        hugepages=hypervisor.enable_hugepages and hypervisor.hugepage_type == "hugetlbfs",
        machine_type="q35" if machine_type == "q35" else "microvm",
        network=pod_network(config, spec),
        share=hypervisor.shared_fs != "none",
        sharing=sharing(config),
        kubelet_root=config.runtime.kubelet_root_dir,
        empty_dir_disks=config.runtime.emptydir_mode == "block-plain",
        shared_mounts=tuple(SharedMount(**entry._asdict()) for entry in config.runtime.shared_mounts),
        block_rootfs=not hypervisor.disable_block_device_use,
        disk_drivers=disk_drivers(config),
        root_ports=root_ports(config),
        shm_bytes=volumes.shm_bytes(spec.get("mounts", [])),
        kernel_params=kernel_params(config),
        debug_console=config.agent.debug_console_enabled,
        log_console=hypervisor.enable_debug,
        boot_timeout=float(config.agent.dial_timeout),
        patience=patience(config),
        guest=guest_options(config),
        disk_options=disk_options(config),
        hardware=hardware(config),
        template=config.factory.enable_template,
        template_path=config.factory.template_path,
    )


def sharing(config: Config) -> Sharing:
    """How the guest sees directories of the host. Raises ConfigError for paths to show it when nothing is shared."""
    hypervisor, shown = config.hypervisor, config.runtime.sandbox_bind_mounts
    if shown and hypervisor.shared_fs == "none":
        raise ConfigError(
            'sandbox_bind_mounts need a share, and shared_fs is "none"', hint="take them out, or set shared_fs"
        )
    mounts = [SandboxMount(path.removesuffix(":ro").removesuffix(":rw"), not path.endswith(":rw")) for path in shown]
    return Sharing(
        way="virtio-9p" if hypervisor.shared_fs == "virtio-9p" else "virtio-fs",
        daemon=hypervisor.virtio_fs_daemon,
        cache=cast("Cache", hypervisor.virtio_fs_cache),
        msize=hypervisor.msize_9p,
        mounts=tuple(mounts),
    )


def sizing_of(config: Config, spec: Spec) -> Sizing:
    """The sandbox's own share, and how far its machine may grow.

    A machine of fixed size has the shares called overhead, where the operator has set them.
    """
    hypervisor, fixed = config.hypervisor, config.runtime.static_sandbox_resource_mgmt
    announced = resources.announced(annotations_of(spec))
    share = Sizing(
        follows=not fixed,
        own_vcpus=hypervisor.default_vcpus,
        own_memory_mib=hypervisor.default_memory,
        announced_vcpus=announced.cpus,
        announced_memory_mib=announced.memory_mib,
        pin_vcpus=config.runtime.enable_vcpus_pinning,
    )
    if not fixed:
        return replace(
            share,
            max_vcpus=hypervisor.default_maxvcpus,
            max_memory_mib=hypervisor.default_maxmemory,
            memory_slots=hypervisor.memory_slots or DEFAULT_SLOTS,
        )
    if resources.workload_of(spec, announced) == Workload():
        return share  # nobody says what the containers need, so it is what a machine gets by default
    return replace(
        share,
        own_vcpus=hypervisor.overhead_vcpus or hypervisor.default_vcpus,
        own_memory_mib=hypervisor.overhead_memory or hypervisor.default_memory,
    )


def pod_network(config: Config, spec: Spec) -> Literal["none"] | PodNetworkConfig:
    """The network namespace of the pod, a new one if the engine has made none. Raises ConfigError.

    A specification without a network namespace asks for the host's, which a virtual machine cannot be in.
    """
    if config.runtime.disable_new_netns:
        return "none"
    found = [entry for entry in spec.get("linux", {}).get("namespaces", []) if entry.get("type") == "network"]
    if not found:
        raise ConfigError(
            "the container wants the host's network, which a virtual machine cannot have",
            hint="leave --net-host or hostNetwork away",
        )
    hypervisor = config.hypervisor
    return PodNetworkConfig(
        netns=found[0].get("path", ""),
        model=config.runtime.internetworking_model,
        queues=hypervisor.network_queues,
        vhost=not hypervisor.disable_vhost_net,
        rx_rate=hypervisor.rx_rate_limiter_max_rate,
        tx_rate=hypervisor.tx_rate_limiter_max_rate,
    )


def disk_drivers(config: Config) -> tuple[DiskDriver, ...]:
    """How disks are plugged in while the machine runs. A microvm takes none: then the error says so."""
    if config.hypervisor.machine_type != "q35":
        return ("blk",)
    return ("scsi",) if config.hypervisor.block_device_driver == "virtio-scsi" else ("blk", "scsi")


def root_ports(config: Config) -> int:
    """How many devices can be plugged in besides SCSI disks."""
    if config.hypervisor.machine_type != "q35":
        return 0
    least = ROOT_PORTS if "blk" in disk_drivers(config) else LATE_NICS
    return min(MOST_ROOT_PORTS, max(least, config.hypervisor.pcie_root_port))


def guest_assets(config: Config) -> GuestAssets:
    """What the guest boots from: the operator's files, or our own. Raises KataError when they are missing."""
    ours = present(paths.assets_dir())
    kernel, image, initrd = config.hypervisor.kernel, config.hypervisor.image, config.hypervisor.initrd
    for path in filter(None, (kernel, image, initrd)):
        if not os.path.isfile(path):
            raise ConfigError(f"the guest's file {path} is missing", hint="kata config show says who named it")
    if initrd:
        return GuestAssets(kernel, initrd, None)
    # Our own image is what it is; upstream's files say ext4 even where they name no image.
    kind = "erofs" if image == ours.image else cast("ImageType", config.hypervisor.rootfs_type)
    # Debian's kernel has its drivers in an initrd of ours, which then mounts the image.
    return GuestAssets(kernel, ours.initrd if kernel == ours.kernel else None, image, kind)
