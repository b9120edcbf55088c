"""The RuntimeClass by which Kubernetes names our runtime, with what a pod costs beside its containers."""

from __future__ import annotations

OVERHEAD_MEMORY_MIB = 350
OVERHEAD_CPU = "250m"
"""Measured (docs/performance.md): an idle sandbox with a 256 MiB guest is 314 MiB of QEMU, of which 41 MiB are the
guest's own and the rest touched pages, translated code and QEMU itself, and 17 MiB for the process that holds it. A
quarter of a CPU is what QEMU, virtiofsd and the shim take beside a busy container under emulation."""


def manifest(memory_mib: int = OVERHEAD_MEMORY_MIB) -> str:
    """The YAML, for `kubectl apply -f`."""
    return f"""\
# kubectl apply -f this, and pods with `runtimeClassName: kata` run in virtual machines.
# podFixed is what the scheduler adds to the requests of a pod's containers; docs/containerd.md says where it is from.
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata:
  name: kata
handler: kata
overhead:
  podFixed:
    memory: "{memory_mib}Mi"
    cpu: "{OVERHEAD_CPU}"
"""
