"""Annotations by which the host's side and the guest's speak about a container, beyond what the protocol can say.

Read on both sides. Only names here.
"""

from __future__ import annotations

PID_TARGET = "io.katacontainers.pkg.oci.pid_target"
"""The container whose pid namespace this one joins. The protocol can only say that it joins its pod's, which an agent
that does not know this name then has it do. Given by the host alone."""

HOSTS_OWN = frozenset(
    {
        PID_TARGET,
        "io.katacontainers.config.agent.policy",
        "io.katacontainers.config.hypervisor.cc_init_data",
    }
)
"""What a specification says to the host. Guests do not get it from there: some of it is long."""
