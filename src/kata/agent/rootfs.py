"""What a root file system must not have at the places that the runtime opens by their names.

Called by `container` before crun gets to see it. An image decides what is there. crun (1.8.1) opens the root's `dev`
even where that is a link, and makes device nodes and links wherever it leads in the guest (CVE-2026-41579,
CVE-2026-47766). Behind a link at /proc or /sys, what is written to the kernel would be written to the image instead
(CVE-2019-19921). Never repair here: an image that has such a link is refused.
"""

from __future__ import annotations

import os
import stat

from kata.agent.errors import BadRequest

PLACES = ("dev", "proc", "sys")


def check(rootfs: str) -> None:
    """Raise BadRequest when one of `PLACES` is anything but a directory. One that is missing is made by the runtime."""
    root = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in PLACES:
            try:
                mode = os.stat(name, dir_fd=root, follow_symlinks=False).st_mode
            except FileNotFoundError:
                continue
            if not stat.S_ISDIR(mode):
                raise BadRequest(
                    f"the container's root file system has a {'link' if stat.S_ISLNK(mode) else 'file'} at /{name}",
                    hint="use an image in which it is a directory",
                )
    finally:
        os.close(root)
