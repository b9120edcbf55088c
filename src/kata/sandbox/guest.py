"""What a sandbox tells its guest: pure descriptions for the agent, and the order in which they are sent.

The guest's paths are upstream's (protocol facts, section 6). Addresses of the user-mode network are QEMU's own
(QEMU documentation, "Using the user mode network stack"): guest .15, gateway .2, name server .3 of 10.0.2.0/24.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, cast

from kata.hypervisor.machine import UserNetwork
from kata.protocol.generated import agent_pb2, types_pb2

if TYPE_CHECKING:
    from kata.oci.spec import Spec
    from kata.sandbox.agent_client import AgentClient
    from kata.sandbox.config import ContainerConfig, SandboxConfig

SHARE_MOUNT = "/run/kata-containers/shared/containers"
LAYERS = "/run/kata-containers/sandbox/layers"
ROOTFS = "/run/kata-containers/sandbox/rootfs"

USER_ADDRESS = ("10.0.2.15", "24")
USER_GATEWAY = "10.0.2.2"
USER_DNS = "10.0.2.3"


def nic(config: SandboxConfig) -> UserNetwork | None:
    """The NIC that the VM gets. Its MAC follows from the sandbox id, locally administered and unicast."""
    if config.network == "none":
        return None
    return UserNetwork(mac=mac_address(config.id), ports=config.ports)


def mac_address(sandbox_id: str) -> str:
    """A MAC address that is the same for the same sandbox (IEEE 802: bit 1 of the first byte set, bit 0 clear)."""
    digest = hashlib.sha256(sandbox_id.encode()).digest()
    return ":".join(f"{byte:02x}" for byte in (0x02, *digest[:5]))


def volume_source(index: int) -> str:
    """Where the sandbox's volume number `index` is in the guest."""
    return f"{SHARE_MOUNT}/v{index}"


def prepare(agent: AgentClient, config: SandboxConfig) -> None:
    """Network first, then the sandbox, so that nothing in it starts without one."""
    if config.network == "user":
        agent.update_interface(_interface(config))
        agent.update_routes(_routes())
    servers = config.dns or ((USER_DNS,) if config.network == "user" else ())
    lines = [f"nameserver {server}" for server in servers]
    agent.create_sandbox(config.id, config.hostname, lines, _shared_storages(config))


def describe(config: ContainerConfig, disk: tuple[str, str]) -> tuple[Spec, list[agent_pb2.Storage]]:
    """The container's spec with its guest paths, and the storages that make its root filesystem.

    The disk (erofs) is mounted read-only, with an overlay over it in the guest's memory. A read-only root has one
    too: the places to mount on are made in it before the runtime closes it.
    """
    driver, source = disk
    layer, rootfs = f"{LAYERS}/{config.id}", f"{ROOTFS}/{config.id}"
    spec = cast("Spec", dict(config.spec))
    root = dict(cast("dict[str, object]", config.spec.get("root", {})))
    spec["root"] = {"path": rootfs, "readonly": bool(root.get("readonly"))}
    options = [f"lowerdir={layer}", "io.katacontainers.fs-opt.overlay-rw"]
    return spec, [
        agent_pb2.Storage(driver=driver, source=source, fstype="erofs", options=["ro"], mount_point=layer),
        agent_pb2.Storage(driver="overlayfs", source="overlay", fstype="overlay", options=options, mount_point=rootfs),
    ]


def _shared_storages(config: SandboxConfig) -> list[agent_pb2.Storage]:
    if not config.volumes:
        return []
    return [
        agent_pb2.Storage(
            driver="virtio-fs",
            source="kataShared",
            fstype="virtiofs",
            options=["nodev"],
            mount_point=SHARE_MOUNT,
        )
    ]


def _interface(config: SandboxConfig) -> agent_pb2.UpdateInterfaceRequest:
    address, mask = USER_ADDRESS
    return agent_pb2.UpdateInterfaceRequest(
        interface=types_pb2.Interface(
            device="eth0",
            name="eth0",
            IPAddresses=[types_pb2.IPAddress(family=types_pb2.IPFamily.v4, address=address, mask=mask)],
            mtu=1500,
            hwAddr=mac_address(config.id),
        )
    )


def _routes() -> agent_pb2.UpdateRoutesRequest:
    default = types_pb2.Route(dest="", gateway=USER_GATEWAY, device="eth0", family=types_pb2.IPFamily.v4)
    return agent_pb2.UpdateRoutesRequest(routes=agent_pb2.Routes(Routes=[default]))
