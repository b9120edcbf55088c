"""Reads the main file and its drop-ins into layers: parsed TOML with the text for the sake of line numbers."""

from __future__ import annotations

import os
import re
import stat
from typing import NamedTuple

from kata.config.errors import FileError
from kata.config.finding import Findings

LIMIT = 4 * 1024 * 1024
"""Bytes of one file: upstream's largest has 40 KB."""


INLINE = "containerd's options for the runtime"
"""Stands for the path of a file."""


class Layer(NamedTuple):
    """One file. `kind` is "file" or "drop-in"."""

    path: str
    kind: str
    tree: dict[str, object]
    text: str


def read_layers(path: str, findings: Findings) -> list[Layer]:
    """The main file and then each `*.toml` of the `config.d` beside it, in the order of their names' bytes.

    Names that begin with a dot, other suffixes and what is no file are passed over: editors and package managers
    leave such things about. Raises FileError.
    """
    layers = [_read(path, "file")]
    folder = os.path.join(os.path.dirname(path), "config.d")
    for name in _drop_ins(folder):
        place = os.path.join(folder, name)
        if os.path.isfile(place):
            layers.append(_read(place, "drop-in"))
        else:
            findings.warn(name, "it is no file and is passed over", "move it out of config.d", folder)
    return layers


def inline_layer(text: str) -> Layer | None:
    """What containerd's own configuration says in place of a file: the tables below the runtime's `options`.

    containerd (1.7 and later) hands on all that stands there as TOML when no ConfigPath is among it. What is no table
    is containerd's own (`TypeUrl`), or meant for another runtime. None when nothing is left. Raises FileError.
    """
    layer = _parse(INLINE, "file", text)
    tables: dict[str, object] = {name: value for name, value in layer.tree.items() if isinstance(value, dict)}
    return layer._replace(tree=tables) if tables else None


def line_of(text: str, table: str, key: str) -> int:
    """The number of the line that sets `key` of `table`, 0 when it is not found. Good enough for a message."""
    current = ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[+\s*([^]#]+?)\s*\]", line):
            current = header[1].replace('"', "").replace(" ", "")
            if not key and current == table:
                return number
        elif current == table and key and re.match(rf'\s*["\']?{re.escape(key)}["\']?\s*[=.]', line):
            return number
    return 0


def _drop_ins(folder: str) -> list[str]:
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise FileError(f"{folder} cannot be read: {error.strerror}") from error
    return sorted((name for name in names if name.endswith(".toml") and not name.startswith(".")), key=os.fsencode)


def _read(path: str, kind: str) -> Layer:
    return _parse(path, kind, _text(path))


def _parse(path: str, kind: str, text: str) -> Layer:
    # Loaded here, because without a file nobody needs it. What it makes of a file is not cached: loading it and reading
    # a file with all keys cost 6 ms and 0.2 MiB once a sandbox (measured), and a cache has to be kept true.
    import tomllib

    try:
        return Layer(path, kind, tomllib.loads(text), text)
    except tomllib.TOMLDecodeError as error:
        raise FileError(f"{path} is no TOML: {error}", hint="text is in double quotes; one key a line") from error
    except (ValueError, RecursionError) as error:
        # A number of thousands of digits, or brackets nested beyond any sense.
        raise FileError(f"{path} is no TOML that can be read: {type(error).__name__}") from error


def _text(path: str) -> str:
    try:
        # Not blocking, so that a FIFO in the file's place is refused and not waited for.
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise FileError(f"{path} is no file", hint="a configuration file is a regular file")
            data = file.read(LIMIT + 1)
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > LIMIT:
        raise FileError(f"{path} is larger than {LIMIT // 1024**2} MiB", hint="is it a configuration file?")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise FileError(f"{path} is not UTF-8: byte {error.start}") from error
