"""From a pod's first specification and the operator's configuration to the sandbox that it gets.

Called by `pod` when a sandbox starts. Looks at the configuration's files and the guest's assets; changes nothing.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal, NamedTuple

from kata import config as configuration
from kata import paths
from kata.config.guest import kernel_params
from kata.osbuilder.assets import present
from kata.protocol.generated.host import runtimeoptions_pb2
from kata.sandbox import resources
from kata.sandbox.config import GuestAssets, PodNetworkConfig, SandboxConfig
from kata.sandbox.errors import ConfigError
from kata.shim.bundle import annotations_of

if TYPE_CHECKING:
    from google.protobuf.any_pb2 import Any as AnyMessage

    from kata.config import Config
    from kata.oci.spec import Linux, Spec
    from kata.shim.kind import Kind

HOSTNAME_LIMIT = 64
"""Bytes of a host name (sethostname(2))."""
DEFAULT_SHM = 64 << 20
ROOT_PORTS = 4
"""Devices that can come while a pod runs; each port costs 0.1 to 0.2 s of an emulated guest's boot."""


class Configured(NamedTuple):
    """The operator's settings, and the sandbox that follows from them and the specification."""

    config: Config
    sandbox: SandboxConfig


def configure(kind: Kind, spec: Spec, options: AnyMessage | None = None) -> Configured:
    """What holds for a new sandbox. `options` are containerd's for this runtime. Raises KataError."""
    annotations = annotations_of(spec)
    config = configuration.load(annotations=annotations, operator_path=config_path(options))
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


def config_path(options: AnyMessage | None) -> str | None:
    """The configuration file that containerd's own configuration names; options of other runtimes say nothing."""
    if options is None or not options.type_url.endswith("runtimeoptions.v1.Options"):
        return None
    return runtimeoptions_pb2.Options.FromString(options.value).config_path or None


def sandbox_config(config: Config, kind: Kind, spec: Spec) -> SandboxConfig:
    """The sandbox of a pod, or of a container of its own. Raises KataError when there is nothing to boot from."""
    hypervisor = config.hypervisor
    work = resources.workload_of(spec, annotations_of(spec))
    machine_type = hypervisor.machine_type
    if machine_type not in ("q35", "microvm"):
        raise ConfigError(f"machine type {machine_type!r} cannot be run")
    return SandboxConfig(
        id=kind.sandbox_id,
        hostname=spec.get("hostname", "")[:HOSTNAME_LIMIT],
        assets=guest_assets(config),
        vcpus=resources.vcpus(hypervisor.default_vcpus, work, hypervisor.default_maxvcpus),
        memory_mib=resources.memory_mib(hypervisor.default_memory, work, hypervisor.default_maxmemory),
        machine_type="q35" if machine_type == "q35" else "microvm",
        network=pod_network(config, spec),
        root_ports=ROOT_PORTS,
        share=hypervisor.shared_fs == "virtio-fs",
        shm_bytes=DEFAULT_SHM,
        kernel_params=kernel_params(config),
        boot_timeout=float(config.agent.dial_timeout),
    )


def pod_network(config: Config, spec: Spec) -> Literal["none"] | PodNetworkConfig:
    """The network namespace of the pod; none for one that the engine has not made. Raises ConfigError.

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
    path = found[0].get("path", "")
    if not path:
        return "none"
    hypervisor = config.hypervisor
    return PodNetworkConfig(
        netns=path,
        model=config.runtime.internetworking_model,
        rx_rate=hypervisor.rx_rate_limiter_max_rate,
        tx_rate=hypervisor.tx_rate_limiter_max_rate,
    )


def guest_assets(config: Config) -> GuestAssets:
    """What the guest boots from: the operator's files, or our own. Raises KataError when they are missing."""
    ours = present(paths.assets_dir())
    kernel, image, initrd = config.hypervisor.kernel, config.hypervisor.image, config.hypervisor.initrd
    for path in filter(None, (kernel, image, initrd)):
        if not os.path.isfile(path):
            raise ConfigError(f"the guest's file {path} is missing", hint="kata config show says who named it")
    if initrd:
        return GuestAssets(kernel, initrd, None)
    # Debian's kernel has its drivers in an initrd of ours, which then mounts the image.
    return GuestAssets(kernel, ours.initrd if kernel == ours.kernel else None, image)
