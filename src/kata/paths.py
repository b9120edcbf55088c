"""Where things are on the host. Every path the project writes to comes from here.

`KATA_STATE_DIR` and `KATA_DATA_DIR` move the two roots, which is how a checkout and the tests keep to
themselves; one that is set to nothing counts as not set.
The defaults are upstream's places, so that its users find what they know.
"""

from __future__ import annotations

import os
from pathlib import Path


def state_dir() -> Path:
    """Run-time state, gone after a reboot: upstream's `/run/vc`."""
    return state_dir_of(os.environ.get("KATA_STATE_DIR", ""))


def state_dir_of(setting: str) -> Path:
    """The state directory of a process whose KATA_STATE_DIR is this."""
    return Path(setting or "/run/vc").absolute()


def data_dir() -> Path:
    """What survives a reboot: guest kernel and image, container images, caches."""
    return Path(os.environ.get("KATA_DATA_DIR") or "/var/lib/kata-containers").absolute()


def sandboxes_dir() -> Path:
    """One folder a sandbox with its state: upstream's `/run/vc/sbs`."""
    return state_dir() / "sbs"


def monitor_socket(sandbox_id: str) -> Path:
    """Where a sandbox's management server listens, upstream's name: in the sandbox's own folder."""
    return sandboxes_dir() / sandbox_id / "shim-monitor.sock"


def vm_dir() -> Path:
    """One folder a sandbox with what its VMM needs (sockets, console): upstream's `/run/vc/vm`."""
    return state_dir() / "vm"


def direct_volumes_dir() -> Path:
    """What drivers of storage say of volumes that guests get as disks: upstream's place, where those drivers write."""
    moved = os.environ.get("KATA_STATE_DIR")
    return state_dir() / "direct-volumes" if moved else Path("/run/kata-containers/shared/direct-volumes")


def assets_dir() -> Path:
    """Guest kernel, initrd and image with their manifests."""
    return data_dir() / "assets"


def images_dir() -> Path:
    """The local store of container images."""
    return data_dir() / "images"


def templates_dir() -> Path:
    """Saved machines that sandboxes go on from."""
    return data_dir() / "templates"


def cache_dir() -> Path:
    """What can be made again: probe answers, root filesystem images."""
    return data_dir() / "cache"
