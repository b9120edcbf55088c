"""What can go wrong with container images.

ImageError ................... root of this room; also for what fits nowhere below
 +-- InvalidNameError ........ a name or reference that cannot be one                (config)
 +-- ImageNotFoundError ...... not in the store, no such file, no registry has it
 +-- MalformedImageError ..... hostile or broken image content
 +-- WrongPlatformError ...... for another architecture or operating system
 +-- NoSpaceError ............ a file system is too full
 +-- StoreBusyError .......... somebody else keeps the store locked
 +-- UnknownUserError ........ a user or group that the image does not have          (config)
"""

from __future__ import annotations

from kata.errors import KataError


class ImageError(KataError):
    """An image cannot be found, read, unpacked or stored."""


class InvalidNameError(ImageError):
    """A name that no image can have, or a reference in a form that is not understood."""

    layer = "config"


class ImageNotFoundError(ImageError):
    """Nothing known goes by that name."""


class MalformedImageError(ImageError):
    """The image's own content is broken, hostile, or beyond what is accepted."""


class WrongPlatformError(ImageError):
    """The image was made for another machine or operating system."""


class NoSpaceError(ImageError):
    """A file system has too little space or too few inodes left."""


class StoreBusyError(ImageError):
    """A lock of the store was not to be had in time."""


class UnknownUserError(ImageError):
    """The user or group a container shall run as does not exist in the image, or cannot be a user at all."""

    layer = "config"
