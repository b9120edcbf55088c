"""The shim's zygote: everything that serving a pod loads, loaded once for all of them.

What is missing here is loaded by each shim when it comes to it, as without a zygote; tests/containerd/test_zygote.py
compares the list with what a shim has loaded that ran a container.
"""

from __future__ import annotations

import importlib

from kata.linux.title import set_title
from kata.shim.__main__ import NAME, act
from kata.zygote.context import ORIGIN
from kata.zygote.serve import serve

MODULES = (
    "kata.cgroups.sandbox",
    "kata.cgroups.sweep",
    "kata.factory.start",
    "kata.hypervisor.qemu.machine",
    "kata.hypervisor.qemu.probe",
    "kata.management.serve",
    "kata.network.fresh",
    "kata.sandbox.latenetwork",
    "kata.sandbox.podnetwork",
    "kata.sandbox.rehearsal",
    "kata.sandbox.resize",
    "kata.shim.delete",
    "kata.shim.pod",
    "kata.shim.serve",
    "kata.storage.virtiofs",
)
"""Those that others import on demand only; the rest comes with them."""


def become_zygote(words: list[str]) -> int:
    """Serve until it ends by itself; the exit code. `words` are those that `kata.zygote.launch` has written."""
    folder, name = words[:2]
    set_title([NAME, "zygote"])
    return serve(folder, name, load, lambda argv: act(argv[1:], ORIGIN))


def load() -> None:
    """Import what shims need, and nothing that has an effect."""
    from kata.protocol.messages import skip_helpers

    skip_helpers()
    for name in MODULES:
        importlib.import_module(name)
