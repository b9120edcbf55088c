"""Forwards what is dialled on the loopback of a pod's network namespace to the pod itself, which is in its VM.

For CRI's PortForward: containerd enters the namespace and dials localhost, where with a VM nobody listens. Here one
socket takes every port of it, and each connection is made anew to the same port of the pod's address, from the
host's namespace. Only processes of the host can dial there: what a guest sends goes past the namespace's stack.
A server that listens on nothing but the loopback of its guest is not reached.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kata.log import Logger

CONNECT_TIMEOUT = 10.0
MOST_CONNECTIONS = 128
BUFFER = 1 << 16


class Forwarder:
    """The forwarding of one pod, from `start_forwarder` until `close`."""

    def __init__(self, listener: socket.socket, link: int, address: str, log: Logger) -> None:
        self._listener = listener
        self._link = link
        self._address = address
        self._log = log
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._closed = False
        threading.Thread(target=self._accept, name="port-forward", daemon=True).start()

    def close(self) -> None:
        """End it, and all its connections. Idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            _shut(self._listener)  # wakes the thread, which closes it
            for sock in self._open:
                _shut(sock)
        os.close(self._link)

    def _accept(self) -> None:
        with self._listener:
            while True:
                try:
                    client, _ = self._listener.accept()
                except OSError:
                    return
                threading.Thread(target=self._serve, args=(client,), name="port-forward", daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with ExitStack() as stack:
            if not self._take(stack, client):
                return
            port = client.getsockname()[1]
            try:
                pod = socket.create_connection((self._address, port), CONNECT_TIMEOUT)
            except OSError as error:
                self._log.info("port-forward", port=port, error=error)
                # Reset it: an orderly end would look as if somebody had listened.
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return
            pod.settimeout(None)
            if self._take(stack, pod):
                back = threading.Thread(target=_copy, args=(pod, client), name="port-forward", daemon=True)
                back.start()
                _copy(client, pod)
                back.join()  # ends with either side, or with close()

    def _take(self, stack: ExitStack, sock: socket.socket) -> bool:
        """Own a connection until the stack is left; False when there are too many, or all has ended."""
        stack.enter_context(sock)
        with self._lock:
            if self._closed or len(self._open) >= 2 * MOST_CONNECTIONS:
                return False
            self._open.add(sock)
        stack.callback(self._drop, sock)
        return True

    def _drop(self, sock: socket.socket) -> None:
        with self._lock:
            self._open.discard(sock)


def start_forwarder(netns: str, log: Logger) -> Forwarder | None:
    """Forward for the pod whose network namespace is at `netns`; None, with a warning, where that cannot be."""
    from kata.errors import KataError

    try:
        address = pod_address(netns)
        if not address:
            return None
        listener, link = listen(netns)
    except (OSError, KataError) as error:
        log.warn("ports of this pod cannot be forwarded (Linux 5.9 and CAP_BPF are needed)", error=error)
        return None
    return Forwarder(listener, link, address, log)


def pod_address(netns: str) -> str:
    """The address under which the host reaches the pod: IPv4 if there is one; empty when there is none."""
    import ipaddress

    from kata.network.scan import scan

    found = [ipaddress.ip_address(entry.address) for endpoint in scan(netns) for entry in endpoint.addresses]
    usable = [address for address in found if not (address.is_link_local or address.is_loopback)]
    return next((str(address) for address in sorted(usable, key=lambda address: address.version)), "")


def listen(netns: str) -> tuple[socket.socket, int]:
    """A socket in the namespace, and what gives it all ports there. Raises OSError."""
    from kata.linux.netns import NetworkNamespace
    from kata.linux.sklookup import take_loopback

    with NetworkNamespace(netns) as namespace, ExitStack() as undo:
        listener = undo.enter_context(namespace.call(lambda: socket.create_server(("127.0.0.1", 0))))
        link = take_loopback(namespace.fileno(), listener.fileno())
        undo.pop_all()
        return listener, link


def _copy(source: socket.socket, target: socket.socket) -> None:
    """Until the source ends, which the target is then told; an error ends both."""
    try:
        while data := source.recv(BUFFER):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        _shut(source)
        _shut(target)


def _shut(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
