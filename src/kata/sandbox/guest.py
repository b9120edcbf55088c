"""What a sandbox tells its guest: pure descriptions for the agent, and the order in which they are sent.

The guest's paths are upstream's (protocol facts, section 6). Addresses of the user-mode network are QEMU's own
(QEMU documentation, "Using the user mode network stack"): guest .15, gateway .2, name server .3 of 10.0.2.0/24.
"""

from __future__ import annotations

import hashlib
import os
import time
from typing import TYPE_CHECKING

from kata.hypervisor.machine import UserNetwork
from kata.protocol.generated import agent_pb2, types_pb2
from kata.protocol.generated.agent_pb2 import Storage
from kata.sandbox import sharing
from kata.sandbox.config import DiskRootfs, SharedRootfs
from kata.sandbox.updates import PLUGGED, SANDBOX_SHM, SHARE_MOUNT

if TYPE_CHECKING:
    from collections.abc import Callable

    from kata.oci.spec import Mount
    from kata.sandbox.agent_client import AgentClient
    from kata.sandbox.config import ContainerConfig, SandboxConfig

LAYERS = "/run/kata-containers/sandbox/layers"
ROOTFS = "/run/kata-containers/sandbox/rootfs"

SEED_BYTES = 64
"""As many as the kernel's pool takes in; it is whole again after 32 (random(4))."""
USER_ADDRESS = ("10.0.2.15", "24")
USER_GATEWAY = "10.0.2.2"
USER_DNS = "10.0.2.3"


def nic(config: SandboxConfig) -> UserNetwork | None:
    """The NIC that the VM gets. Its MAC follows from the sandbox id, locally administered and unicast."""
    if config.network != "user":
        return None
    return UserNetwork(mac=mac_address(config.id), ports=config.ports)


def mac_address(sandbox_id: str) -> str:
    """A MAC address that is the same for the same sandbox (IEEE 802: bit 1 of the first byte set, bit 0 clear)."""
    digest = hashlib.sha256(sandbox_id.encode()).digest()
    return ":".join(f"{byte:02x}" for byte in (0x02, *digest[:5]))


def prepare(agent: AgentClient, config: SandboxConfig, enter_network: Callable[[], None]) -> None:
    """The policy before all that it could forbid; network first, so that nothing in the sandbox starts without one."""
    if config.guest.policy:
        agent.set_policy(config.guest.policy)
    enter_network()
    if config.network == "user":
        agent.update_interface(_interface(config))
        agent.update_routes(_routes())
    servers = config.dns or ((USER_DNS,) if config.network == "user" else ())
    lines = [f"nameserver {server}" for server in servers]
    agent.create_sandbox(config.id, config.hostname, lines, _storages(config), config.guest)


def renew(agent: AgentClient) -> None:
    """Make a restored guest one of its own: new random numbers, and the time that it is.

    Before anything of its sandbox is in it. All guests of a template go on with the same random pool.
    """
    agent.reseed(os.urandom(SEED_BYTES))
    agent.set_time(time.time())


def rootfs(config: ContainerConfig) -> tuple[str, list[Storage]]:
    """Where the guest has the container's root file system, and the storages that make it, its disk's first.

    A disk that stays as it is (erofs) is mounted read-only, with an overlay over it in the guest's memory. A read-only
    root has one too: the places to mount on are made in it before the runtime closes it.
    """
    how = config.rootfs
    if isinstance(how, SharedRootfs):
        return f"{SHARE_MOUNT}/{rootfs_name(config.id)}", []
    layer, place = f"{LAYERS}/{config.id}", f"{ROOTFS}/{config.id}"
    if isinstance(how, DiskRootfs):
        disk = agent_pb2.Storage(driver=PLUGGED, source=how.serial, fstype="erofs", options=["ro"])
    else:
        disk = agent_pb2.Storage(driver=PLUGGED, fstype=how.fstype, options=how.options)
        if not how.layered:
            disk.mount_point = place
            return place, [disk]
    disk.mount_point = layer
    options = [f"lowerdir={layer}", "io.katacontainers.fs-opt.overlay-rw"]
    return place, [
        disk,
        agent_pb2.Storage(driver="overlayfs", source="overlay", fstype="overlay", options=options, mount_point=place),
    ]


def rootfs_name(container_id: str) -> str:
    """The name of a container's root file system in the share."""
    return f"{container_id}/rootfs"


def resolv_conf() -> Mount:
    """The guest's own resolv.conf, which CreateSandbox wrote, in a container."""
    return {"destination": "/etc/resolv.conf", "type": "bind", "source": "/etc/resolv.conf", "options": ["bind", "ro"]}


def _storages(config: SandboxConfig) -> list[Storage]:
    storages = []
    if config.share:
        storages.append(sharing.storage(config.sharing))
    if config.shm_bytes:
        shm = Storage(driver="ephemeral", source="shm", fstype="tmpfs", mount_point=SANDBOX_SHM)
        shm.options.extend(["noexec", "nosuid", "nodev", "mode=1777", f"size={config.shm_bytes}"])
        storages.append(shm)
    return storages


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
