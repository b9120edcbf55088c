"""The hash by which a stale image is known."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest

import kata
from kata.osbuilder import recipe as recipes
from kata.osbuilder.recipe import Recipe, decode, encode, input_hash

SOURCE = Path(kata.__file__).parent


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for name in recipes.AGENT_FILES:
        (tmp_path / name).write_bytes((SOURCE / name).read_bytes())
    for room in recipes.AGENT_ROOMS:
        shutil.copytree(SOURCE / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_where_the_sources_are_does_not_matter(source: Path) -> None:
    assert input_hash(Recipe(source=str(source))) == input_hash(Recipe())


@pytest.mark.parametrize("change", ["edit", "add", "remove"])
def test_a_change_of_the_agent_changes_the_hash(source: Path, change: str) -> None:
    before = input_hash(Recipe(source=str(source)))
    file = source / "agent/errors.py"
    match change:
        case "edit":
            file.write_text(file.read_text() + "\n")
        case "add":
            (source / "agent/new.py").touch()
        case _:
            file.unlink()
    assert input_hash(Recipe(source=str(source))) != before


def test_what_no_guest_gets_does_not_change_the_hash(source: Path) -> None:
    before = input_hash(Recipe(source=str(source)))
    (source / "protocol/generated/x.pyi").touch()
    (source / "agent/__pycache__").mkdir(exist_ok=True)
    (source / "agent/__pycache__/x.pyc").touch()
    assert input_hash(Recipe(source=str(source))) == before


@pytest.mark.parametrize(
    "other",
    [Recipe(kind="initrd"), Recipe(debug=True), Recipe(packages=("x",)), Recipe(extra_packages=("x",))],
    ids=str,
)
def test_another_recipe_has_another_hash(other: Recipe) -> None:
    assert input_hash(other) != input_hash(Recipe())


def test_a_recipe_survives_its_manifest() -> None:
    recipe = Recipe(kind="initrd", packages=("a", "b"), debug=True)
    assert decode(encode(recipe)) == recipe
    assert str(SOURCE) not in encode(recipe)
    with pytest.raises(msgspec.DecodeError):
        decode("")


def test_the_guest_gets_the_agent_and_nothing_of_the_host() -> None:
    names = {name for name, _ in recipes.agent_sources(SOURCE)}
    assert {"__init__.py", "agent/__main__.py", "protocol/messages.py", "protocol/generated/kata.binpb"} <= names
    assert not {name for name in names if name.split("/")[0] in ("ctl", "hypervisor", "osbuilder", "sandbox")}
    assert not {name for name in names if name.endswith((".pyc", ".pyi", ".proto"))}


def test_seeds_are_asked_for_once() -> None:
    seed = Recipe(packages=("crun", "kmod"), extra_packages=("kmod",), debug=True).seed()
    assert len(seed) == len(set(seed))
    assert {"crun", "kmod", "busybox-static", "python3.11-minimal"} <= set(seed)
