"""What can be wrong with a container's specification."""

from __future__ import annotations

from kata.errors import KataError


class SpecError(KataError):
    """A field of the specification has a value that cannot be carried: `what` names it by its JSON path."""

    layer = "container"
