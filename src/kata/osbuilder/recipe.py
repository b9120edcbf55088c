"""What a guest image is made of, as a value, and the hash by which a stale image is known.

The hash covers the recipe, the agent's sources, the protobuf run time and this room's own code. It needs no apt
and reads about a hundred small files. Nothing here builds.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

import kata
from kata.osbuilder.errors import AgentError
from kata.protocol.messages import RUNTIME_FILES

Kind = Literal["image", "initrd", "rootfs"]

PYTHON = "usr/bin/python3.11"
SEED = ("python3.11-minimal", "libpython3.11-stdlib", "crun", "libgcc-s1")
"""The packages that every guest takes files from. libgcc-s1: glibc opens it when a thread is ended early."""
DEBUG_SEED = ("busybox-static",)

AGENT_ROOT = "usr/lib/kata-agent"
AGENT_FILES = ("__init__.py", "errors.py", "log.py", "version.py")
AGENT_ROOMS = ("agent", "protocol", "oci", "linux")
NOT_NEEDED = (".pyi", ".typed", ".proto")
HOST_ONLY = "protocol/generated/host/"
"""Messages that only container managers speak."""

LAZY_MODULES = ("encodings.ascii", "encodings.latin_1", "encodings.utf_8", "warnings")
"""What the interpreter itself imports when it is first needed; no source says so."""


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of guest.

    `packages`: whole packages, with all they depend on, instead of the needed files only. `extra_packages`: whole
    packages on top, with the libraries that their programs need. `debug` adds busybox and its names.
    `source` is the folder of the `kata` package that the agent is taken from.
    """

    kind: Kind = "image"
    packages: tuple[str, ...] = ()
    extra_packages: tuple[str, ...] = ()
    debug: bool = False
    source: str = str(Path(kata.__file__).parent)

    def seed(self) -> tuple[str, ...]:
        """All packages to ask apt for."""
        chosen = (*SEED, *self.packages, *self.extra_packages, *(DEBUG_SEED if self.debug else ()))
        return tuple(dict.fromkeys(chosen))


def encode(recipe: Recipe) -> str:
    """A recipe as text for a manifest; where the agent's sources were does not matter to what came out."""
    return msgspec.json.encode(msgspec.structs.replace(recipe, source="")).decode()


def decode(text: str) -> Recipe:
    """The recipe in a manifest, with the agent of this installation. Raises ValueError when it is none."""
    recipe = msgspec.json.decode(text, type=Recipe)
    return msgspec.structs.replace(recipe, source=Recipe().source)


def agent_sources(source: Path) -> Iterator[tuple[str, Path]]:
    """(path below `kata/`, file) of everything of ours that goes into a guest: code, and data such as messages."""
    for name in AGENT_FILES:
        yield name, source / name
    for room in AGENT_ROOMS:
        for path in sorted((source / room).rglob("*")):
            name = path.relative_to(source).as_posix()
            wanted = path.suffix not in NOT_NEEDED and "__pycache__" not in path.parts
            if wanted and path.is_file() and not name.startswith(HOST_ONLY):
                yield name, path


def protobuf_root() -> Path:
    """The folder that holds the `google` package of the protobuf wheel that the host uses.

    Raises AgentError when it is not installed.
    """
    spec = importlib.util.find_spec("google._upb._message")
    if spec is None or spec.origin is None:
        raise AgentError("the protobuf package is not installed with its C implementation", hint="reinstall protobuf")
    return Path(spec.origin).parents[2]


def protobuf_files() -> Iterator[tuple[str, Path]]:
    """(path below the agent's root, file) of what the guest gets of the protobuf wheel."""
    root = protobuf_root()
    return ((name, root / name) for name in RUNTIME_FILES)


def input_hash(recipe: Recipe) -> str:
    """A hash of everything that decides what the image holds, except the versions of Debian's packages."""
    digest = hashlib.sha256(encode(recipe).encode())
    sources = (*agent_sources(Path(recipe.source)), *protobuf_files(), *_own_code())
    for name, path in sources:
        digest.update(f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def _own_code() -> Iterator[tuple[str, Path]]:
    for path in sorted(Path(__file__).parent.glob("*.py")):
        yield f"osbuilder/{path.name}", path
