"""A container's hooks that are programs of the host: prestart, createRuntime, createContainer, poststart and poststop.

Called by `pod` and `task` at the points of the life cycle that the OCI runtime specification names (config.md, "POSIX
platform Hooks"). Each gets the container's state as JSON on its standard input and runs in the pod's network
namespace, one after the other. createContainer hooks are meant for the container's mount namespace, which only the
guest has; but their programs are the host's, and what they mostly do is to complete the container's root file system,
which is here as well when it is shared. startContainer hooks run in the container, and not here.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from kata.errors import KataError

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Sequence

    from kata.log import Logger
    from kata.oci.spec import Hook, Spec

DEFAULT_TIMEOUT = 60.0
"""Seconds that a hook without a time limit of its own has."""
MARK = "poststop"
"""A file in the bundle: poststop hooks have been run."""
OUTPUT_LIMIT = 4000
"""Characters of a hook's output that an error shows."""


class HookError(KataError):
    """A hook failed, or cannot be run."""

    def __init__(self, what: str, *, detail: str = "") -> None:
        super().__init__(what, hint="the container's specification names it in `hooks`", detail=detail)


class HostHooks:
    """The hooks of one container."""

    def __init__(self, container_id: str, bundle: str, spec: Spec, log: Logger) -> None:
        self._hooks = spec.get("hooks") or {}
        self._state: dict[str, Any] = {
            "ociVersion": spec.get("ociVersion", ""),
            "id": container_id,
            "bundle": bundle,
            "annotations": spec.get("annotations") or {},
        }
        self._netns = network_namespace(spec)
        self._log = log

    def create(self, pid: int) -> None:
        """What prepares the pod, before its guest knows of the container. Raises HookError at the first failure."""
        for name in ("prestart", "createRuntime", "createContainer"):
            for hook in self._of(name):
                self._run(name, hook, "creating", pid)

    def started(self, pid: int) -> None:
        """What is to know of a container that runs. A failure is a warning."""
        self._run_all("poststart", "running", pid)

    def removed(self) -> None:
        """What clears up after a container, once. A failure is a warning, and the next ones are run all the same."""
        if self._of("poststop") and self._is_first():
            self._run_all("poststop", "stopped", 0)

    def _is_first(self) -> bool:
        """Whether nobody has come this far: containerd runs `delete` also after a task that the shim has removed."""
        try:
            os.close(os.open(os.path.join(self._state["bundle"], MARK), os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        except FileExistsError:
            return False
        except OSError as error:
            self._log.warn("the bundle takes no mark", id=self._state["id"], error=error)
        return True

    def _of(self, name: str) -> Sequence[Hook]:
        found: object = self._hooks.get(name)
        return found if isinstance(found, list) else ()

    def _run_all(self, name: str, status: str, pid: int) -> None:
        for hook in self._of(name):
            try:
                self._run(name, hook, status, pid)
            except HookError as error:
                self._log.warn(error.what, id=self._state["id"], output=error.detail)

    def _run(self, name: str, hook: Hook, status: str, pid: int) -> None:
        path = hook.get("path", "")
        if not os.path.isabs(path):
            raise HookError(f"the path of a {name} hook must be absolute, and {path!r} is not")
        timeout = hook.get("timeout")
        if timeout is not None and timeout <= 0:
            raise HookError(f"the {name} hook {path} has a time limit of {timeout} seconds")
        state = {**self._state, "status": status, **({"pid": pid} if pid else {})}
        run_hook(f"{name} hook", hook, json.dumps(state).encode(), self._netns, timeout or DEFAULT_TIMEOUT)


def run_hook(what: str, hook: Hook, state: bytes, netns: str, timeout: float) -> None:
    """Run one hook to its end, in the network namespace at `netns` (empty for ours). Raises HookError."""
    from kata.linux.process import ProcessError, finish

    argv = hook.get("args") or [hook["path"]]
    try:
        finish(_spawn(hook, argv, netns), [hook["path"], *argv[1:]], timeout=timeout, input=state)
    except ProcessError as error:
        raise HookError(f"a {what} failed: {error.what}", detail=error.detail[-OUTPUT_LIMIT:]) from error
    except OSError as error:
        raise HookError(f"the {what} {hook['path']} cannot be run: {error}") from error


def _spawn(hook: Hook, argv: list[str], netns: str) -> subprocess.Popen[bytes]:
    from subprocess import PIPE

    from kata.linux.netns import NetworkNamespace
    from kata.linux.process import spawn

    env = dict(entry.partition("=")[::2] for entry in hook.get("env") or [])

    def start() -> subprocess.Popen[bytes]:
        return spawn(argv, program=hook["path"], stdin=PIPE, stdout=PIPE, stderr=PIPE, env=env, whole_env=True)

    if not netns:
        return start()
    with NetworkNamespace(netns) as namespace:
        return namespace.call(start)


def network_namespace(spec: Spec) -> str:
    """The path of the network namespace that a specification names; empty when it names none."""
    entries = spec.get("linux", {}).get("namespaces", [])
    return next((entry.get("path", "") for entry in entries if entry.get("type") == "network"), "")
