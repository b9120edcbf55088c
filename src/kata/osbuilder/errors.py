"""What can go wrong while the guest image is built.

BuildError
 +-- AgentError ..... the agent does not load in the guest's Python
 +-- UserlandError .. a file that the guest needs is in none of the packages
"""

from __future__ import annotations

from kata.errors import KataError


class BuildError(KataError):
    """The guest image cannot be built."""

    layer = "host"


class AgentError(BuildError):
    """The agent does not load with the files that the image would have."""


class UserlandError(BuildError):
    """A file that the guest needs cannot be found."""
