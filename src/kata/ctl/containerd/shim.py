"""The shim under the name that containerd looks for on its PATH, as a link to the one that belongs to this `kata`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from kata.errors import KataError

NAME = "containerd-shim-kata-v2"
BIN = "/usr/local/bin"
"""On the PATH that systemd gives to services (systemd.exec(5)), and ours to write to."""


class ShimError(KataError):
    """The shim cannot be put on containerd's PATH."""


def shim_program() -> Path:
    """The shim of this installation: a checkout's, or beside the interpreter that runs us."""
    checkout = Path(__file__).parents[4] / "bin" / NAME
    return checkout if checkout.is_file() else Path(sys.executable).parent / NAME


def link(folder: Path, *, dry_run: bool = False) -> str:
    """Put the name into `folder`; what was done, a sentence. Raises ShimError when another file has the name."""
    target, path = shim_program(), folder / NAME
    if not os.access(target, os.X_OK):
        raise ShimError(f"there is no {target} that can be executed", hint="is this installation complete?")
    if path.is_symlink() and path.readlink() == target:
        return f"{path} is there already"
    if path.is_symlink() and not path.exists():
        verb = "replaced, since it led nowhere"
    elif path.exists() or path.is_symlink():
        raise ShimError(
            f"{path} is another shim{_leads(path)}", hint="remove it, or use --bin-dir with a folder earlier on PATH"
        )
    else:
        verb = "made"
    if not dry_run:
        temporary = path.with_name(f".{NAME}.{os.getpid()}")
        temporary.symlink_to(target)
        temporary.rename(path)
    return f"{path} {verb}: a link to {target}"


def unlink(folder: Path, *, dry_run: bool = False) -> str:
    """Take the name out of `folder` if it is our link; what was done."""
    path = folder / NAME
    if not path.is_symlink() or path.readlink() != shim_program():
        return f"{path} is not our link" if path.exists() else f"there is no {path}"
    if not dry_run:
        path.unlink()
    return f"{path} removed"


def _leads(path: Path) -> str:
    return f", a link to {path.readlink()}" if path.is_symlink() else ""
