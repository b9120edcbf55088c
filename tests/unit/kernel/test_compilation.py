"""What a kernel build checks before it takes its minutes, and which source files it unpacks."""

from __future__ import annotations

import io
import lzma
import tarfile
from pathlib import Path

import pytest

from kata.kernel import compilation, source
from kata.kernel.errors import PackageError, ToolError
from kata.linux import process
from tests.unit.kernel.crafted import package


def test_missing_tools_are_named_with_the_line_to_install_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "PATH", "/nonexistent")
    monkeypatch.setattr(compilation, "HEADER_FOLDERS", (Path("/nonexistent"),))
    with pytest.raises(ToolError) as caught:
        compilation.check_tools()
    assert caught.value.hint.startswith("apt-get install ")
    for name in ("gcc", "flex", "bison", "make", "libelf-dev", "libssl-dev"):
        assert name in caught.value.hint.split()


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("Makefile", True),
        ("kernel/fork.c", True),
        ("arch/x86/kernel/setup.c", True),
        ("arch/arm64/kernel/setup.c", False),
        ("arch/arm64/Kconfig", True),
        ("drivers/gpu/drm/i915/i915.c", False),
        ("drivers/gpu/drm/Kconfig", True),
        ("drivers/net/virtio_net.c", True),
        ("drivers/net/ethernet/intel/e1000/Makefile", True),
        ("drivers/net/ethernet/intel/e1000/e1000.c", False),
        ("tools/objtool/check.c", True),
        ("tools/perf/perf.c", False),
        ("Documentation/Kconfig", True),
        ("Documentation/index.rst", False),
    ],
)
def test_what_is_unpacked(path: str, wanted: bool) -> None:
    assert source.is_wanted(path) is wanted


def source_package(folder: Path, names: list[str]) -> Path:
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w") as tar:
        for name in names:
            entry = tarfile.TarInfo(name)
            entry.size = 2
            tar.addfile(entry, io.BytesIO(b"ok"))
    archive = "usr/src/linux-source-6.12.tar.xz"
    return package(folder, "linux-source-6.12", {archive: lzma.compress(inner.getvalue())})


def test_the_source_is_unpacked_without_its_ballast(tmp_path: Path) -> None:
    top = "linux-source-6.12"
    names = [f"{top}/Makefile", f"{top}/kernel/a.c", f"{top}/sound/b.c", f"{top}/sound/Kconfig"]
    tree = source.unpack(source_package(tmp_path, names), tmp_path)
    assert sorted(str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file()) == [
        *("Makefile", "kernel/a.c", "sound/Kconfig")
    ]


def test_a_path_that_leaves_the_tree_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="holds the path"):
        source.unpack(source_package(tmp_path, ["linux/../../Makefile"]), tmp_path)


def test_a_package_without_a_source_is_told(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="no kernel source"):
        source.unpack(package(tmp_path, "linux-source-6.12", {"usr/src/readme": b"x"}), tmp_path)
