"""A share with volumes in it, named v0, v1, … in their order."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

from kata.storage.virtiofs import VirtiofsShare, start_share


class Volume(NamedTuple):
    """A path of the host; read-only unless said otherwise."""

    path: str | os.PathLike[str]
    readonly: bool = True


def share_volumes(volumes: Sequence[Volume], directory: str | os.PathLike[str]) -> VirtiofsShare:
    """Start a share in `directory` and add the volumes; nothing is left when one cannot be added."""
    share = start_share(os.fspath(directory))
    try:
        for index, volume in enumerate(volumes):
            share.add(f"v{index}", os.fspath(volume.path), readonly=volume.readonly)
    except BaseException:
        share.close()
        raise
    return share
