"""Addresses: how the two ends of a connection find each other.

Called by whoever needs a client or a server. Never add anything here that looks at the bytes behind a connection.

    unix:///run/agent.sock            a unix socket; abstract names are refused (any user of a network namespace
                                      could reach them: CVE-2020-15257)
    vsock://3:1024                    a guest's port over vhost-vsock; listening on CID -1 means any
    hvsock:///run/vm/clh.sock:1024    hybrid vsock: a VMM's unix socket that forwards to a guest's port; dial only
    serial:///dev/vport1p1            the guest's side of a virtio-serial port; listen only (see `serial`)

Errors are OSErrors (TimeoutError among them); an address that cannot be right is a ValueError.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import stat
import struct
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kata.protocol.connection import Connection, SocketConnection, Waker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

HANDSHAKE_TIMEOUT = 10.0
"""Seconds for a VMM to answer CONNECT, as upstream has it."""
RETRY_MIN, RETRY_MAX = 0.01, 0.25
"""Seconds between tries to reach a guest port behind a VMM, which has no event for "somebody listens now"."""
UNIX_PATH_MAX = 107


class Listener:
    """Accepts connections. `close` may be called from any thread and ends a waiting `accept`."""

    def accept(self, timeout: float | None = None) -> Connection:
        """The next connection. Raises TimeoutError after `timeout` seconds, OSError (EBADF) when closed."""
        raise NotImplementedError

    def close(self) -> None:
        """Stop listening. Harmless when repeated."""
        raise NotImplementedError

    def __enter__(self) -> Listener:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def dial(address: str, timeout: float) -> Connection:
    """Connect to `address` within `timeout` seconds. Only hvsock tries again when nobody listens yet."""
    scheme, rest = _split(address)
    if scheme == "unix":
        return SocketConnection(_connect_unix(rest, timeout))
    if scheme == "vsock":
        return SocketConnection(_connect_vsock(_vsock(rest), timeout))
    if scheme == "hvsock":
        return _dial_hybrid(rest, timeout)
    raise ValueError(f"cannot connect to {address!r}: unknown or listen-only scheme")


def listen(address: str) -> Listener:
    """Listen at `address`. A unix socket is made with mode 0600, in place of one that nobody serves any more."""
    scheme, rest = _split(address)
    if scheme == "unix":
        return SocketListener(_bind_unix(rest), rest)
    if scheme == "vsock":
        cid, port = _vsock(rest)
        sock = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        with _closed_on_error(sock):
            sock.bind((socket.VMADDR_CID_ANY if cid == -1 else cid, port))
            sock.listen()
        return SocketListener(sock)
    if scheme == "serial":
        from kata.protocol.serial import SerialListener

        return SerialListener(rest)
    raise ValueError(f"cannot listen at {address!r}: unknown or dial-only scheme")


class SocketListener(Listener):
    """Over a listening stream socket; takes the socket over. `path` is removed on close, if it is still ours."""

    def __init__(self, sock: socket.socket, path: str = "") -> None:
        sock.setblocking(False)
        self._socket = sock
        self._path = path
        self._inode = _inode(path)
        self._waker = Waker()
        self._lock = threading.Lock()

    def accept(self, timeout: float | None = None) -> Connection:
        """See `Listener.accept`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._lock:
            while not self._waker.woken:
                try:
                    return SocketConnection(self._socket.accept()[0])
                except (BlockingIOError, ConnectionAbortedError):
                    self._waker.wait(self._socket.fileno(), select.POLLIN, deadline)
            raise OSError(errno.EBADF, "the listener was closed")

    def close(self) -> None:
        """See `Listener.close`."""
        if self._waker.woken:
            return
        self._waker.wake()
        with self._lock:
            if self._path and _inode(self._path) == self._inode:
                os.unlink(self._path)
            self._socket.close()
            self._waker.close()


def _split(address: str) -> tuple[str, str]:
    scheme, separator, rest = address.partition("://")
    if not separator:
        raise ValueError(f"{address!r} is no address: <scheme>://… expected")
    if scheme in ("unix", "hvsock", "serial") and not rest.startswith("/"):
        raise ValueError(f"{address!r}: an absolute path is needed after {scheme}://")
    return scheme, rest


def _vsock(rest: str) -> tuple[int, int]:
    cid, _, port = rest.partition(":")
    try:
        return int(cid), int(port)
    except ValueError:
        raise ValueError(f"vsock://{rest}: vsock://<cid>:<port> expected") from None


def _connect_vsock(address: tuple[int, int], timeout: float) -> socket.socket:
    sock = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    with _closed_on_error(sock):
        sock.settimeout(max(timeout, 0.001))
        sock.connect(address)
        sock.settimeout(None)
    return sock


def _connect_unix(path: str, timeout: float) -> socket.socket:
    """Connect, waiting while the listener's backlog is full.

    A non-blocking connect(2), which Python's time-outs make, fails at once then; a blocking one waits for as long
    as SO_SNDTIMEO says, and ends with EAGAIN.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with _closed_on_error(sock), _short(path) as short:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(max(timeout, 0.001)))
        try:
            sock.connect(short)
        except BlockingIOError:
            raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT), path) from None
        except OSError as error:
            raise OSError(error.errno, error.strerror, path) from None
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(0))
    return sock


def _timeval(seconds: float) -> bytes:
    return struct.pack("@ll", int(seconds), int(seconds % 1 * 1e6))


def _bind_unix(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with _closed_on_error(sock), _short(path) as short:
        # The inode takes the mode of the unbound socket: there is no moment at which others may connect.
        os.fchmod(sock.fileno(), 0o600)
        try:
            sock.bind(short)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not _abandoned(path):
                raise OSError(error.errno, error.strerror, path) from None
            os.unlink(path)
            sock.bind(short)
        sock.listen(128)
    return sock


def _abandoned(path: str) -> bool:
    """Whether `path` is a socket that no process listens at."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return False
        _connect_unix(path, 1.0).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False


@contextmanager
def _short(path: str) -> Iterator[str]:
    """A name for `path` that fits into a socket address, however long the path: through its folder's descriptor."""
    if len(os.fsencode(path)) <= UNIX_PATH_MAX:
        yield path
        return
    folder, _, name = path.rpartition("/")
    fd = os.open(folder or "/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{name}"
    finally:
        os.close(fd)


def _inode(path: str) -> tuple[int, int]:
    try:
        found = os.lstat(path)
    except OSError:
        return 0, 0
    return found.st_dev, found.st_ino


def _dial_hybrid(rest: str, timeout: float) -> Connection:
    """Connect through a VMM, again and again until the guest listens: the VMM just hangs up until then."""
    path, _, port = rest.rpartition(":")
    if not port.isascii() or not port.isdigit():
        raise ValueError(f"hvsock://{rest}: hvsock://<path>:<port> expected")
    deadline = time.monotonic() + timeout
    pause = RETRY_MIN
    while True:
        left = deadline - time.monotonic()
        try:
            sock = _connect_unix(path, left)
            with _closed_on_error(sock):
                _handshake(sock, int(port), min(left, HANDSHAKE_TIMEOUT))
            return SocketConnection(sock)
        except OSError:
            if time.monotonic() + pause >= deadline:
                raise
        # Neither VMM nor kernel tells when the guest starts to listen, so there is nothing to wait on.
        time.sleep(pause)
        pause = min(pause * 2, RETRY_MAX)


def _handshake(sock: socket.socket, port: int, timeout: float) -> None:
    """Ask for a guest port and read the answer's line, and not a byte more: what follows is the guest's."""
    deadline = time.monotonic() + timeout
    sock.sendall(b"CONNECT %d\n" % port)
    line = bytearray()
    while not line.endswith(b"\n"):
        sock.settimeout(max(deadline - time.monotonic(), 0.001))
        byte = sock.recv(1)
        if not byte or len(line) >= 64:
            raise ConnectionRefusedError(errno.ECONNREFUSED, f"nobody listens at port {port} in the guest")
        line += byte
    if not line.startswith(b"OK"):
        raise ConnectionRefusedError(errno.ECONNREFUSED, f"the VMM answered {bytes(line)!r}")
    sock.settimeout(None)


@contextmanager
def _closed_on_error(sock: socket.socket) -> Iterator[None]:
    try:
        yield
    except BaseException:
        sock.close()
        raise
