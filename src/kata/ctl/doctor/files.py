"""Files, mounts and devices that processes of ours left when they were killed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from kata import paths
from kata.ctl.doctor.finding import Finding
from kata.errors import KataError
from kata.hypervisor.identity import abandoned_claims, claims, release_identities
from kata.linux import mounts
from kata.sandbox import shimsockets
from kata.sandbox.store import Store


def mounted(store: Store) -> Iterator[Finding]:
    """Mounts in folders of sandboxes that do not live: those of the living are in mount namespaces of their own."""
    for point in mounts.mount_points():
        if _is_dead(store, point.target):
            yield Finding(
                "mount",
                point.target,
                f"{point.fstype} is mounted at {point.target}, in the folder of a sandbox that does not live",
                partial(_unmount, point.target),
            )


def half_made(store: Store) -> Iterator[Finding]:
    """Folders of sandboxes that were being made or removed."""
    for folder in store.half_made():
        yield Finding(
            "folder",
            os.fspath(folder),
            f"{folder} is of a sandbox that was being made or removed when its process was killed",
            partial(_done, store.sweep),
        )


def user_ids() -> Iterator[Finding]:
    """User ids of virtual machines that are gone."""
    for uid, owner in sorted(abandoned_claims().items()):
        found = f"the user id {uid} is claimed for {owner}, which is gone" if owner else f"nobody claims user id {uid}"
        yield Finding("user id", str(uid), found, partial(_done, partial(release_identities, owner)))


def templates() -> Iterator[Finding]:
    """Templates that were being made or removed."""
    from kata.factory import leftovers
    from kata.factory.store import TemplateStore

    for folder in leftovers.abandoned():
        yield Finding(
            "template",
            os.fspath(folder),
            f"{folder} is of a template that was being made when its process was killed",
            partial(_done, leftovers.sweep),
        )
    store = TemplateStore()
    for folder in store.half_made():
        yield Finding("template", os.fspath(folder), f"{folder} is half a template", partial(_done, store.sweep))


def sockets() -> Iterator[Finding]:
    """Sockets of containerd's shims that were killed."""
    for path in shimsockets.abandoned():
        yield Finding("socket", path, f"the shim that listened at {path} was killed", partial(_done, shimsockets.sweep))


def zygotes() -> Iterator[Finding]:
    """Sockets and locks of zygotes that were killed."""
    from kata.zygote import leftovers

    for name in leftovers.abandoned():
        repair = partial(_done, partial(leftovers.remove, name))
        yield Finding("zygote", name, f"the zygote of the socket {name} was killed", repair)


def workspaces() -> Iterator[Finding]:
    """What imports of images and builds of guests were working on."""
    from kata.images import workspace
    from kata.kernel import asset

    for root in (paths.images_dir() / "work", paths.cache_dir() / "snapshots/work"):
        for path in workspace.abandoned(root):
            yield Finding(
                "workspace",
                os.fspath(path),
                f"{path} is of an import of an image that was killed",
                partial(_done, partial(workspace.sweep, root)),
            )
    for path in asset.abandoned(paths.assets_dir()):
        yield Finding(
            "workspace",
            os.fspath(path),
            f"{path} is of a build that was killed",
            partial(_done, partial(asset.sweep, paths.assets_dir())),
        )


def loops(store: Store) -> Iterator[Finding]:
    """Loop devices on files of ours. We make none, so whose they are is not known."""
    for file in sorted(Path("/sys/block").glob("loop*/loop/backing_file")):
        try:
            backing = file.read_text().strip()
        except OSError:
            continue  # it was detached meanwhile
        path = backing.removesuffix(" (deleted)")
        inside = any(path.startswith(f"{place}/") for place in (paths.state_dir(), paths.data_dir()))
        if inside and (path != backing or _is_dead(store, path)):
            device = f"/dev/{file.parts[3]}"
            yield Finding(
                "loop device",
                device,
                f"{device} has {backing}, which is gone or of a sandbox that does not live",
                advice=f"we never make such: losetup -d {device} detaches it",
            )


def _is_dead(store: Store, path: str) -> bool:
    """Whether a path is in the folder of a sandbox, or of its virtual machine, that does not live, and is ours."""
    for root in (store.root, paths.vm_dir()):
        if path.startswith(f"{root}/"):
            sandbox_id = path.removeprefix(f"{root}/").split("/")[0]
            ours = store.was_held(sandbox_id) or f"{paths.vm_dir()}/{sandbox_id}" in claims().values()
            return ours and not store.alive(sandbox_id)
    return False


def _unmount(target: str) -> str:
    mounts.unmount(target)
    if mounts.is_mounted(target):
        raise KataError(f"something is still mounted at {target}")
    return "unmounted it"


def _done(action: Callable[[], object]) -> str:
    action()
    return "removed it"
