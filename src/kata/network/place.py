"""The pod's network namespace, opened: where everything of this room happens.

Opened by path, and never the namespace that we are in ourselves: filters there would cut the host off. It stays
usable when somebody removes the path meanwhile.
"""

from __future__ import annotations

import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING

from kata.linux.netlink import NetlinkError
from kata.linux.netns import NetworkNamespace
from kata.linux.rtnetlink.host import HostNetlink
from kata.linux.rtnetlink.tc import gone
from kata.network.errors import NamespaceError
from kata.network.names import is_ours

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import ParamSpec, Self

    P = ParamSpec("P")


class Place:
    """A namespace, and rtnetlink in it. Context manager; for one thread. Raises NamespaceError."""

    def __init__(self, path: str) -> None:
        self.path = path
        with ExitStack() as stack:
            try:
                self.namespace = stack.enter_context(NetworkNamespace(path))
                self.netlink = stack.enter_context(self.namespace.call(HostNetlink))
            except (OSError, ValueError) as error:  # ValueError: a NUL in the path
                what = getattr(error, "strerror", None) or str(error)
                raise NamespaceError(f"the network namespace {path!r} cannot be entered: {what}") from error
            if self.namespace.is_own():
                raise NamespaceError(
                    f"{path!r} is the host's own network, which a virtual machine cannot share",
                    hint="do not ask for host networking",
                    layer="config",
                )
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the namespace. Idempotent."""
        self._stack.close()

    def control_socket(self) -> socket.socket:
        """A socket of the namespace for ioctls. The caller owns it."""
        return self.namespace.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))


def remove_own_link(netlink: HostNetlink, name: str) -> None:
    """Remove a link of ours, by its name: its number may be another's by now. One that is gone is fine."""
    link = netlink.find_link(name)
    if link is None or not is_ours(link):
        return
    try:
        netlink.remove_link(link.ifindex)
    except NetlinkError as error:
        if not gone(error):
            raise


def undo(stack: ExitStack, function: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
    """Have `function` called when `stack` is closed; what is gone by then counts as undone."""

    def forgiving() -> None:
        try:
            function(*args, **kwargs)
        except NetlinkError as error:
            if not gone(error):
                raise

    stack.callback(forgiving)
