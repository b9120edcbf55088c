"""A cgroup that systemd makes, keeps and removes: a transient scope. Called by `sandbox` and `sweep` of this room.

The scope of a cgroup's path: its last part is the unit's name, the one before it the slice. systemd applies what it
knows of a unit again when it likes (at a daemon-reload, say), so limits and rules are told to it as well as written.
Nothing raises: what systemd does not do is told to `warn`, and the cgroup is a plain folder then.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable, Sequence

from kata.cgroups.group import Group, Warn
from kata.cgroups.hierarchy import Hierarchy
from kata.cgroups.limits import Limits, Rule
from kata.cgroups.properties import limit_properties, rule_properties, scope_properties
from kata.cgroups.systemd import UNIT_EXISTS, Manager, SystemdError
from kata.linux.fds import read_text


class Scope:
    """The unit of the cgroup at `path`."""

    def __init__(self, path: str, trees: Iterable[Hierarchy], warn: Warn) -> None:
        self._path = path
        self.unit = posixpath.basename(path)
        self._slice = posixpath.basename(posixpath.dirname(path)) or "-.slice"
        self._trees = list(trees)
        self._warn = warn
        self.started = False

    def start(self, pids: Sequence[int], about: str, rules: Iterable[Rule] | None = None) -> None:
        """Have it made, with these processes in it. One that a dead predecessor has left makes room."""
        wanted = [*scope_properties(self._slice, pids, about), *self._rules(rules)]
        try:
            with Manager() as manager:
                try:
                    manager.start_scope(self.unit, wanted)
                except SystemdError as error:
                    if error.name != UNIT_EXISTS or self._occupied():
                        raise
                    manager.stop_unit(self.unit)
                    manager.forget_failure(self.unit)
                    manager.start_scope(self.unit, wanted)
            self.started = True
        except SystemdError as error:
            self._warn(f"{self.unit} is a folder, and no scope of systemd's: {error.what}")

    def limit(self, limits: Limits) -> None:
        """What it may use."""
        versions = {name: tree.version for tree in self._trees for name in tree.controllers}
        for wanted in limit_properties(limits, versions):
            self._set(wanted)

    def allow(self, rules: Iterable[Rule]) -> None:
        """More devices that may be used."""
        self._set(self._rules(rules)[1:])  # the policy is set already

    def stop(self) -> None:
        """End it, and free its name. Idempotent."""
        try:
            with Manager() as manager:
                manager.stop_unit(self.unit)
                manager.forget_failure(self.unit)
        except SystemdError as error:
            self._warn(f"{self.unit} may be left: {error.what}")
        self.started = False

    def _set(self, wanted: Sequence[tuple[str, tuple[str, object]]]) -> None:
        if not (self.started and wanted):
            return
        try:
            with Manager() as manager:
                manager.set_properties(self.unit, wanted)
        except SystemdError as error:
            self._warn(f"{self.unit}: systemd may take back what was set: {error.what}")

    def _rules(self, rules: Iterable[Rule] | None) -> list[tuple[str, tuple[str, object]]]:
        return [] if rules is None else rule_properties(rules, _devices())

    def _occupied(self) -> bool:
        """Whether anybody is in the cgroup or below it: then it is no leftover, and nobody may be harmed."""
        folders = (folder for tree in self._trees for folder, _, _ in os.walk(tree.root.rstrip("/") + self._path))
        return any(_processes(folder) for folder in folders)


def stop_ours(group: Group, trees: Iterable[Hierarchy]) -> None:
    """End the scope of a sandbox that is dead, if it is that sandbox's still: only then has the cgroup its mark."""
    if group.is_marked():
        Scope(group.path, trees, lambda _: None).stop()


def _processes(folder: str) -> str:
    try:
        return read_text(f"{folder}/cgroup.procs").strip()
    except OSError:
        return ""


def _devices() -> str:
    try:
        return read_text("/proc/devices")
    except OSError:
        return ""
