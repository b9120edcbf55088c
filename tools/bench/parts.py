"""The parts of the benchmark by name, what each measures, and running one. A part is imported when it is run.

Called by `__main__`. A new part is a module with `measure(options) -> Part`, and a line here.
"""

from __future__ import annotations

import importlib
import time
from typing import TYPE_CHECKING, cast

from msgspec.structs import replace
from tools.bench.machine import circumstances

if TYPE_CHECKING:
    from collections.abc import Callable

    from tools.bench.options import Options
    from tools.bench.report import Part

MODULES = {
    "start": ("starts", "from a command to the end of true, by each way, against a bare restore"),
    "answer": ("answers", "a shim's first answer, from a zygote and alone, against runc's shim"),
    "crowd": ("crowd", "ten starts at once through one containerd: failures, processor time"),
    "density": ("density", "memory of idle sandboxes from one template, and memory that goes back to the host"),
    "exec": ("execs", "a process in a running container, against crun exec in the same guest"),
    "agent": ("agent", "containers through the agent, against crun alone; on the host and in a guest"),
    "streams": ("streams", "a container's output and input, against the guest's port"),
    "files": ("files", "virtio-fs, 9p and the guest's memory, against a root file system in a disk"),
    "network": ("network", "the pod's network through tcfilter, against a bare tap"),
    "sizes": ("sizes", "what a virtual machine boots from"),
}
PARTS = {name: text for name, (_, text) in MODULES.items()}


def run(name: str, options: Options) -> Part:
    """Measure one part."""
    here = circumstances()
    module = importlib.import_module(f"tools.bench.{MODULES[name][0]}")
    measure = cast("Callable[[Options], Part]", module.measure)
    begin = time.monotonic()
    part = measure(options)
    return replace(part, seconds=round(time.monotonic() - begin, 1), circumstances=here)
