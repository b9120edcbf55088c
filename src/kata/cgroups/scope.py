"""A cgroup that systemd makes, keeps and removes: a transient scope. Called by `sandbox` of this room.

The scope of a cgroup's path: its last part is the unit's name, the one before it the slice. systemd applies what it
knows of a unit again when it likes (at a daemon-reload, say), so limits and rules are told to it as well as written.
Nothing raises: what systemd does not do is told to `warn`. Nothing here may be called with a lock of others held.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable, Sequence

from kata.cgroups.group import Warn
from kata.cgroups.hierarchy import Hierarchy
from kata.cgroups.limits import Limits, Rule
from kata.cgroups.properties import Property, limit_properties, rule_properties, scope_properties
from kata.cgroups.systemd import CALL_TIMEOUT, UNIT_EXISTS, Host, Manager, SystemdError
from kata.linux.fds import read_text

STOP_TIMEOUT = 5.0
"""Seconds to end a scope that nobody is in; one that is left goes when its name is wanted again."""


class Scope:
    """The unit of the cgroup at `path`; `trees` are all in which systemd may put it."""

    def __init__(
        self, path: str, trees: Iterable[Hierarchy], warn: Warn, host: Host, timeout: float = CALL_TIMEOUT
    ) -> None:
        self._path = path
        self._unit = posixpath.basename(path)
        self._slice = posixpath.basename(posixpath.dirname(path)) or "-.slice"
        self._trees = list(trees)
        self._warn = warn
        self._host = host
        self._timeout = timeout
        self._versions = {name: tree.version for tree in self._trees for name in tree.controllers}
        self._allowed: list[Rule] = []
        self.started = False

    def start(self, pids: Sequence[int], about: str, rules: Iterable[Rule] = ()) -> bool:
        """Have it made, with these processes in it; whether it was. One that a dead predecessor has left makes room.

        A systemd that answers too late may still move the processes in; they are as well there as elsewhere then.
        """
        properties = [*scope_properties(self._slice, pids, about), *self._fresh(rules)]
        try:
            with Manager(self._host, self._timeout) as manager:
                try:
                    manager.start_scope(self._unit, properties)
                except SystemdError as error:
                    if error.name != UNIT_EXISTS or not self._end(manager):
                        raise
                    manager.start_scope(self._unit, properties)
        except SystemdError as error:
            self._warn(f"{self._unit} is a folder, and no scope of systemd's: {error.what}")
            return False
        self.started = self._is_there()
        if not self.started:
            self._warn(f"{self._unit} is a folder: systemd has made the scope elsewhere than at {self._path}")
        return self.started

    def limit(self, limits: Limits) -> None:
        """What it may use."""
        for properties in limit_properties(limits, self._versions):
            self._set(properties)

    def allow(self, rules: Iterable[Rule]) -> None:
        """More devices that may be used. systemd then forbids all, and allows what it has names for again."""
        self._set(self._fresh(rules)[1:])  # the policy is set already

    def stop(self) -> None:
        """End it, and free its name. Idempotent. Nobody is ever killed: with a process in it, it stays."""
        self.started = False
        try:
            with Manager(self._host, min(STOP_TIMEOUT, self._timeout)) as manager:
                if not self._end(manager):
                    self._warn(f"{self._unit} is left: there may be processes in it")
        except SystemdError as error:
            self._warn(f"{self._unit} may be left: {error.what}")

    def _end(self, manager: Manager) -> bool:
        """Stop the unit if it is here and empty, or has ended; whether it was."""
        if manager.cgroup_of(self._unit) not in ("", self._path) or self._occupied():
            return False
        manager.stop_unit(self._unit)
        manager.forget_failure(self._unit)
        return True

    def _set(self, properties: Sequence[Property]) -> None:
        if not (self.started and properties):
            return
        try:
            with Manager(self._host, self._timeout) as manager:
                manager.set_properties(self._unit, properties)
        except SystemdError as error:
            self._warn(f"{self._unit}: systemd may take back what was set: {error.what}")

    def _fresh(self, rules: Iterable[Rule]) -> list[Property]:
        """What to tell of rules that it has not heard. In v2 nothing: systemd leaves programs that others attached."""
        fresh = [rule for rule in dict.fromkeys(rules) if rule not in self._allowed]
        if not fresh or self._versions.get("devices") != 1:
            return []
        self._allowed += fresh
        return rule_properties(fresh, _devices())

    def _is_there(self) -> bool:
        return any(tree.whole and os.path.isdir(folder) for tree, folder in self._folders())

    def _occupied(self) -> bool:
        """Whether anybody may be in the cgroup or below it: then it is no leftover, and nobody may be harmed."""
        if not any(tree.whole for tree in self._trees):
            return True  # systemd's own tree cannot be seen
        below = (folder for _, top in self._folders() for folder, _, _ in os.walk(top))
        return any(_processes(folder) for folder in below)

    def _folders(self) -> list[tuple[Hierarchy, str]]:
        return [(tree, tree.root.rstrip("/") + self._path) for tree in self._trees]


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
