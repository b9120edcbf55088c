"""Debian's kernel, taken out of a package that is made by hand."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from kata.kernel import asset, debian, initrd, packages
from kata.kernel.errors import PackageError
from tests.unit.kernel import crafted

KNOWN = [
    "linux-image-6.1.0-30-amd64",
    "linux-image-6.12.9+deb12-amd64",
    "linux-image-6.12.9+deb12-amd64-dbg",
    "linux-image-6.12.9+deb12-amd64-unsigned",
    "linux-image-6.12.9+deb12-cloud-amd64",
    "linux-image-6.12.9+deb12-rt-amd64",
    "linux-image-6.12.90+deb12-amd64",
]


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that holds the two packages, and an apt that knows them and cannot download."""
    monkeypatch.setenv("KATA_DATA_DIR", str(tmp_path / "data"))
    cache = packages.cache_dir("kernel")
    made = tmp_path / "made"
    made.mkdir()
    kernel = crafted.kernel_package(made)
    busybox = crafted.package(made, "busybox-static", {"bin/busybox": b"\x7fELF a shell"})
    for deb in (kernel, busybox):
        deb.rename(cache / deb.name)
    known = {kernel.name.partition("_")[0]: "6.12.9-1", "busybox-static": "1.0-1"}
    monkeypatch.setattr(packages, "candidate", lambda name: (name, known[name], "amd64"))
    monkeypatch.setattr(packages, "dependencies_of", lambda name: [f"linux-image-{crafted.RELEASE}"])
    monkeypatch.setattr(packages, "fetch", lambda *_: pytest.fail("nothing is to be downloaded"))
    return tmp_path


@pytest.mark.parametrize(
    ("version", "flavour", "found"),
    [
        ("6.12.9", "generic", "linux-image-6.12.9+deb12-amd64"),
        ("6.12.9", "cloud", "linux-image-6.12.9+deb12-cloud-amd64"),
        ("6.12.90", "generic", "linux-image-6.12.90+deb12-amd64"),
        ("6.12", "generic", "linux-image-6.12.90+deb12-amd64"),
    ],
)
def test_a_version_names_a_package(
    monkeypatch: pytest.MonkeyPatch, version: str, flavour: debian.Flavour, found: str
) -> None:
    monkeypatch.setattr(packages, "names", lambda prefix: [name for name in KNOWN if name.startswith(prefix)])
    assert debian.find(version, flavour, lambda _: None) == found


def test_a_kernel_that_is_too_old_is_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    updates: list[str] = []
    monkeypatch.setattr(packages, "dependencies_of", lambda _: ["linux-image-6.1.0-30-amd64"])
    monkeypatch.setattr(packages, "update", lambda _: updates.append("update"))
    with pytest.raises(PackageError, match="no kernel package"):
        debian.find(None, "generic", lambda _: None)
    assert updates == ["update"]


def test_kernel_initrd_and_manifests(apt: Path) -> None:
    manifest = debian.fetch(apt / "out", lambda _: None)
    assert (apt / "out/vmlinuz").read_bytes() == b"a kernel" * 100
    assert manifest.release == crafted.RELEASE
    assert manifest.modules_at_boot == ("virtio_blk", "crc32c_generic", "libcrc32c", "erofs", "overlay")
    assert manifest.modules_on_demand == (
        *("9p", "9pnet", "9pnet_virtio", "failover", "net_failover", "virtio-rng", "virtio_net"),
    )
    assert manifest.modules_built_in == ("virtio_console", "virtiofs")
    for name in ("vmlinuz", "initrd.img"):
        said = asset.read_manifest(apt / "out" / name)
        assert said is not None
        assert said.sha256 == asset.hash_file(apt / "out" / name)


def test_the_initrd_holds_what_is_loaded_and_how(apt: Path) -> None:
    debian.fetch(apt / "out", lambda _: None)
    plain = subprocess.run(["zstd", "-dc", str(apt / "out/initrd.img")], capture_output=True, check=True, timeout=30)
    tree = apt / "tree"
    tree.mkdir()
    subprocess.run(
        ["cpio", "-id", "--quiet", "--no-preserve-owner", "-f", "dev/console"],
        input=plain.stdout,
        cwd=tree,
        check=True,
        timeout=30,
    )
    assert (tree / "boot-modules/order").read_text().split() == [
        *("virtio_blk", "crc32c_generic", "libcrc32c", "erofs", "overlay")
    ]
    assert (tree / "modules/virtio.map").read_text().splitlines() == [
        "0x0001 failover net_failover virtio_net",
        "0x0004 virtio-rng",
        "0x0009 9pnet 9pnet_virtio 9p",
    ]
    manifest = asset.read_manifest(apt / "out/initrd.img")
    assert manifest is not None
    assert (tree / "modules/modules.builtin").read_text().split() == list(manifest.modules_built_in)
    needs = (tree / "modules/modules.needs").read_text().splitlines()
    assert "virtio_net: failover net_failover virtio_net" in needs
    for order, folder in ((("erofs", "libcrc32c"), "boot-modules"), (("failover", "virtio-rng"), "modules")):
        for name in order:
            assert (tree / folder / f"{name}.ko").read_bytes().startswith(b"\x7fELF")
    assert (tree / "bin/sh").resolve() == tree / "bin/busybox"
    subprocess.run(["sh", "-n", str(tree / "init")], check=True, timeout=30)


def test_the_same_packages_give_the_same_bytes(apt: Path) -> None:
    for out in ("one", "another"):
        debian.fetch(apt / out, lambda _: None)
    for name in ("vmlinuz", "initrd.img", "vmlinuz.json", "initrd.img.json"):
        assert (apt / "one" / name).read_bytes() == (apt / "another" / name).read_bytes()


def test_a_second_fetch_writes_nothing(apt: Path) -> None:
    debian.fetch(apt / "out", lambda _: None)
    before = {path: path.stat().st_mtime_ns for path in (apt / "out").iterdir()}
    said: list[str] = []
    debian.fetch(apt / "out", said.append)
    assert {path: path.stat().st_mtime_ns for path in (apt / "out").iterdir()} == before
    assert any("already" in line for line in said)


def test_other_lists_renew_the_initrd_of_the_same_kernel(apt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = debian.fetch(apt / "out", lambda _: None)
    asked: list[str] = []

    def names(prefix: str) -> list[str]:
        asked.append(prefix)
        return [f"linux-image-{crafted.RELEASE}"]

    monkeypatch.setattr(packages, "names", names)
    monkeypatch.setattr(initrd, "ON_DEMAND", ("one_more",))
    after = debian.renew(apt / "out", lambda _: None)
    assert (after.release, after.sha256) == (before.release, before.sha256)
    assert after.inputs != before.inputs
    assert set(asked) == {f"linux-image-{crafted.RELEASE.removesuffix('-amd64')}"}


def test_a_kernel_that_apt_has_no_more_gives_way_to_the_newest(apt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    debian.fetch(apt / "out", lambda _: None)
    monkeypatch.setattr(packages, "names", lambda prefix: [])
    monkeypatch.setattr(initrd, "ON_DEMAND", ("one_more",))
    assert debian.renew(apt / "out", lambda _: None).release == crafted.RELEASE


def test_a_package_without_a_kernel_is_told(tmp_path: Path) -> None:
    deb = crafted.package(tmp_path, "linux-image-empty", {"usr/share/x": b"nothing"})
    with pytest.raises(PackageError, match="no kernel"):
        debian.read(deb)
