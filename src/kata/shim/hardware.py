"""What the operator's configuration says of the VMM, its disks, and what a guest is told first: values of a sandbox.

Called by `configure`. Looks whether files are there; changes nothing.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, cast

from kata.config.settings import Hypervisor
from kata.hypervisor.machine import DiskOptions, Hardware
from kata.sandbox.config import GuestOptions, Patience
from kata.sandbox.errors import ConfigError

if TYPE_CHECKING:
    from typing import Literal

    from kata.config import Config

KERNELS_OWN = ("", "/dev/urandom")
"""Sources of random numbers for which nothing has to be opened: the VMM asks its kernel."""


def hardware(config: Config) -> Hardware:
    """The VMM and what it is told. Raises ConfigError for a file that is missing."""
    hypervisor = config.hypervisor
    source = "" if hypervisor.entropy_source in KERNELS_OWN else hypervisor.entropy_source
    if source and not stat.S_ISCHR(_stat(source, "source of random numbers").st_mode):
        raise ConfigError(f"entropy_source {source} is no character device", hint="/dev/urandom is a good one")
    if hypervisor.firmware:
        _stat(hypervisor.firmware, "firmware")
    # The usual one is the driver's to find: its error knows which package has it.
    program = "" if hypervisor.path == Hypervisor.path.default else hypervisor.path
    if program:
        _stat(program, "VMM")
    return Hardware(
        program=program,
        firmware=hypervisor.firmware,
        random_source=source,
        machine_options=hypervisor.machine_accelerators,
        cpu_features=hypervisor.cpu_features,
    )


def disk_options(config: Config) -> DiskOptions:
    """How disks are read, written and shown."""
    hypervisor = config.hypervisor
    cache = hypervisor.block_device_cache_set
    return DiskOptions(
        aio=cast("Literal['threads', 'native', 'io_uring']", hypervisor.block_device_aio),
        direct=hypervisor.block_device_cache_direct if cache else None,
        no_flush=hypervisor.block_device_cache_noflush if cache else None,
        logical_sector=hypervisor.block_device_logical_sector_size,
        physical_sector=hypervisor.block_device_physical_sector_size,
        queues=hypervisor.num_queues,
        queue_size=hypervisor.queue_size,
        thread=hypervisor.enable_iothreads,
    )


def guest_options(config: Config) -> GuestOptions:
    """What the agent gets before the first container."""
    return GuestOptions(
        policy=config.agent.policy,
        modules=tuple(tuple(module.split()) for module in config.agent.kernel_modules if module.split()),
        hook_path=config.hypervisor.guest_hook_path,
    )


def patience(config: Config) -> Patience:
    """How long the agent may take."""
    return Patience(
        attempt=config.agent.dial_timeout_ms / 1000,
        create=config.runtime.create_container_timeout,
        request=config.agent.request_timeout_ms / 1000,
    )


def _stat(path: str, what: str) -> os.stat_result:
    try:
        return os.stat(path)
    except OSError as error:
        raise ConfigError(
            f"the {what} {path} cannot be found: {error.strerror}", hint="kata config show says who named it"
        ) from None
