"""mkfs.erofs makes a read-only file system image of a tree. Called by `unpack` and `directory`.

Uncompressed, by measurement on a 202 MB Debian tree of 9415 files (2 cores): none 0.7 s and 181 MB, lz4 2.7 s and
111 MB, lz4hc 6.2 s and 103 MB; and what is not compressed costs a guest nothing to read. Starting counts for more
than size here.
"""

from __future__ import annotations

import uuid
from pathlib import Path

from kata.images.errors import ImageError
from kata.linux import process
from kata.linux.process import ProcessError

TIMEOUT = 900.0
CLAMP = "4102444800"
"""2100-01-01: mkfs.erofs takes SOURCE_DATE_EPOCH as its own time and as the latest file time. Files keep theirs."""


def build(tree: Path, target: Path, identity: str) -> None:
    """Make `target`, mode 0600, of `tree`; equal trees and identities give equal files. Raises ImageError."""
    argv = [
        "mkfs.erofs", "--quiet", "-U", str(uuid.uuid5(uuid.NAMESPACE_OID, identity)), "--", str(target), str(tree),
    ]  # fmt: skip
    try:
        process.run(argv, timeout=TIMEOUT, env={"SOURCE_DATE_EPOCH": CLAMP})
    except ProcessError as error:
        if error.returncode is None:
            raise
        raise ImageError("no root filesystem could be made of the image", detail=error.detail) from None
    target.chmod(0o600)
