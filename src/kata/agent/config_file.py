"""The agent's configuration file (TOML), which decides instead of the kernel command line.

Called by `__main__` when a file is named, and imported only then. Keys are the options without `agent.`, three under
another name. Unknown keys are kept for a warning; a value of the wrong type is a ConfigError.
"""

from __future__ import annotations

import tomllib

from kata.agent.config import PARSERS, Config
from kata.agent.errors import ConfigError

LARGEST = 2**63 - 1
"""TOML's own limit, which Python's reader does not keep to: a number of thousands of digits cannot become text."""
NAMES = {"log_level": "log", "dev_mode": "devmode", "tracing": "trace"}


def load(path: str) -> Config:
    """The settings in a file. Raises ConfigError."""
    try:
        with open(path, "rb") as file:
            table = tomllib.load(file)
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"the configuration file {path} cannot be read: {error}") from error
    try:
        return _settings(table)
    except ConfigError as error:
        raise ConfigError(f"the configuration file {path}: {error.what}", hint=error.hint) from None


def _settings(table: dict[str, object]) -> Config:
    found: dict[str, object] = {}
    unknown = []
    for key, value in table.items():
        field = NAMES.get(key, key)
        if key == "endpoints":
            found["allowed"] = _allowed(value)
        elif field in PARSERS and field != "config_file":
            found[field] = _value(key, field, value)
        else:
            unknown.append(key)
    return Config(**found, unknown=tuple(unknown))  # type: ignore[arg-type]  # PARSERS gives every field its type


def _value(key: str, field: str, value: object) -> object:
    default = Config._field_defaults[field]
    if isinstance(default, float) and isinstance(value, dict):
        return _duration(key, value)
    wanted = int if isinstance(default, float) else type(default)
    if type(value) is not wanted:
        raise ConfigError(f"{key} has the wrong type", hint=f"give a {wanted.__name__}")
    if isinstance(value, int) and abs(value) > LARGEST:
        raise ConfigError(f"{key} is out of range")
    return PARSERS[field](key, str(value))


def _duration(key: str, table: dict[str, object]) -> float:
    """Seconds of a table of `secs` and `nanos`."""
    secs, nanos = table.get("secs", 0), table.get("nanos", 0)
    if (
        type(secs) is not int
        or type(nanos) is not int
        or table.keys() - {"secs", "nanos"}
        or min(secs, nanos) < 0
        or max(secs, nanos) > LARGEST
    ):
        raise ConfigError(f"{key} is no time", hint="give seconds, or a table of secs and nanos")
    return secs + nanos / 1e9


def _allowed(table: object) -> tuple[str, ...]:
    # An allow list that is not understood must not become "all allowed".
    names = table.get("allowed") if isinstance(table, dict) and table.keys() == {"allowed"} else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError("endpoints has to hold nothing but `allowed`, a list of names")
    return tuple(names)
