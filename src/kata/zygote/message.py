"""What an asker sends: its command line, environment and umask, in one message of a socket that keeps messages apart.

Texts are joined by NUL, which none of them can have. The zygote says `READY` when it has forked; anything else that it
says is why it will not. With `GO` the child gets the asker's folder and its three standard streams, as descriptors
(SCM_RIGHTS, unix(7)), and only then does it do anything: an asker that has lost patience can be sure that nothing
happens without it, and that its streams are nowhere but in its own hands (containerd waits for their end, and what is
on its way to a stuck process is open). The child's last word is its exit code.
"""

from __future__ import annotations

READY, GO = b"ready", b"go"
LIMIT = 192 * 1024
"""Bytes of a message, below what a socket takes by default (net.core.wmem_default)."""
DESCRIPTORS = 4
"""The folder, standard input, output and error."""


class Request:
    """What a child is to be: `argv` with the program's name first."""

    __slots__ = ("argv", "environ", "umask")

    def __init__(self, argv: list[str], environ: dict[bytes, bytes], umask: int) -> None:
        self.argv = argv
        self.environ = environ
        self.umask = umask


def encode(request: Request) -> bytes:
    """As bytes. Raises ValueError when there is more than a message takes."""
    words = [word.encode(errors="surrogateescape") for word in request.argv]
    variables = [name + b"=" + value for name, value in request.environ.items()]
    data = b"\0".join([b"%o" % request.umask, b"%d" % len(words), *words, *variables])
    if len(data) > LIMIT:
        raise ValueError("the environment is too big for it")
    return data


def decode(data: bytes) -> Request:
    """The other way. Raises ValueError."""
    umask, count, *rest = data.split(b"\0")
    number, mask = int(count), int(umask, 8)
    if not 0 < number <= len(rest):
        raise ValueError("it has no command line")
    if not 0 <= mask <= 0o777:
        raise ValueError("it has no umask")
    pairs = [variable.partition(b"=") for variable in rest[number:]]
    argv = [word.decode(errors="surrogateescape") for word in rest[:number]]
    return Request(argv, {name: value for name, _, value in pairs if name}, mask)
