"""Assets are made when they are missing or stale, and nothing at all happens when they are not."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from kata import kernel
from kata.kernel import asset, initrd
from kata.kernel.asset import Manifest, Package
from kata.kernel.errors import AssetError
from kata.linux import process
from kata.osbuilder import assets, image
from kata.osbuilder.recipe import Recipe, encode, input_hash


def put(folder: Path, name: str, **fields: object) -> None:
    data = name.encode()
    with asset.workspace(folder, "test") as work:
        (work / name).write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        manifest = Manifest(name=name, sha256=digest, size=len(data), **fields)  # type: ignore[arg-type]
        asset.publish(work / name, folder / name, manifest)


def put_kernel(folder: Path, inputs: str | None = None) -> None:
    used = (Package("busybox-static", "1", "a"), Package("linux-image-6.12.9-amd64", "1", "b"))
    inputs = inputs or initrd.input_hash(used)
    put(folder, assets.KERNEL, inputs=inputs, packages=used[1:])
    put(folder, assets.INITRD, inputs=inputs, packages=used)


def put_image(folder: Path, recipe: Recipe, inputs: str | None = None) -> None:
    put(folder, assets.IMAGE, inputs=inputs or input_hash(recipe), recipe=encode(recipe))


Made = list[object]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KATA_DATA_DIR", str(tmp_path))
    return tmp_path / "assets"


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Made:
    """What was fetched and built; no program is run."""
    done: Made = []

    def fetch(output: Path, progress: Callable[[str], None]) -> None:
        done.append("kernel")
        put_kernel(output)

    def renew(output: Path, progress: Callable[[str], None]) -> None:
        done.append("initrd")
        put_kernel(output)

    def build(recipe: Recipe, output: Path, progress: Callable[[str], None]) -> None:
        done.append(recipe)
        put_image(output, recipe)

    monkeypatch.setattr(kernel, "fetch", fetch)
    monkeypatch.setattr(kernel, "renew", renew)
    monkeypatch.setattr(image, "build_image", build)
    monkeypatch.setattr(process, "spawn", lambda *_, **__: pytest.fail("no program is to be run"))
    return done


def test_everything_is_made_once(folder: Path, made: Made) -> None:
    first = assets.ensure_assets(lambda _: None)
    assert made == ["kernel", Recipe()]
    assert first == assets.ensure_assets(lambda _: None)
    assert made == ["kernel", Recipe()]
    assert first == assets.Assets(
        str(folder / "vmlinuz"), str(folder / "initrd.img"), str(folder / "kata-containers.img")
    )


def test_a_stale_initrd_is_made_anew(folder: Path, made: Made) -> None:
    put_kernel(folder, "of an older list of modules")
    put_image(folder, Recipe())
    assets.ensure_assets(lambda _: None)
    assert made == ["initrd"]


def test_a_change_of_the_module_lists_makes_an_initrd_stale(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_kernel(folder)
    assert assets.has_fresh_initrd(folder)
    monkeypatch.setattr(initrd, "ON_DEMAND", ("one_more",))
    assert not assets.has_fresh_initrd(folder)


def test_a_stale_image_is_built_by_its_own_recipe(folder: Path, made: Made) -> None:
    put_kernel(folder)
    put_image(folder, Recipe(debug=True), "of an older agent")
    assets.ensure_assets(lambda _: None)
    assert made == [Recipe(debug=True)]


def test_a_fresh_image_by_another_recipe_stays(folder: Path, made: Made) -> None:
    put_kernel(folder)
    put_image(folder, Recipe(extra_packages=("kmod",)))
    assets.ensure_assets(lambda _: None)
    assert made == []


def test_a_kernel_of_our_own_needs_no_initrd(folder: Path, made: Made) -> None:
    put(folder, assets.KERNEL, options=("CONFIG_X=y",))
    put_image(folder, Recipe())
    assert assets.ensure_assets(lambda _: None).initrd is None
    (folder / assets.INITRD).write_bytes(b"left by a build that was killed")
    assert assets.ensure_assets(lambda _: None).initrd is None
    assert made == []


@pytest.mark.parametrize("damage", ["no initrd", "other initrd", "truncated"])
def test_a_kernel_that_is_not_whole_is_fetched(folder: Path, made: Made, damage: str) -> None:
    put_kernel(folder)
    put_image(folder, Recipe())
    match damage:
        case "no initrd":
            (folder / assets.INITRD).unlink()
        case "other initrd":
            put(folder, assets.INITRD, inputs="of another kernel")
        case _:
            (folder / assets.KERNEL).write_bytes(b"")
    assets.ensure_assets(lambda _: None)
    assert made == ["kernel"]


def test_missing_assets_are_told(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match="is missing"):
        assets.present(tmp_path)
