"""From the size that a machine has to the size that it should have: a list of steps. Pure.

Called by `resize`, which carries the steps out. Memory is added in whole blocks of the guest and never taken away
again; what is too much the balloon takes. CPUs come and go one by one (docs/resources.md).
"""

from __future__ import annotations

from typing import NamedTuple

FACTOR = 48
"""Memory that comes may be this many times what is there, whose pages must hold the tables for it (upstream's)."""


class Size(NamedTuple):
    """CPUs and MiB that a guest has, or should have."""

    vcpus: int
    memory_mib: int


class State(NamedTuple):
    """What a machine has: `size` without what the balloon took, `plugged_mib` with it."""

    size: Size
    plugged_mib: int


class Bounds(NamedTuple):
    """What can be done: at most `most`, never fewer CPUs than at boot, memory in blocks of `block_mib` (0: none can be
    added) and `slots` pieces."""

    most: Size
    least_vcpus: int = 1
    block_mib: int = 0
    slots: int = 0
    balloon: bool = False


class AddMemory(NamedTuple):
    """Plug a piece of memory in."""

    mib: int


class SetBalloon(NamedTuple):
    """Leave the guest this much memory in all."""

    mib: int


class AddCpus(NamedTuple):
    """Plug CPUs in, so that there are `total`."""

    more: int
    total: int


class RemoveCpus(NamedTuple):
    """Take CPUs away."""

    fewer: int


Step = AddMemory | SetBalloon | AddCpus | RemoveCpus


def plan(now: State, wanted: Size, bounds: Bounds) -> tuple[Step, ...]:
    """The steps from `now` to `wanted`, as far as the bounds let them go; none when nothing is to be done."""
    return (*_memory(now, wanted.memory_mib, bounds), *_cpus(now, wanted.vcpus, bounds))


def after(now: State, step: Step) -> State:
    """The state when a step has succeeded."""
    size, plugged = now
    if isinstance(step, AddMemory):
        return State(size._replace(memory_mib=size.memory_mib + step.mib), plugged + step.mib)
    if isinstance(step, SetBalloon):
        return State(size._replace(memory_mib=step.mib), plugged)
    if isinstance(step, AddCpus):
        return State(size._replace(vcpus=step.total), plugged)
    return State(size._replace(vcpus=size.vcpus - step.fewer), plugged)


def _memory(now: State, wanted: int, bounds: Bounds) -> list[Step]:
    pieces = _pieces(now.plugged_mib, min(wanted, bounds.most.memory_mib), bounds)
    plugged = now.plugged_mib + sum(pieces)
    steps: list[Step] = []
    if pieces and now.size.memory_mib < now.plugged_mib:
        steps.append(SetBalloon(now.plugged_mib))  # the guest needs memory to take in more memory
    steps += [AddMemory(mib) for mib in pieces]
    target = _target(plugged, wanted, bounds)
    there = plugged if pieces else now.size.memory_mib
    return steps if target == there else [*steps, SetBalloon(target)]


def _pieces(plugged: int, wanted: int, bounds: Bounds) -> list[int]:
    """The pieces of memory to add, each as large as can be: there are few slots."""
    block, pieces = bounds.block_mib, list[int]()
    room = (bounds.most.memory_mib - plugged) // block * block if block else 0
    missing = min(-(-max(0, wanted - plugged) // block) * block, room) if block else 0
    while missing > 0 and len(pieces) < bounds.slots:
        piece = min(missing, plugged * FACTOR // block * block)
        if piece <= 0:
            break
        pieces.append(piece)
        plugged, missing = plugged + piece, missing - piece
    return pieces


def _target(plugged: int, wanted: int, bounds: Bounds) -> int:
    """What the balloon leaves. Less than a block too much is the rounding of what was added, and stays."""
    if not bounds.balloon or plugged - wanted < max(1, bounds.block_mib):
        return plugged
    return wanted


def _cpus(now: State, wanted: int, bounds: Bounds) -> list[Step]:
    wanted = max(bounds.least_vcpus, min(wanted, bounds.most.vcpus))
    if wanted > now.size.vcpus:
        return [AddCpus(wanted - now.size.vcpus, wanted)]
    if wanted < now.size.vcpus:
        return [RemoveCpus(now.size.vcpus - wanted)]
    return []
