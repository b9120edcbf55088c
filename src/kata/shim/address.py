"""Where a pod's shim listens: a path that follows from containerd's address, the namespace and the sandbox's id.

The form is containerd's own, so that a shim of any kind is found at the same place. Never an abstract socket: any
process of the host's network namespace could connect to one (CVE-2020-15257).
"""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import stat

from kata.sandbox.shimsockets import answers

SOCKET_DIR = "/run/containerd/s"


def socket_path(containerd: str, namespace: str, sandbox_id: str, directory: str = SOCKET_DIR) -> str:
    """The path of the socket (without scheme)."""
    joined = os.path.normpath("/".join((containerd, namespace, sandbox_id)))
    return f"{directory}/{hashlib.sha256(joined.encode()).hexdigest()}"


def bind(path: str) -> socket.socket | None:
    """A socket that listens at `path`, or None when a shim answers there already. Raises OSError.

    One that nobody listens at any more is replaced.
    """
    os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(sock.fileno(), 0o600)  # before bind, so that there is no moment at which others may connect
        while True:
            try:
                sock.bind(path)
                break
            except OSError as error:
                if error.errno != errno.EADDRINUSE or not stat.S_ISSOCK(os.lstat(path).st_mode):
                    raise OSError(error.errno, error.strerror, path) from None
            if answers(path):
                sock.close()
                return None
            os.unlink(path)
        sock.listen(128)
    except BaseException:
        sock.close()
        raise
    return sock
