"""A run of requests to one agent: builds each, fills in what was left out, makes it, shows the answer.

Called by `script` and `__main__`. As with upstream's tool, ids that are not given are made up where something is
created, and remembered for the requests after it. Never keep anything for a later run.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

from kata.agentctl import arguments, output, rpcs
from kata.agentctl.errors import UsageError
from kata.protocol.status import RpcError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.protobuf.message import Message

    from kata.agentctl.targets import Target
    from kata.oci.spec import Spec
    from kata.protocol.messages import Method

DEFAULT_TIMEOUT = 60.0
"""Seconds for a request that does not wait for anything, as upstream's runtime gives most of them."""


class Options(NamedTuple):
    """How requests are made and shown."""

    as_json: bool = False
    timeout: float | None = None
    """Seconds for each request; None: 60, and no limit for requests that wait by their nature; 0: no limit."""
    auto_values: bool = True
    """Whether ids that are left out are filled in."""
    bundle: str = ""
    """A folder with config.json and rootfs: the container of a CreateContainer without a specification."""
    verbose: bool = False
    """Whether each request and its time are told on standard error."""


class Session:
    """Requests to one agent, in order. Not for several threads."""

    def __init__(self, target: Target, options: Options) -> None:
        self._target = target
        self._options = options
        self.variables: dict[str, str] = {}
        """What `$name` in a script is: cid, sid, exec_id as last used, and what `set` sets."""

    def request(self, words: Sequence[str]) -> Message:
        """Make the request that `words` spell; its reply. Raises UsageError before, RpcError by the agent's word."""
        method = rpcs.find(words[0])
        request = method.request()
        arguments.fill(request, words[1:])
        if self._options.auto_values:
            self._complete(method, request)
        return self._call(method, request)

    def show(self, reply: Message) -> None:
        """Print a reply."""
        output.reply(reply, as_json=self._options.as_json)

    def _call(self, method: Method, request: Message) -> Message:
        begin = time.monotonic()
        if self._options.verbose:
            print(f"kata-agent-ctl: {method.name} {output.to_json(request)}", file=sys.stderr)
        try:
            reply = self._target.call(method, request, self._timeout(method))
        except RpcError as error:
            self._tell_time(method, begin, error.code.name)
            raise
        self._tell_time(method, begin, "OK")
        return reply

    def _tell_time(self, method: Method, begin: float, outcome: str) -> None:
        if self._options.verbose:
            milliseconds = (time.monotonic() - begin) * 1000
            print(f"kata-agent-ctl: {method.name}: {outcome} after {milliseconds:.1f} ms", file=sys.stderr)

    def _timeout(self, method: Method) -> float | None:
        if self._options.timeout is not None:
            return self._options.timeout or None
        return None if method.name in rpcs.WAITING else DEFAULT_TIMEOUT

    def _complete(self, method: Method, request: Message) -> None:
        """Fill in the ids that were left out. An empty exec_id means the container's first process."""
        if method.name == "CreateSandbox":
            self._default(request, "sandbox_id", "sid", make=True)
        elif method.name == "CreateContainer":
            self._default(request, "container_id", "cid", make=True)
            if not getattr(request, "exec_id"):  # noqa: B009 - a field of a message that is known by its descriptor
                setattr(request, "exec_id", getattr(request, "container_id"))  # noqa: B009, B010 - likewise
            if self._options.bundle and not request.HasField("OCI"):
                arguments.fill(request, [f"OCI=json://{json.dumps(read_bundle(self._options.bundle))}"])
        elif "container_id" in method.request.DESCRIPTOR.fields_by_name:
            self._default(request, "container_id", "cid", make=False)
            if method.name == "ExecProcess":
                self._default(request, "exec_id", "exec_id", make=True)

    def _default(self, request: Message, field: str, variable: str, *, make: bool) -> None:
        """Set an empty id from its variable; where the request creates what it names, to a new one to remember."""
        given: str = getattr(request, field)
        value = given or (secrets.token_hex(32) if make else self.variables.get(variable, ""))
        setattr(request, field, value)
        if make:
            self.variables[variable] = value


def read_bundle(folder: str) -> Spec:
    """The specification of a bundle, its root as an absolute path. Raises UsageError."""
    path = os.path.join(folder, "config.json")
    spec = arguments.document(f"file://{path}", f"--bundle-dir {folder}")
    if not isinstance(spec, dict) or not isinstance(spec.get("root", {}), dict):
        raise UsageError(f"{path} is no specification", hint="crun spec makes an example")
    root = {"path": "rootfs", **spec.get("root", {})}
    root["path"] = os.path.join(os.path.abspath(folder), str(root["path"]))
    return {**spec, "root": root}  # type: ignore[typeddict-item]  # the agent checks what is in a specification
