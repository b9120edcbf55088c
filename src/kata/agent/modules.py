"""Loading kernel modules on demand: the guest's kernel keeps its drivers in files that the initrd left behind.

Called before a device or file system is waited for (`devices`, `storages`) and by CreateSandbox. `FOLDER` holds
`<name>.ko`, `modules.needs` (a line `<name>: <modules in load order>`) and `modules.builtin` (names that need no
file); `kata.kernel.initrd` writes them. A kernel with everything built in comes without the folder, and then there
is nothing to load: the device that is waited for shows by itself whether its driver is there.
Never pass a name or a parameter to the kernel that was not checked here.
"""

from __future__ import annotations

import errno
import os
import re

from kata.agent.errors import AgentError, BadRequest, Unsupported
from kata.linux import syscalls
from kata.linux.fds import read_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

FOLDER = "/run/kata-modules"
LOADED = "/sys/module"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}")
# One word of what the kernel splits at blanks; quotes would let a value swallow the next word.
_PARAMETER = re.compile(r"[A-Za-z0-9_.-]{1,64}(=[!#-&(-~]{0,512})?")


def load_modules(names: Sequence[str], *, folder: str = FOLDER, loaded: str = LOADED) -> None:
    """Make sure that each module is in the kernel; at once when it is.

    Raises Unsupported when this guest's kernel has neither driver nor module, AgentError when it does not load.
    """
    for name in names:
        if not has_module(check_name(name), loaded=loaded) and os.path.isdir(folder):
            load(name, folder=folder, loaded=loaded)


def load(name: str, parameters: Sequence[str] = (), *, folder: str = FOLDER, loaded: str = LOADED) -> None:
    """Load one module with all it needs; `parameters` are for the module itself and of no use when it is loaded.

    Raises BadRequest, Unsupported (no such module in `folder`), AgentError.
    """
    check_name(name)
    words = " ".join(check_parameter(parameter) for parameter in parameters)
    if has_module(name, loaded=loaded) or _canonical(name) in _built_in(folder):
        return
    order = _needs(folder).get(_canonical(name))
    if order is None:
        raise Unsupported(
            f"this guest's kernel has neither the driver {name} nor a module of that name",
            hint="Use a guest kernel that has it (`kata kernel build` builds one with all drivers inside).",
        )
    for needed in order:
        if not has_module(needed, loaded=loaded):
            _insert(f"{folder}/{needed}.ko", words if _canonical(needed) == _canonical(name) else "")


def has_module(name: str, *, loaded: str = LOADED) -> bool:
    """Whether the kernel has the module ready: built in, or loaded and set up.

    One that another thread is just loading is not: loading it too waits for that (kernel/module/main.c).
    """
    entry = f"{loaded}/{_canonical(name)}"
    if not os.path.isdir(entry):
        return False
    try:
        return read_text(f"{entry}/initstate").strip() == "live"
    except FileNotFoundError:  # built in
        return True


def check_name(name: str) -> str:
    """The name, when it can be one. Raises BadRequest."""
    if not _NAME.fullmatch(name):
        raise BadRequest(f"{name!r} is no kernel module")
    return name


def check_parameter(text: str) -> str:
    """A module's parameter, when it is one word without quotes: `name` or `name=value`. Raises BadRequest."""
    if not _PARAMETER.fullmatch(text) or text.startswith("-"):
        raise BadRequest(f"{text!r} is no parameter of a kernel module", hint="Give name=value, without blanks.")
    return text


def _canonical(name: str) -> str:
    return name.replace("-", "_")


def _needs(folder: str) -> dict[str, tuple[str, ...]]:
    """Each module's load order, itself last, by canonical name; every module in an order has one as well.

    A module that only others ask for is loaded with what stands before it, which is at least all it needs.
    """
    table: dict[str, tuple[str, ...]] = {}
    for line in _read(f"{folder}/modules.needs").splitlines():
        name, _, words = line.partition(":")
        table[_canonical(name)] = tuple(words.split())
    for order in list(table.values()):
        for index, part in enumerate(order):
            table.setdefault(_canonical(part), order[: index + 1])
    return table


def _built_in(folder: str) -> set[str]:
    return {_canonical(name) for name in _read(f"{folder}/modules.builtin").split()}


def _read(path: str) -> str:
    try:
        return read_text(path)
    except FileNotFoundError:
        return ""


def _insert(path: str, parameters: str) -> None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            syscalls.finit_module(fd, parameters)
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno == errno.EEXIST:  # another thread was faster
            return
        name = os.path.basename(path).removesuffix(".ko")
        raise AgentError(f"the kernel module {name} cannot be loaded: {error.strerror}", detail=str(error)) from error
