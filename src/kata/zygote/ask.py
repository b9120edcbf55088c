"""The asker's side: have a zygote fork what this process was about to become.

It comes before every other import of a shim's start, so it has the C half of `socket` only, and no typing.
"""

from __future__ import annotations

import _socket
import os
import sys

from kata.linux.peer import peer_uid
from kata.zygote.context import socket_path, wanted
from kata.zygote.message import GO, READY, Request, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

PATIENCE = 0.5
"""Seconds for each step until the child is there. A zygote takes a few milliseconds."""
FAILED = 1
DIED = b"""\
kata: host: the process that a zygote forked for this has died (the kernel's log may say why; start it again, or set
KATA_ZYGOTE=off where containerd is started)
"""


def ask(argv: Sequence[str], *, again: bool = False) -> int | str:
    """The exit code of a child that did what this process was to do, with its streams and folder; or, when there was
    none, why: then nothing was done, and this process does it.

    `again`: what is to be done may be done twice, so a child that dies is as good as none.
    """
    if not wanted():
        return "zygotes are switched off"
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | os.O_CLOEXEC)
    try:
        reason = _have_forked(sock, argv)
        if reason:
            return reason
        sock.settimeout(None)  # it is at work now, and its end closes the socket
        said = sock.recv(16)
    except FileNotFoundError:
        return "there is no zygote yet"
    except (ConnectionRefusedError, ConnectionResetError, BrokenPipeError):  # it was, or is since it took the call
        return "the zygote is dead"
    except TimeoutError:
        return f"the zygote did not answer within {PATIENCE} s"
    except (OSError, ValueError) as error:
        return f"the zygote cannot be asked: {error}"
    finally:
        sock.close()
    if said.isdigit():
        return int(said)
    if again:
        return "the process that a zygote forked has died"
    os.write(2, DIED)
    return FAILED


def _have_forked(sock: _socket.socket, argv: Sequence[str]) -> str:
    """Returns once a child was told to go on, or says why there is none."""
    sock.settimeout(PATIENCE)
    sock.connect(socket_path())
    if peer_uid(sock.fileno()) != os.geteuid():
        return "the zygote is another user's"
    umask = os.umask(0o077)
    os.umask(umask)
    data = encode(Request(list(argv), dict(os.environb), umask))
    sock.send(data)
    said = sock.recv(256)
    if said != READY:
        return said.decode(errors="replace") or "the zygote has hung up"
    folder = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        rights = b"".join(fd.to_bytes(4, sys.byteorder) for fd in (folder, 0, 1, 2))
        sock.sendmsg([GO], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)])
    finally:
        os.close(folder)
    return ""
