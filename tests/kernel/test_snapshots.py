"""Images of snapshots: built once for all who want them, found by what their layers are, and gone when space is."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from kata.images import erofs
from kata.images.errors import ImageError
from kata.images.snapshots import SnapshotCache, identity
from kata.sandbox.config import PluggedRootfs
from kata.shim.rootfs import disk_rootfs, snapshot_key

pytestmark = pytest.mark.root


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (folder := tmp_path / "tree").mkdir()
    (folder / "file").write_bytes(os.urandom(200_000))
    return folder


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys of all images that are really built."""
    made: list[str] = []
    real = erofs.build

    def build(source: Path, target: Path, key: str) -> None:
        made.append(key)
        real(source, target, key)

    monkeypatch.setattr(erofs, "build", build)
    return made


def files(root: Path) -> list[str]:
    return sorted(path.name for path in root.glob("*.erofs"))


def test_an_image_is_built_once_whoever_asks(tmp_path: Path, tree: Path, builds: list[str]) -> None:
    root = tmp_path / "cache"
    seen: list[os.stat_result] = []

    def use() -> None:
        with SnapshotCache(root).image("key", str(tree)) as path:
            seen.append(os.stat(path))

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(seen) == 4 and len({info.st_ino for info in seen}) == 1
    assert builds == ["key"]
    assert {info.st_mode & 0o777 for info in seen} == {0o600} and root.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in (root / "work").iterdir()] == [".lock"]


def test_what_was_used_longest_ago_goes_but_not_what_is_in_use(tmp_path: Path, tree: Path) -> None:
    root = tmp_path / "cache"
    cache = SnapshotCache(root, limit=500_000)  # two fit
    with cache.image("old", str(tree)), cache.image("middle", str(tree)), cache.image("new", str(tree)):
        assert files(root) == ["middle.erofs", "new.erofs", "old.erofs"], "all three are in use"
    with cache.image("old", str(tree)):
        pass
    with cache.image("newest", str(tree)):
        assert files(root) == ["newest.erofs", "old.erofs"]


def test_half_an_image_is_built_again(tmp_path: Path, tree: Path, builds: list[str]) -> None:
    root = tmp_path / "cache"
    root.mkdir()
    (root / "key.erofs").write_bytes(bytes(4096))
    with SnapshotCache(root).image("key", str(tree)) as path:
        assert os.stat(path).st_size > 4096
    assert builds == ["key"]


def test_a_build_that_fails_leaves_nothing(tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(source: Path, target: Path, key: str) -> None:
        target.write_bytes(b"half")
        raise ImageError("no")

    monkeypatch.setattr(erofs, "build", fail)
    root = tmp_path / "cache"
    with pytest.raises(ImageError), SnapshotCache(root).image("key", str(tree)):
        pass
    assert files(root) == [] and [path.name for path in (root / "work").iterdir()] == [".lock"]


def test_an_image_of_a_tree_like_no_other_is_not_kept(tmp_path: Path, tree: Path) -> None:
    root = tmp_path / "cache"
    with SnapshotCache(root).image("", str(tree)) as path:
        assert os.path.exists(path)
    assert not os.path.exists(path) and files(root) == []


def test_layers_are_known_by_what_they_are(tmp_path: Path) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    for layer in (first, second):
        layer.mkdir()
    key = identity([str(first), str(second)])
    assert identity([str(first), str(second)]) == key != identity([str(second), str(first)])
    (first / "changed").touch()
    assert identity([str(first), str(second)]) != key


def entry(kind: str, source: str, *options: str) -> Any:
    return SimpleNamespace(type=kind, source=source, options=list(options))


def test_only_layers_that_never_change_have_a_key(tmp_path: Path) -> None:
    for name in ("lower", "upper"):
        (tmp_path / name).mkdir()
    lower, upper = f"lowerdir={tmp_path}/lower", f"upperdir={tmp_path}/upper"
    active = entry("overlay", "overlay", "index=off", "workdir=/w", upper, lower)
    assert snapshot_key([active]) == snapshot_key([entry("overlay", "overlay", lower)]) != ""
    (tmp_path / "upper" / "written").touch()
    assert snapshot_key([active]) == ""
    assert snapshot_key([entry("bind", str(tmp_path / "lower"), "rbind", "ro")]) != ""
    assert snapshot_key([entry("bind", str(tmp_path / "lower"), "rbind", "rw")]) == ""
    assert snapshot_key([]) == "" == snapshot_key([active, active])


def test_a_snapshot_that_is_a_disk(tmp_path: Path) -> None:
    (image := tmp_path / "image").touch()
    path = str(image)

    def of(*entries: Any) -> PluggedRootfs | None:
        return disk_rootfs(cast("Any", entries))

    assert of(entry("ext4", path, "loop", "rw", "discard")) == PluggedRootfs(
        path, "ext4", ("discard",), readonly=False, layered=False
    )
    assert of(entry("xfs", path, "loop", "ro")) == PluggedRootfs(path, "xfs", ("nouuid", "ro"), layered=False)
    assert of(entry("erofs", path, "loop")) == PluggedRootfs(path, "erofs", ("ro",))
    assert of(entry("ext4", path)) is None, "a file without a loop is no disk"
    assert of(entry("overlay", "overlay", "lowerdir=/a:/b")) is None
    assert of(entry("erofs", path, "loop"), entry("overlay", "overlay")) is None
