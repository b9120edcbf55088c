"""Images made to do harm, against the real umoci: each is refused or stays inside, and the host stays as it was."""

from __future__ import annotations

import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from kata.images import layers, unpack
from kata.images.errors import MalformedImageError
from kata.images.store import ImageStore
from tests.unit.images import crafted
from tests.unit.images.crafted import entry, tar

pytestmark = pytest.mark.root


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "store")


def names(path: Path) -> list[str]:
    """What an erofs file has, by fsck.erofs, a reader that is not the kernel's."""
    place = path.parent / "extracted"
    subprocess.run(["fsck.erofs", f"--extract={place}", str(path)], check=True, capture_output=True, timeout=60)
    found = sorted(str(file.relative_to(place)) for file in place.rglob("*"))
    subprocess.run(["rm", "-rf", str(place)], check=True, timeout=60)
    return found


@pytest.mark.parametrize(
    "entries",
    [
        [entry("../outside", b"x")],
        [entry("a/../../outside", b"x")],
        [entry("hard", type=tarfile.LNKTYPE, linkname="/etc/hostname")],
        [entry("hard", type=tarfile.LNKTYPE, linkname="../../../../../../../etc/hostname")],
        [entry("l", type=tarfile.SYMTYPE, linkname="/etc"), entry("h", type=tarfile.LNKTYPE, linkname="l/hostname")],
        [entry(".", type=tarfile.SYMTYPE, linkname="/etc"), entry("x", b"x")],
        [entry(".wh...", b"")],
        [entry(".wh..", b"")],
        [entry("/".join("d" * 300), b"")],
    ],
)
def test_refused(store: ImageStore, tmp_path: Path, entries: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    crafted.image(tmp_path / "l", tar(*entries))
    image = store.import_(str(tmp_path / "l"), "x")
    with pytest.raises(MalformedImageError):
        store.rootfs(image)
    assert [file.name for file in store.work.iterdir()] == [".lock"]
    assert not list(store.root.rglob("outside"))


def test_paths_stay_inside(store: ImageStore, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    canary.mkdir()
    crafted.image(
        tmp_path / "l",
        tar(
            entry(f"{canary}/absolute", b"x"),
            entry("link", type=tarfile.SYMTYPE, linkname=str(canary)),
            entry("link/through", b"x"),
            entry("up", type=tarfile.SYMTYPE, linkname="../../../../../.."),
        ),
        tar(entry("link/.wh..wh..opq", b""), entry(f"up{canary}/.wh.x", b"")),
    )
    (canary / "x").write_text("kept")
    with store.rootfs(store.import_(str(tmp_path / "l"), "x")) as rootfs:
        found = names(rootfs.path)
    assert os.listdir(canary) == ["x"]
    assert "link" in found
    assert "up" in found


def test_umoci_itself_keeps_paths_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The look through the layers comes first, but reads tar in its own way; so umoci is tried without it."""
    monkeypatch.setattr(layers, "_check_name", lambda name: None)
    crafted.image(tmp_path / "l", tar(entry("../../outside", b"x"), entry("a/../../../outside2", b"x")), ref=unpack.REF)
    store = ImageStore(tmp_path / "store")
    with store.rootfs(store.import_(str(tmp_path / "l"), "x")) as rootfs:
        assert names(rootfs.path) == ["outside", "outside2"]
    assert not list(tmp_path.rglob("outside*"))


def test_a_whiteout_of_the_parent_meets_nothing_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What umoci removes then is a directory made for that alone: a second line behind the name check."""
    monkeypatch.setattr(layers, "_check_name", lambda name: None)
    crafted.image(tmp_path / "l", tar(entry("a", b"x"), entry(".wh...", b"")))
    store = ImageStore(tmp_path / "store")
    image = store.import_(str(tmp_path / "l"), "x")
    kept = sorted(store.layout.rglob("*"))
    with pytest.raises(MalformedImageError):
        store.rootfs(image)
    assert sorted(store.layout.rglob("*")) == kept


def test_no_layers(store: ImageStore, tmp_path: Path) -> None:
    crafted.image(tmp_path / "l")
    image = store.import_(str(tmp_path / "l"), "x")
    with pytest.raises(MalformedImageError, match="no layers"):
        store.rootfs(image)


def test_an_empty_layer_is_an_empty_root(store: ImageStore, tmp_path: Path) -> None:
    crafted.image(tmp_path / "l", tar())
    with store.rootfs(store.import_(str(tmp_path / "l"), "x")) as rootfs:
        assert names(rootfs.path) == []
        assert (rootfs.passwd, rootfs.group) == ("", "")


@pytest.mark.parametrize(
    "entries",
    [
        [entry("etc/passwd", type=tarfile.SYMTYPE, linkname="/etc/shadow")],
        [entry("etc/passwd", type=tarfile.SYMTYPE, linkname="../../../../../../../../etc/passwd")],
        [entry("etc", type=tarfile.SYMTYPE, linkname="/etc")],
        [entry("etc", type=tarfile.SYMTYPE, linkname="/proc/self/root/etc")],
        [entry("etc/passwd", type=tarfile.SYMTYPE, linkname="passwd")],
        [entry("etc/passwd", type=tarfile.FIFOTYPE), entry("etc/group", type=tarfile.CHRTYPE, devmajor=1, devminor=5)],
        [entry("etc/passwd", type=tarfile.DIRTYPE, mode=0o755)],
        [entry("etc", b"a file")],
    ],
)
def test_users_are_the_images_own(
    store: ImageStore, tmp_path: Path, entries: list[tuple[tarfile.TarInfo, bytes]]
) -> None:
    crafted.image(tmp_path / "l", tar(*entries))
    with store.rootfs(store.import_(str(tmp_path / "l"), "x")) as rootfs:
        assert (rootfs.passwd, rootfs.group) == ("", "")


def test_a_huge_passwd(store: ImageStore, tmp_path: Path) -> None:
    crafted.image(tmp_path / "l", tar(entry("etc/passwd", b"x" * ((1 << 20) + 1))))
    image = store.import_(str(tmp_path / "l"), "x")
    with pytest.raises(MalformedImageError, match="/etc/passwd is larger than 1 MiB"):
        store.rootfs(image)


def test_undecodable_users(store: ImageStore, tmp_path: Path) -> None:
    crafted.image(tmp_path / "l", tar(entry("etc/passwd", b"\xff\xfe:x:1:1::/:\n")))
    image = store.import_(str(tmp_path / "l"), "x")
    for _ in range(2):  # built, then cached
        with store.rootfs(image) as rootfs:
            assert rootfs.passwd.encode() == rb"\xff\xfe:x:1:1::/:" + b"\n"


def test_a_layer_that_is_not_what_the_configuration_says(store: ImageStore, tmp_path: Path) -> None:
    crafted.image(tmp_path / "l", tar(entry("a")), rootfs={"type": "layers", "diff_ids": [f"sha256:{'0' * 64}"]})
    image = store.import_(str(tmp_path / "l"), "x")
    with pytest.raises(MalformedImageError, match="cannot be unpacked") as caught:
        store.rootfs(image)
    assert caught.value.detail
