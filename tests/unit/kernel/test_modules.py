"""Which modules a guest gets, and in which order they are loaded."""

from __future__ import annotations

import gzip
import lzma
import subprocess
from pathlib import Path

import pytest

from kata.kernel import modules
from tests.unit.kernel.crafted import MODULES, module

AVAILABLE = {path.rpartition("/")[2]: code for path, code in MODULES.items()}


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("./lib/modules/6/kernel/fs/erofs/erofs.ko.xz", "erofs"),
        ("kernel/drivers/char/hw_random/virtio-rng.ko", "virtio-rng"),
        ("kernel/x.ko.gz", "x"),
        ("lib/modules/6/modules.builtin", None),
        ("boot/vmlinuz-6.12", None),
        ("lib/x.ko.unknown", None),
    ],
)
def test_names_of_module_files(path: str, name: str | None) -> None:
    assert modules.name_of(path) == name


def test_every_compression_gives_the_object() -> None:
    code = module(name="a")
    packed = {"a.ko": code, "a.ko.xz": lzma.compress(code), "a.ko.gz": gzip.compress(code)}
    assert {modules.decompress(path, data) for path, data in packed.items()} == {code}


def test_information_agrees_with_modinfo(tmp_path: Path) -> None:
    code = module(name="virtio_net", depends="net_failover,failover", license="GPL")
    (tmp_path / "virtio_net.ko").write_bytes(code)
    for key, value in modules.information(code).items():
        said = subprocess.run(
            ["/sbin/modinfo", "-F", key, str(tmp_path / "virtio_net.ko")], capture_output=True, check=True, timeout=30
        )
        assert said.stdout.decode().strip() == value
    assert modules.needed_by(code) == ["net_failover", "failover"]


def test_what_is_loaded_at_boot_comes_after_what_it_needs() -> None:
    chosen = modules.select(AVAILABLE, ())
    order = chosen.at_boot
    assert set(order) == {"virtio_blk", "crc32c_generic", "libcrc32c", "erofs", "overlay"}
    assert order.index("crc32c_generic") < order.index("libcrc32c") < order.index("erofs")


def test_a_module_on_demand_names_all_it_needs_in_order() -> None:
    chosen = modules.select(AVAILABLE, ("virtio_console", "virtiofs", "something_else"))
    assert chosen.needs["virtio_net"] == ("failover", "net_failover", "virtio_net")
    assert chosen.needs["virtio-rng"] == ("virtio-rng",)
    assert "sd_mod" not in chosen.needs
    assert "unrelated" not in chosen.code
    assert chosen.built_in == ("virtio_console", "virtiofs")


def test_what_was_loaded_at_boot_is_not_loaded_again() -> None:
    available = {**AVAILABLE, "ext4": module(name="ext4", depends="libcrc32c")}
    assert modules.select(available, ()).needs["ext4"] == ("ext4",)


def test_a_circle_of_needs_ends() -> None:
    available = {"virtio_net": module(depends="9p"), "9p": module(depends="virtio_net")}
    assert modules.select(available, ()).needs["virtio_net"] == ("9p", "virtio_net")
