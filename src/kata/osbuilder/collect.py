"""Runs inside the guest's tree, with the guest's Python: finds the modules the agent loads, compiles them.

Standard input: one name a line, `!name` for a module that has to load, `?name` for one that may not exist (the
`b` of `from a import b` is a module or not). Standard output: JSON with `files` (the source or library of each
module), and `failed`. Compiled code goes to the folder in argv[1], in the same layout. Imports nothing before
the modules asked for are loaded: what it imported would look needed.
"""

import marshal
import sys

OPTIMIZE = 2
"""No docstrings: they would be a fifth of the image's Python."""

LANDMARK = "os"
"""The module whose file shows the interpreter where its library is, though it is frozen too."""


def load(lines: list[str]) -> list[list[str]]:
    """Import all modules asked for; returns those that failed, with the reason."""
    failed = []
    for line in lines:
        kind, name = line[0], line[1:].strip()
        try:
            __import__(name)
        except Exception as error:  # noqa: BLE001 - any module may fail in any way; the host reports it
            missing = isinstance(error, ImportError) and getattr(error, "name", None) == name
            if kind == "!" or not missing:
                failed.append([name, f"{type(error).__name__}: {error}"])
    return failed


def origins() -> list[str]:
    """The files of all modules loaded so far, apart from those that the interpreter has frozen inside."""
    found = set()
    for module in list(sys.modules.values()):
        spec = getattr(module, "__spec__", None)
        path = getattr(module, "__file__", None) or getattr(spec, "origin", None)
        frozen = getattr(spec, "origin", None) == "frozen" and getattr(spec, "name", None) != LANDMARK
        if isinstance(path, str) and path.startswith("/") and not frozen:
            found.add(path)
    return sorted(found)


def compile_all(paths: list[str], out: str) -> None:
    """Write `<out>/<path>c` for each Python source: unchecked, as an image that cannot change needs no checks."""
    import importlib.util
    import os

    for path in paths:
        with open(path, "rb") as stream:
            source = stream.read()
        code = compile(source, path, "exec", dont_inherit=True, optimize=OPTIMIZE)
        header = importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little") + importlib.util.source_hash(source)
        os.makedirs(os.path.dirname(out + path), exist_ok=True)
        with open(f"{out}{path}c", "wb") as stream:
            stream.write(header + marshal.dumps(code))


def main() -> None:
    """See the module's docstring."""
    failed = load(sys.stdin.readlines())
    files = origins()
    import json

    compile_all([path for path in files if path.endswith(".py")], sys.argv[1])
    json.dump({"files": files, "failed": failed}, sys.stdout)


if __name__ == "__main__":
    main()
