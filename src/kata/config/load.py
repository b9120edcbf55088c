"""Loads the configuration of one sandbox. This is the door of the room: `load`, and `check` for people.

    load(path=None, *, annotations=None, operator_path=None, operator_text="", host=None) -> Config

One value comes from, later ones going before earlier ones: the built-in default; the main file; the drop-ins in
`config.d/*.toml` beside it; a pod's annotation, if the operator allows it; and then the rules, which turn "all" into
numbers of this host. Errors are collected and raised together: FileError (a file cannot be read), InvalidConfigError
(keys or values of files), AnnotationError (a pod's). Nothing here starts, writes or logs anything; who loads for a
sandbox logs `Config.warnings` and calls `Config.check_runnable()`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from kata.config import merge
from kata.config.files import Layer, inline_layer, read_layers
from kata.config.finding import Finding, Findings
from kata.config.host import Host, this_host
from kata.config.locate import is_named, locate
from kata.config.model import Config, Draft
from kata.config.rules import Rules
from kata.config.settings import Hypervisor


def load(
    path: str | None = None,
    *,
    annotations: Mapping[str, str] | None = None,
    operator_path: str | None = None,
    operator_text: str = "",
    host: Host | None = None,
) -> Config:
    """The configuration of one sandbox, frozen.

    `path` names the file for certain; without it `locate` searches, with `operator_path` (containerd's `config_path`)
    as one place; where there is no file at all the defaults hold. `operator_text` (its `config_body`) stands for the
    file when nobody names one. `annotations` are all those of the pod (of its sandbox container, not of others). `host`
    is for tests. Files of every hypervisor load; see `check_runnable`.

    Raises FileError, InvalidConfigError, AnnotationError: each a ConfigError with all that was found.
    """
    findings = Findings()
    inline = inline_layer(operator_text) if operator_text and not is_named(path, operator_path) else None
    layers = [inline] if inline else _layers(locate(path, operator_path), findings)
    draft = _draft(layers, annotations or {}, host or this_host(), findings)
    findings.raise_errors()
    return draft.freeze(findings.warnings)


def check(path: str, host: Host | None = None) -> list[Finding]:
    """Everything that is wrong with a file and its drop-ins, also what only shows when a sandbox starts.

    Raises FileError when there is nothing to check.
    """
    findings = Findings()
    draft = _draft(_layers(locate(path), findings), {}, host or this_host(), findings)
    config = draft.freeze(())
    for key, why in config.unsupported():
        findings.error(key, why, "no sandbox starts with it", config.path)
    if not config.unsupported():
        _check_files(config, findings)
    return findings.all


def _layers(path: str, findings: Findings) -> list[Layer]:
    return read_layers(path, findings) if path else []


def _draft(layers: list[Layer], annotations: Mapping[str, str], host: Host, findings: Findings) -> Draft:
    draft = merge.merge(layers, findings)
    if annotations and not findings.errors:
        from kata.config import pod  # a sandbox without annotations does not pay for it

        pod.apply(draft, annotations, findings)
    Rules(draft, host, findings).apply()
    if annotations and not findings.errors:
        from kata.config import hashes

        hashes.check(draft, findings)
    return draft


def _check_files(config: Config, findings: Findings) -> None:
    """Files that are named and not there. The defaults are `kata setup`'s to make."""
    for setting in (Hypervisor.path, *(one for one in Hypervisor.settings() if one.asset), Hypervisor.virtio_fs_daemon):
        path = config.hypervisor.values[setting.key]
        if path and config.origin(setting).kind != "default" and not os.path.exists(path):
            findings.error(config.display(setting), f"there is no {path}", "", config.origin(setting).where)
