"""A real QEMU, running as its own user under its seccomp filters, gets memory and CPUs; what the guest makes of them.

One VM for the whole module. Its emulated guest refuses CPUs that come later (docs/resources.md): that is seen here too,
so that the day on which one takes them is noticed.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kata import paths
from kata.hypervisor.errors import NoPlaceError
from kata.hypervisor.machine import MachineSpec
from kata.hypervisor.qemu.machine import QemuMachine
from kata.sandbox.agent_client import AgentClient
from kata.sandbox.config import GuestAssets, SandboxConfig
from kata.sandbox.errors import ContainerError

pytestmark = [pytest.mark.vm, pytest.mark.root, pytest.mark.usefixtures("assets")]

UID = 1_879_048_195
BLOCK_MIB = 128
LIMITS = SandboxConfig(id="growth", hostname="", assets=GuestAssets("", None, None), boot_timeout=120.0)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QemuMachine]:
    folder = tmp_path_factory.mktemp("growth")
    (folder / "vm").mkdir(mode=0o700)
    assets = paths.assets_dir()
    spec = MachineSpec(
        sandbox_id="growth",
        directory=str(folder / "vm"),
        kernel=str(assets / "vmlinuz"),
        initrd=str(assets / "initrd.img") if (assets / "initrd.img").exists() else None,
        image=str(assets / "kata-containers.img"),
        accelerator="tcg",
        transport="serial",
        max_vcpus=2,
        max_memory_mib=1024,
        memory_slots=2,
        balloon=True,
        uid=UID,
        gid=UID,
    )
    with QemuMachine(spec) as made:
        made.boot()
        yield made


@pytest.fixture(scope="module")
def agent(machine: QemuMachine) -> Iterator[AgentClient]:
    made = AgentClient.connect(machine.agent_address(), LIMITS, threading.Event())
    yield made
    made.close()


def test_memory_comes_in_the_guests_blocks(machine: QemuMachine, agent: AgentClient) -> None:
    assert agent.guest_details().mem_block_size_bytes == BLOCK_MIB << 20
    machine.add_memory(BLOCK_MIB)
    machine.add_memory(2 * BLOCK_MIB)
    agent.online(0, memory=True)
    assert machine.free_memory_slots() == 0
    with pytest.raises(NoPlaceError, match="slots"):
        machine.add_memory(BLOCK_MIB)
    assert machine.growth.balloon() == 256 + 3 * BLOCK_MIB


def test_threads_of_cpus_are_qemus(machine: QemuMachine, agent: AgentClient) -> None:
    (thread,) = machine.vcpu_threads()
    assert stat.S_ISDIR(os.stat(f"/proc/{machine.pid}/task/{thread}").st_mode)
    assert (
        Path(f"/proc/{machine.pid}/task/{thread}/comm").read_text().startswith(("CPU 0", "ALL CPUs"))
    )  # under TCG one runs them all


def test_cpus_come_and_this_guest_refuses_them(machine: QemuMachine, agent: AgentClient) -> None:
    machine.add_vcpus(1)
    assert len(machine.vcpu_threads()) == 2
    with pytest.raises(NoPlaceError, match="place for 0 more CPUs"):
        machine.add_vcpus(1)
    with pytest.raises(ContainerError, match="2 CPUs are wanted"):
        agent.online(2, memory=False)
    assert agent.guest_details().agent_details.version, "the guest lives on"
