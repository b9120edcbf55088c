"""The shim's command line, in the form that containerd gives it: Go's flags, with one or two dashes.

Read before anything else, so it imports nothing.
"""

from __future__ import annotations

from typing import NamedTuple

from kata.errors import KataError

TEXTS = ("namespace", "id", "address", "publish-binary", "bundle", "socket")
FLAGS = ("debug", "v", "version", "info", "help", "h")
ACTIONS = ("start", "delete", "")


class ArgumentsError(KataError):
    """The command line makes no sense."""

    layer = "config"


class Arguments(NamedTuple):
    """What containerd asks for. An empty action is to serve."""

    action: str = ""
    namespace: str = ""
    id: str = ""
    address: str = ""
    publish_binary: str = ""
    bundle: str = ""
    socket: str = ""
    debug: bool = False
    version: bool = False
    info: bool = False
    help: bool = False


def parse(words: list[str]) -> Arguments:
    """The command line as a value. Raises ArgumentsError."""
    found: dict[str, str | bool] = {}
    rest = list(words)
    while rest and rest[0].startswith("-"):
        name, equals, value = rest.pop(0).lstrip("-").partition("=")
        if name in FLAGS:
            found[{"v": "version", "h": "help"}.get(name, name)] = value in ("", "true", "1")
        elif name not in TEXTS:
            raise ArgumentsError(f"unknown option -{name}", hint="see -help")
        elif not equals and not rest:
            raise ArgumentsError(f"option -{name} needs a value", hint="see -help")
        else:
            found[name.replace("-", "_")] = value if equals else rest.pop(0)
    if rest[:1] and rest[0] not in ACTIONS:
        raise ArgumentsError(f"unknown action {rest[0]!r}", hint="start, delete, or none to serve")
    action = rest.pop(0) if rest else ""
    after = parse(rest)._asdict() if rest else {}  # containerd puts flags first; people do not always
    merged = {**found, **{key: value for key, value in after.items() if value and key != "action"}}
    return Arguments(action=action, **merged)
