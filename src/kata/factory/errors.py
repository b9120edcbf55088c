"""What can go wrong with templates. None of it keeps a sandbox from starting: it then boots.

FactoryError
 +-- NoTemplateError ...... there is none with that name                       (config)
 +-- GuestNotReadyError ... the guest of a template does not come up          (guest)
 +-- UnusableError ........ what is on disk is not the template that it says   (host)
"""

from __future__ import annotations

from kata.errors import KataError


class FactoryError(KataError):
    """A template cannot be made, kept or used."""

    layer = "host"


class NoTemplateError(FactoryError):
    """There is no template with that name."""

    layer = "config"


class GuestNotReadyError(FactoryError):
    """The machine that was to be the template started, and its agent did not answer."""

    layer = "guest"


class UnusableError(FactoryError):
    """A template on disk is not what it says it is."""
