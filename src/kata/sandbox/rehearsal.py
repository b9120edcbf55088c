"""What a template's guest does before it is saved: once all that a sandbox will ask of it.

A guest that has done a thing before does it several times faster: its agent has imported what it takes, the C library
and crun are in memory, the kernel has made its caches (docs/performance.md has figures). The container is ours, its
files are the guest's own image, and nothing of it is left.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from kata.protocol.generated import agent_pb2, types_pb2
from kata.sandbox.agent_client import AgentClient
from kata.sandbox.containerplan import ContainerPlan
from kata.sandbox.guest import LAYERS, ROOTFS
from kata.sandbox.spec import ContainerOptions, ProcessOptions, container, process
from kata.sandbox.translate import Translation, for_guest

if TYPE_CHECKING:
    import threading

    from kata.hypervisor.machine import MachineSpec

NAME = "rehearsal"
PYTHON = "/usr/bin/python3.11"
WAITS = (PYTHON, "-I", "-S", "-c", "import sys; sys.stdin.read()")
"""The one program of a guest that can be told to wait."""
SHORT = ("/usr/bin/crun", "--version")
STEP_TIMEOUT = 30.0
EXEC = "rehearsal-exec"


def rehearse(spec: MachineSpec, address: str, timeout: float, cancelled: threading.Event) -> None:
    """Wait for the agent, and go through a sandbox's life with it. Raises GuestError, ContainerError.

    `timeout` (seconds) and `cancelled` are as in `AgentClient.connect`.
    """
    agent = AgentClient.connect(address, timeout, cancelled)
    with contextlib.closing(agent):
        if spec.network is not None or spec.nics:
            _network(agent)
        _container(agent)


def _network(agent: AgentClient) -> None:
    """An address and a route, which the first thing that a sandbox says about the interface removes."""
    interface = types_pb2.Interface(device="eth0", name="eth0", mtu=1500)
    interface.IPAddresses.add(family=types_pb2.IPFamily.v4, address="192.0.2.2", mask="24")  # RFC 5737: nobody's
    agent.update_interface(agent_pb2.UpdateInterfaceRequest(interface=interface))
    route = types_pb2.Route(dest="198.51.100.0/24", device="eth0", family=types_pb2.IPFamily.v4)
    agent.update_routes(agent_pb2.UpdateRoutesRequest(routes=agent_pb2.Routes(Routes=[route])))
    agent.update_interface(
        agent_pb2.UpdateInterfaceRequest(interface=types_pb2.Interface(device="eth0", name="eth0", mtu=1500))
    )


def run_container(agent: AgentClient, command: tuple[str, ...] = SHORT) -> None:
    """A container of the guest's own image, from its creation to its removal."""
    _start(agent, command)
    _end(agent)


def _container(agent: AgentClient) -> None:
    """One that has a process beside its first, and is asked for its figures."""
    _start(agent, WAITS)
    agent.exec_process(NAME, EXEC, process(ProcessOptions(args=SHORT)))
    while agent.ask_output(NAME, EXEC, stderr=False, size=4096)():
        pass
    agent.ask_end(NAME, EXEC)()
    agent.stats(NAME)
    agent.close_stdin(NAME, NAME)
    _end(agent)


def _start(agent: AgentClient, command: tuple[str, ...]) -> None:
    place = f"{ROOTFS}/{NAME}"
    options = ContainerOptions(id=NAME, process=ProcessOptions(args=command), hostname=NAME, memory_bytes=64 << 20)
    spec = for_guest(container(options), Translation(rootfs=place))
    agent.create_container(NAME, ContainerPlan(spec, _storages(place)))
    agent.start_container(NAME)


def _end(agent: AgentClient) -> None:
    agent.ask_end(NAME, NAME)()
    agent.remove_container(NAME, STEP_TIMEOUT)


def _storages(place: str) -> list[agent_pb2.Storage]:
    """The guest's own root file system, with an overlay over it, as a container's image would be."""
    layer = f"{LAYERS}/{NAME}"
    options = [f"lowerdir={layer}", "io.katacontainers.fs-opt.overlay-rw"]
    return [
        agent_pb2.Storage(driver="bind", source="/", fstype="bind", options=["bind", "ro"], mount_point=layer),
        agent_pb2.Storage(driver="overlayfs", source="overlay", fstype="overlay", options=options, mount_point=place),
    ]
