"""Container images on the host: the local store, where images come from, and root filesystems made of them.

skopeo copies images and umoci unpacks them; this room decides what they may touch, keeps the result and turns it
into a read-only erofs file that a guest mounts. Never add a registry client or a layer unpacker of our own. What is
named here is for other rooms; the modules that import and unpack are loaded by the store when it needs them.
"""

from kata.images.config import ImageConfig
from kata.images.rootfs import Rootfs
from kata.images.store import Image, ImageStore, import_busybox
from kata.images.users import ResolvedUser, resolve_user

__all__ = ["Image", "ImageConfig", "ImageStore", "ResolvedUser", "Rootfs", "import_busybox", "resolve_user"]
