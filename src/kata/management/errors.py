"""Errors of the management socket.

HttpError ................ a request that is not answered as asked, with its HTTP status   (server's side)
ManagementError .......... what a command is told                                          (host)
 +-- UnreachableError .... nobody answers at the socket                                    (host)
 +-- RefusedError ........ the sandbox said no, in its own words                           (guest)
"""

from __future__ import annotations

from kata.errors import KataError


class HttpError(Exception):
    """A request that cannot be read, or that nobody answers here: `status` and a sentence."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


class ManagementError(KataError):
    """The management socket of a sandbox could not be used."""


class UnreachableError(ManagementError):
    """Nobody answers at the socket."""


class RefusedError(ManagementError):
    """The answer is an error; `status` is the HTTP status."""

    layer = "guest"

    def __init__(self, status: int, what: str) -> None:
        super().__init__(what)
        self.status = status
