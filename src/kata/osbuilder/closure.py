"""Which files a guest needs: Python modules by loading the agent, shared libraries by reading ELF headers.

Called by `image` with a tree that holds whole packages and the agent's sources. Nothing is listed by hand but
what no program can find out.
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
from collections.abc import Container, Iterable, Iterator
from pathlib import Path

from kata.linux import process
from kata.osbuilder import elf, tree
from kata.osbuilder.errors import AgentError, BuildError, UserlandError
from kata.osbuilder.recipe import AGENT_ROOT, LAZY_MODULES, PYTHON

LIBRARY_FOLDERS = ("usr/lib/x86_64-linux-gnu", "usr/lib", "usr/lib64")
"""Where Debian's loader looks without a cache file."""
OPENED_LATER = ("libgcc_s.so.1",)
"""Libraries that glibc opens by name while it runs."""
COLLECT = Path(__file__).with_name("collect.py")
COMPILED = "compiled"


def imports_of(source: str) -> Iterator[tuple[str, bool]]:
    """(module, certain) for every import in `source`, also those inside functions, not those for type checkers.

    `from a import b` gives `a` for certain and `a.b` as a guess.
    """
    pending: list[ast.AST] = [ast.parse(source)]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending += node.orelse
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, True) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module, True
            yield from ((f"{node.module}.{alias.name}", False) for alias in node.names)
        pending += ast.iter_child_nodes(node)


def wanted_modules(sources: Iterable[tuple[str, Path]]) -> list[str]:
    """What `collect` is asked to load: all of the agent's modules, all they import, and the lazy ones."""
    certain = set(LAZY_MODULES)
    guessed: set[str] = set()
    for name, path in sources:
        if path.suffix != ".py":
            continue
        dotted = "kata." + name.removesuffix(".py").replace("/", ".")
        if not dotted.endswith("__main__"):
            certain.add(dotted.removesuffix(".__init__"))
        for module, sure in imports_of(path.read_text()):
            # Of protobuf the guest has the private core only; what imports more than that is a way for hosts.
            (certain if sure and not module.startswith("google.") else guessed).add(module)
    certain.add("kata.agent.__main__")
    guessed -= certain
    return [f"!{name}" for name in sorted(certain - {"__future__"})] + [f"?{name}" for name in sorted(guessed)]


def collect_modules(root: Path, wanted: list[str]) -> list[str]:
    """Load `wanted` in the tree's Python and compile what was loaded into `root`/compiled.

    Returns the files of all modules, without a leading slash. Raises AgentError when a module does not load.
    """
    (root / "collect.py").write_bytes(COLLECT.read_bytes())
    # No -I: it would ignore PYTHONHASHSEED, and the order of constants in compiled code would change.
    program = ("/" + PYTHON, "-S", "-s", "-P", "-B", "/collect.py", f"/{COMPILED}")
    environment = {"PYTHONHASHSEED": "0", "PYTHONPATH": f"/{AGENT_ROOT}"}
    try:
        answer = process.run(
            (*_chroot(root), *program), timeout=120.0, input="\n".join(wanted).encode(), env=environment
        )
    except process.ProcessError as error:
        raise BuildError(
            "the guest's Python does not run in its tree", hint="build as root", detail=error.detail
        ) from error
    found = json.loads(answer.stdout)
    if found["failed"]:
        raise AgentError(
            f"the agent does not load in the guest: {found['failed'][0][0]}",
            detail="\n".join(f"{name}: {reason}" for name, reason in found["failed"]),
        )
    return [str(path).lstrip("/") for path in found["files"] if path != "/collect.py"]


def _chroot(root: Path) -> tuple[str, ...]:
    """The tree as the root folder; whoever is not root gets the right from a user namespace."""
    return ("chroot", str(root)) if os.geteuid() == 0 else ("unshare", "--map-root-user", f"--root={root}")


def libraries(root: Path, start: Iterable[str], whole: Container[str] = ()) -> set[str]:
    """All files and links that the loader needs for the ELF files among `start`, they themselves included.

    Files in `whole` may need what is not there: a plug-in whose library its package merely recommends. Raises
    UserlandError for a library that any other file misses.
    """
    found: set[str] = set()
    pending = [*start, *(_library(root, name, ()) for name in OPENED_LATER)]
    while pending:
        path, links = tree.resolve(root, pending.pop())
        found.update(links)
        if path not in found:
            found.add(path)
            pending += _needed_by(root, path, path in whole)
    return found


def _needed_by(root: Path, path: str, lenient: bool) -> list[str]:
    """The interpreter and the libraries that the file `path` names, none for a file that is no ELF."""
    data = (root / path).read_bytes()
    if not elf.is_elf(data):
        return []
    needs = elf.read_needs(data)
    folders = tuple(folder.replace("$ORIGIN", os.path.dirname(path)) for folder in needs.folders)
    found = [needs.interpreter] if needs.interpreter else []
    for name in needs.libraries:
        with contextlib.suppress(*((UserlandError,) if lenient else ())):
            found.append(_library(root, name, folders))
    return found


def _library(root: Path, name: str, folders: tuple[str, ...]) -> str:
    for folder in (*folders, *LIBRARY_FOLDERS):
        path = tree.merge(f"{folder}/{name}")
        if os.path.lexists(root / path):
            return path
    raise UserlandError(f"the library {name} is in none of the packages")
