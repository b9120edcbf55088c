"""How large what a guest boots from may be. Raise a limit only together with the reason in docs/performance.md."""

from __future__ import annotations

import pytest

from kata import paths
from kata.kernel.asset import read_manifest
from kata.osbuilder.assets import IMAGE, INITRD, KERNEL, ensure_assets
from kata.osbuilder.recipe import Recipe, encode

LIMITS = {IMAGE: 7_500_000, INITRD: 2_500_000}
"""Bytes. With Debian's kernel (12.1 MB) the image stays under 20 MB. What is above today's size is room for growth of
the agent and of Debian's packages."""


@pytest.fixture(scope="module")
def _assets() -> None:
    ensure_assets(print)


@pytest.mark.usefixtures("_assets")
@pytest.mark.parametrize("name", LIMITS)
def test_sizes(name: str) -> None:
    kernel, manifest = (read_manifest(paths.assets_dir() / found) for found in (KERNEL, name))
    assert kernel is not None
    if name == INITRD and kernel.options:
        pytest.skip("a kernel of our own needs no initrd")
    assert manifest is not None
    if name == IMAGE and manifest.recipe != encode(Recipe()):
        pytest.skip("an image with extra packages is as large as they are")
    print(f"{name}: {manifest.size} bytes")
    assert manifest.size <= LIMITS[name]


@pytest.mark.usefixtures("_assets")
def test_no_library_that_only_systemd_needs() -> None:
    manifest = read_manifest(paths.assets_dir() / IMAGE)
    assert manifest is not None
    if manifest.recipe == encode(Recipe()):
        names = {file.path.rpartition("/")[2].partition(".so")[0] for file in manifest.files}
        assert not names & {"libsystemd", "libgcrypt", "liblzma", "liblz4", "libzstd", "libgpg-error"}
        assert "libseccomp" in names
