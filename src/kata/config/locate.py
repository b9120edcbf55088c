"""Which file is the configuration. Only the operator decides: no annotation gets this far (CVE-2026-50540)."""

from __future__ import annotations

import os

from kata.config.errors import FileError

VARIABLE = "KATA_CONF_FILE"

PLACES = (
    "/etc/kata-containers/configuration.toml",
    "/etc/kata-containers/runtime-rs/configuration.toml",
    "/usr/share/defaults/kata-containers/configuration.toml",
    "/usr/share/defaults/kata-containers/runtime-rs/configuration.toml",
    "/opt/kata/share/defaults/kata-containers/configuration.toml",
    "/opt/kata/share/defaults/kata-containers/runtime-rs/configuration.toml",
)
"""Upstream's, of both its runtimes. The first that exists is the one."""


def locate(path: str | None = None, operator_path: str | None = None) -> str:
    """The file to read, links resolved; empty when there is none and the defaults hold.

    `path` goes before everything (a command's `--config`), then the environment's KATA_CONF_FILE, then
    `operator_path` (the `config_path` of containerd's runtime options), then PLACES. Raises FileError when one that
    was named is not there.
    """
    named = (
        ("the command line", path),
        (VARIABLE, os.environ.get(VARIABLE)),
        ("containerd's config_path", operator_path),
    )
    for source, place in named:
        if place:
            if not os.path.exists(place):
                raise FileError(f"there is no configuration file {place!r}", hint=f"{source} names it")
            return os.path.realpath(place)
    return next((os.path.realpath(place) for place in PLACES if os.path.exists(place)), "")


def is_named(path: str | None, operator_path: str | None) -> bool:
    """Whether somebody says which file it is."""
    return bool(path or os.environ.get(VARIABLE) or operator_path)
