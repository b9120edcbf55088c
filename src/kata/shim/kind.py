"""What a container is to its pod: by the annotations of those who make pods (shim behaviour, section 2).

Called at every start, so it reads nothing but the specification that it is given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from kata.errors import KataError
from kata.oci.ids import LONGEST, is_id

if TYPE_CHECKING:
    from collections.abc import Mapping

SINGLE, SANDBOX, CONTAINER = "single_container", "pod_sandbox", "pod_container"

TYPES = (
    ("io.kubernetes.cri.container-type", {"sandbox": SANDBOX, "container": CONTAINER}),
    ("io.kubernetes.cri-o.ContainerType", {"sandbox": SANDBOX, "container": CONTAINER}),
    ("io.kubernetes.docker.type", {"podsandbox": SANDBOX, "container": CONTAINER}),
)
"""In the order in which they are asked: containerd, CRI-O, dockershim."""
SANDBOX_IDS = ("io.kubernetes.cri.sandbox-id", "io.kubernetes.cri-o.SandboxID", "io.kubernetes.sandbox.id")

CONTAINER_TYPE = "io.katacontainers.pkg.oci.container_type"
BUNDLE_PATH = "io.katacontainers.pkg.oci.bundle_path"


class KindError(KataError):
    """The annotations of a container contradict themselves, or an id is none."""

    layer = "config"


class Kind(NamedTuple):
    """`name` is one of the three above; `sandbox_id` is the id of the sandbox that it is or belongs to."""

    name: str
    sandbox_id: str

    @property
    def makes_sandbox(self) -> bool:
        """Whether a virtual machine begins with this container."""
        return self.name != CONTAINER


def kind_of(container_id: str, annotations: Mapping[str, str]) -> Kind:
    """What this container is. Raises KindError."""
    found = _kind_of(container_id, annotations)
    for name in (container_id, found.sandbox_id):
        if not is_id(name):
            raise KindError(
                f"{name[:LONGEST]!r} is no id of a container or sandbox",
                hint=f"letters, digits, '_', '.' and '-', at most {LONGEST}; a letter or digit first",
            )
    return found


def _kind_of(container_id: str, annotations: Mapping[str, str]) -> Kind:
    for key, names in TYPES:
        value = annotations.get(key)
        if value is None:
            continue
        if value not in names:
            raise KindError(f"the annotation {key} is {value!r}", hint=f"it must be one of {', '.join(names)}")
        if names[value] == SANDBOX:
            return Kind(SANDBOX, container_id)
        return Kind(CONTAINER, _sandbox_of(container_id, annotations))
    return Kind(SINGLE, container_id)


def _sandbox_of(container_id: str, annotations: Mapping[str, str]) -> str:
    for key in SANDBOX_IDS:
        if annotations.get(key):
            return annotations[key]
    raise KindError(
        f"container {container_id} belongs to a pod, but no annotation says to which",
        hint=f"set {SANDBOX_IDS[0]}",
    )
