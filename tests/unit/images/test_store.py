"""The store against real skopeo: what goes in is what comes out, under any order of readers and writers."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import lzma
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from kata.images import layout
from kata.images.errors import (
    ImageError,
    ImageNotFoundError,
    InvalidNameError,
    MalformedImageError,
)
from kata.images.store import ImageStore
from tests.unit.images import crafted
from tests.unit.images.crafted import entry, tar


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "store")


def blobs(store: ImageStore) -> set[str]:
    place = store.layout / "blobs" / "sha256"
    return {file.name for file in place.iterdir()} if place.exists() else set()


def scratch(store: ImageStore) -> list[str]:
    return [file.name for file in store.work.iterdir() if file.name != ".lock"] if store.work.exists() else []


def digest(*arguments: str) -> str:
    return str(json.loads(crafted.skopeo("inspect", *arguments))["Digest"])


def test_an_empty_store(store: ImageStore) -> None:
    assert store.list() == []
    for act in (store.get, store.remove):
        with pytest.raises(ImageNotFoundError):
            act("x")
    with pytest.raises(ImageNotFoundError):
        store.export("x", store.root / "x")


@pytest.mark.parametrize("compress", ["gzip", ""])
def test_a_layout_keeps_its_digest(store: ImageStore, tmp_path: Path, compress: str) -> None:
    expected = crafted.small(tmp_path / "l", compress=compress)
    image = store.import_(f"oci:{tmp_path / 'l'}:x", "some")
    assert (image.name, image.digest) == ("some:latest", expected)
    assert store.get("some") == store.get(expected) == store.get(expected[7:20]) == image
    assert digest(f"oci:{store.layout}:some:latest") == expected
    assert store.inspect(image).cmd == ("sh",)
    assert scratch(store) == []


@pytest.mark.parametrize("kind", ["oci-archive", "docker-archive", "dir"])
def test_other_kinds(store: ImageStore, tmp_path: Path, kind: str) -> None:
    crafted.small(tmp_path / "l")
    target = tmp_path / "copy"
    crafted.skopeo(
        "copy", "-q", f"oci:{tmp_path / 'l'}:x", f"{kind}:{target}" + ("" if kind == "dir" else ":org/app:v1")
    )
    image = store.import_(str(target))
    assert image.name == ("copy:latest" if kind == "dir" else "org/app:v1")
    assert store.inspect(image).env == ("A=b",)


@pytest.mark.parametrize("kind", ["oci-archive", "docker-archive"])
def test_compressed_archives(store: ImageStore, tmp_path: Path, kind: str) -> None:
    crafted.small(tmp_path / "l")
    crafted.skopeo("copy", "-q", f"oci:{tmp_path / 'l'}:x", f"{kind}:{tmp_path / 'a.tar'}:a:1")
    for name, compress in (("b.tar.gz", gzip.compress), ("b.tar.xz", lzma.compress), ("b.tar.bz2", bz2.compress)):
        (tmp_path / name).write_bytes(compress((tmp_path / "a.tar").read_bytes()))
        assert store.import_(str(tmp_path / name)).name == "a:1"


def test_zstd_layers_become_gzip(store: ImageStore, tmp_path: Path) -> None:
    crafted.small(tmp_path / "l", compress="zstd")
    image = store.import_(str(tmp_path / "l"), "z")
    manifest = json.loads((store.layout / "blobs" / "sha256" / image.digest[7:]).read_text())
    assert [layer["mediaType"] for layer in manifest["layers"]] == [f"{crafted.LAYER}+gzip"]


def test_export_is_read_by_skopeo(store: ImageStore, tmp_path: Path) -> None:
    expected = crafted.small(tmp_path / "l")
    store.import_(str(tmp_path / "l"), "some:1")
    for name in ("a.tar", "b.tar"):
        store.export("some:1", tmp_path / name)
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    assert digest(f"oci-archive:{tmp_path / 'a.tar'}") == expected
    assert digest(f"oci-archive:{tmp_path / 'a.tar'}:some:1") == expected
    store.remove("some:1")
    assert blobs(store) == set()
    assert store.import_(str(tmp_path / "a.tar")).name == "some:1"


def test_export_places(store: ImageStore, tmp_path: Path) -> None:
    crafted.small(tmp_path / "l")
    store.import_(str(tmp_path / "l"), "x")
    for target in (tmp_path, tmp_path / "none" / "x", Path("/dev/null")):
        with pytest.raises(ImageError):
            store.export("x", target)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["l", "store"]


def test_blobs_are_shared_and_go_with_the_last(store: ImageStore, tmp_path: Path) -> None:
    base = tar(entry("base", b"x" * 100))
    crafted.image(tmp_path / "1", base)
    crafted.image(tmp_path / "2", base, tar(entry("more", b"y")))
    one = store.import_(str(tmp_path / "1"), "one")
    alone = blobs(store)
    store.import_(str(tmp_path / "2"), "two")
    store.import_(str(tmp_path / "1"), "uno")
    assert len(blobs(store)) == len(alone) + 3
    store.remove("two")
    store.remove("one")
    assert blobs(store) == alone
    assert [image.name for image in store.list()] == ["uno:latest"]
    store.remove(one.digest)
    assert (store.list(), blobs(store)) == ([], set())


def test_a_name_moves(store: ImageStore, tmp_path: Path) -> None:
    crafted.image(tmp_path / "1", tar(entry("a")))
    second = crafted.image(tmp_path / "2", tar(entry("b")))
    for name in ("1", "2"):
        store.import_(str(tmp_path / name), "x")
    assert [image.digest for image in store.list()] == [second]
    assert len(blobs(store)) == 3


def test_resolve_takes_the_store_first(store: ImageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    crafted.image(tmp_path / "thing", tar(entry("a")))
    other = crafted.image(tmp_path / "other", tar(entry("b")))
    store.import_(str(tmp_path / "other"), "thing")
    assert store.resolve("thing").digest == store.resolve("docker://thing").digest == other
    assert store.resolve("./thing").digest != other


def test_a_file_that_is_run_takes_no_name(store: ImageStore, tmp_path: Path) -> None:
    expected = crafted.small(tmp_path / "l", ref="busybox:latest")
    for _ in range(2):
        assert store.resolve(str(tmp_path / "l")).digest == expected
    assert [(image.name, image.digest) for image in store.list()] == [("", expected)]
    assert store.import_(str(tmp_path / "l")).name == "busybox:latest"


def test_unknown_everywhere(store: ImageStore) -> None:
    with pytest.raises(ImageNotFoundError, match=r"127\.0\.0\.1:1.*not in the local store") as caught:
        store.resolve("127.0.0.1:1/no/image")
    assert "connection refused" in caught.value.detail
    assert "import" in caught.value.hint
    assert scratch(store) == []


def test_a_reference_is_never_an_option(store: ImageStore) -> None:
    for reference in ("--help", "-f", "--policy=/dev/null", "docker://--help", "x --help"):
        with pytest.raises(InvalidNameError):
            store.resolve(reference)


def test_a_directory_becomes_a_layer(store: ImageStore, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc" / "passwd").write_bytes(crafted.PASSWD)
    first = store.import_(str(tree), "t")
    assert store.import_(str(tree), "again").digest == first.digest
    assert store.inspect(first).cmd == ("/bin/sh",)
    assert digest(f"oci:{store.layout}:t:latest") == first.digest
    assert store.resolve(str(tree)).directory == str(tree)


def test_directories_that_cannot_be(store: ImageStore, tmp_path: Path) -> None:
    store.root.mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("/")
    for path in ("/", str(tmp_path / "link"), str(tmp_path), str(tmp_path / "empty"), "rootfs:/nowhere", "/proc/.."):
        for act in (store.resolve, lambda path: store.import_(path, "x")):
            with pytest.raises(ImageError):
                act(path)
    assert store.list() == []


def break_index(place: Path) -> None:
    (place / "index.json").write_text("{}")


def break_layer(place: Path) -> None:
    largest = max((place / "blobs" / "sha256").iterdir(), key=lambda file: file.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-1] + b"?")


def drop_layer(place: Path) -> None:
    max((place / "blobs" / "sha256").iterdir(), key=lambda file: file.stat().st_size).unlink()


def link_index(place: Path) -> None:
    (place / "index.json").unlink()
    (place / "index.json").symlink_to("/etc/passwd")


def fill_index(place: Path) -> None:
    (place / "index.json").write_text('{"manifests":[' + " " * (5 << 20) + "]}")


def escape_digest(place: Path) -> None:
    index = json.loads((place / "index.json").read_text())
    index["manifests"][0]["digest"] = "sha256:../../../../../../../../etc/passwd"
    (place / "index.json").write_text(json.dumps(index))


def change_config_type(place: Path) -> None:
    config = hashlib.sha256(b"{}").hexdigest()
    (place / "blobs" / "sha256" / config).write_bytes(b"{}")
    described = {"mediaType": "application/vnd.cncf.helm.config.v1+json", "digest": f"sha256:{config}", "size": 2}
    crafted.entry_point(place, json.dumps({"schemaVersion": 2, "config": described, "layers": []}).encode())


BREAKERS = (break_index, break_layer, drop_layer, link_index, fill_index, escape_digest, change_config_type)


@pytest.mark.parametrize("change", BREAKERS)
def test_broken_layouts_leave_nothing(store: ImageStore, tmp_path: Path, change: Callable[[Path], None]) -> None:
    layer = tar(entry("big", bytes(range(256)) * 40))
    crafted.image(tmp_path / "l", layer, compress="")
    change(tmp_path / "l")
    with pytest.raises(ImageError):
        store.import_(str(tmp_path / "l"), "x")
    assert (store.list(), blobs(store), scratch(store)) == ([], set(), [])


@pytest.mark.parametrize(
    "changes", [{"config": {"Env": ["x"]}}, {"rootfs": {"type": "layers", "diff_ids": []}}, {"os": 1}]
)
def test_broken_configurations(store: ImageStore, tmp_path: Path, changes: dict[str, object]) -> None:
    crafted.small(tmp_path / "l", **changes)
    with pytest.raises(ImageError):
        store.import_(str(tmp_path / "l"), "x")
    assert blobs(store) == set()


def test_too_many_layers(store: ImageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "MAX_LAYERS", 2)
    crafted.image(tmp_path / "l", *(tar(entry("a")) for _ in range(3)))
    with pytest.raises(MalformedImageError, match="has 3 layers; 2 are accepted"):
        store.import_(str(tmp_path / "l"), "x")


def test_readers_and_writers_at_once(store: ImageStore, tmp_path: Path) -> None:
    """Two import the same image, one removes it, one reads: every answer is a whole image or none."""
    crafted.small(tmp_path / "l")
    expected = store.import_(str(tmp_path / "l"), "x")
    faults: list[BaseException] = []

    def often(act: Callable[[], object]) -> None:
        for _ in range(8):
            try:
                act()
            except ImageNotFoundError:
                pass
            except BaseException as error:  # noqa: BLE001 - shown by the assertion below
                faults.append(error)

    def read() -> None:
        for _ in range(20):
            assert store.list() in ([], [expected])
            assert store.get("x") == expected

    def load() -> None:
        store.import_(str(tmp_path / "l"), "x")

    acts: list[Callable[[], object]] = [load, load, lambda: store.remove("x"), read]
    threads = [threading.Thread(target=often, args=(act,)) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert faults == []
    load()
    assert store.get("x") == expected
    assert len(blobs(store)) == 3
    assert scratch(store) == []


def test_a_colon_in_the_path(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="colon"):
        ImageStore(tmp_path / "a:b")
