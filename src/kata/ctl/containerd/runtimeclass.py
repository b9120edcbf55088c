"""The RuntimeClass by which Kubernetes names our runtime, with what a pod costs beside its containers."""

from __future__ import annotations

OVERHEAD_MEMORY_MIB = 350
OVERHEAD_CPU = "250m"
"""Memory was measured: kata_shim_pod_overhead_memory_in_bytes of an idle pod under emulation (TCG), default guest of
2 GiB, was 338 MiB (proportional set size of QEMU, virtiofsd and shim, less what its container used). CPU is upstream's
figure for QEMU; an idle pod was measured at 20 to 30 thousandths of a CPU, a booting one takes all that it is given."""


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
