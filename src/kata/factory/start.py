"""The door: what a sandbox's machine goes on from, where that can be, so that it need not boot. Called by `sandbox`.

Whatever keeps a template from being made or used is told to `warn`, and the sandbox boots.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from kata.errors import KataError
from kata.factory.errors import FactoryError, GuestNotReadyError
from kata.factory.identity import files_of, name_of
from kata.factory.shape import obstacle, prewired, template_of
from kata.factory.store import TemplateStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from kata.factory.identity import Files
    from kata.factory.make import WarmUp
    from kata.hypervisor.machine import MachineSpec, Saved


class Template(msgspec.Struct, frozen=True):
    """A template by its name: the machine that it is of, and what makes up its name."""

    name: str
    machine: MachineSpec
    files: Files


def restorable(
    spec: MachineSpec,
    timeout: float,
    undo: ExitStack,
    warm_up: WarmUp,
    warn: Callable[[str], None],
    *,
    exclusive: bool = False,
    root: str = "",
) -> MachineSpec:
    """The machine with the devices of a template and the saved one that it goes on from; else `spec` as it is.

    A template that is not there yet is made, which takes a boot: `timeout` seconds at most, and as many to wait for
    another that makes it; `warm_up` is what its guest does before it is saved (see `make`). `undo` closes the
    template's files. `exclusive`: the memory is to be a file of this machine's own, which takes the time to copy it.
    Raises GuestNotReadyError for a guest that does not come up, as `spec` would not.
    """
    why = obstacle(spec)
    if why:
        warn(f"no template: {why}")
        return spec
    try:
        wired = _wired(spec)
        store = TemplateStore(Path(root) if root else None)
        saved = provide(store, template_for(wired), timeout, undo, warm_up, exclusive=exclusive)
    except GuestNotReadyError:
        raise
    except (KataError, OSError) as error:
        warn(f"no template: {error}")
        return spec
    return replace(wired, saved=saved)


def ensure(spec: MachineSpec, timeout: float, warm_up: WarmUp, root: str = "") -> str:
    """Make the template that this machine would go on from, if it is not there; its name.

    Raises FactoryError, with the reason for a machine that has to boot, and HypervisorError.
    """
    if why := obstacle(spec):
        raise FactoryError(f"such a machine cannot have a template: {why}", layer="config")
    template = template_for(_wired(spec))
    with ExitStack() as undo:
        provide(TemplateStore(Path(root) if root else None), template, timeout, undo, warm_up)
    return template.name


def template_for(wired: MachineSpec) -> Template:
    """The template that a prewired machine goes on from. Raises SpecError."""
    machine = template_of(wired)
    files = files_of(machine)
    return Template(name_of(machine, files, machine.accelerator), machine, files)


def provide(
    store: TemplateStore,
    template: Template,
    timeout: float,
    undo: ExitStack,
    warm_up: WarmUp,
    *,
    exclusive: bool = False,
) -> Saved:
    """The template's open files, which `undo` closes; it is made if it is not there. Raises FactoryError, OSError."""
    size = template.machine.memory_mib << 20
    saved = store.open(template.name, undo, size, exclusive=exclusive)
    if saved is not None:
        return saved
    from kata.factory.make import make  # once a template

    with ExitStack() as ours:
        fd = make(store, template.machine, template.name, template.files, timeout, warm_up)
        if fd >= 0:
            ours.callback(os.close, fd)
        saved = store.open(template.name, undo, size, fd, exclusive=exclusive)
    if saved is None:
        raise FactoryError("the template was removed as soon as it was made")
    return saved


def discard(spec: MachineSpec, root: str = "") -> None:
    """Remove the template that a machine could not go on from."""
    with suppress(KataError, OSError):
        TemplateStore(Path(root) if root else None).remove(template_for(replace(spec, saved=None)).name)


def _wired(spec: MachineSpec) -> MachineSpec:
    return replace(prewired(spec), accelerator=_accelerator(spec))


def _accelerator(spec: MachineSpec) -> str:
    if spec.accelerator != "auto":
        return spec.accelerator
    from kata.hypervisor.qemu.probe import choose_accelerator  # its answer is kept on disk

    return choose_accelerator(spec.kernel).accelerator
