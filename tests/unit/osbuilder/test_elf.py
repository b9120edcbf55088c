"""ELF headers; readelf is the judge."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kata.osbuilder import elf
from kata.osbuilder.recipe import protobuf_root

LIBRARY = protobuf_root() / "google/_upb/_message.abi3.so"
FILES = [Path("/usr/bin/python3.11"), Path("/usr/bin/crun"), LIBRARY, Path("/bin/busybox")]


def readelf(path: Path) -> tuple[str, ...]:
    said = subprocess.run(["readelf", "-d", str(path)], capture_output=True, check=True, timeout=30).stdout.decode()
    return tuple(re.findall(r"\(NEEDED\).*\[(.+)\]", said))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_needs_agree_with_readelf(path: Path) -> None:
    needs = elf.read_needs(path.read_bytes())
    assert needs.libraries == readelf(path)
    assert needs.interpreter in ("", "/lib64/ld-linux-x86-64.so.2")


def test_a_program_names_its_interpreter_and_a_library_does_not() -> None:
    assert elf.read_needs(Path("/usr/bin/python3.11").read_bytes()).interpreter == "/lib64/ld-linux-x86-64.so.2"
    assert elf.read_needs(LIBRARY.read_bytes()).interpreter == ""


def test_a_need_is_dropped_and_the_rest_stays(tmp_path: Path) -> None:
    before = LIBRARY.read_bytes()
    after = elf.drop_need(before, "libstdc++.so.6")
    assert len(after) == len(before)
    place = tmp_path / LIBRARY.name
    place.write_bytes(after)
    assert readelf(place) == tuple(name for name in readelf(LIBRARY) if name != "libstdc++.so.6")
    assert "libstdc++.so.6" in readelf(LIBRARY), "nothing was there to drop"
    subprocess.run(["readelf", "-aW", str(place)], check=True, stdout=subprocess.DEVNULL, timeout=30)


def test_the_library_loads_without_its_dropped_need(tmp_path: Path) -> None:
    root = tmp_path / "google"
    shutil.copytree(protobuf_root() / "google", root, ignore=shutil.ignore_patterns("__pycache__"))
    place = root / "_upb" / LIBRARY.name
    place.write_bytes(elf.drop_need(LIBRARY.read_bytes(), "libstdc++.so.6"))
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from google._upb import _message\n"
        f"assert _message.__file__ == {str(place)!r}, _message.__file__\n"
        "_message.DescriptorPool()\n"
        "maps = open('/proc/self/maps').read()\n"
        "assert 'libstdc++' not in maps\n"
    )
    subprocess.run([sys.executable, "-S", "-I", "-c", code], check=True, timeout=60)


def test_dropping_what_is_not_needed_changes_nothing() -> None:
    data = LIBRARY.read_bytes()
    assert elf.drop_need(data, "libnothing.so") == data


@pytest.mark.parametrize("data", [b"", b"#!/bin/sh\n", b"\x7fELF\x01\x01"])
def test_other_files_are_no_elf(data: bytes) -> None:
    assert not elf.is_elf(data)


def test_a_program_runs_without_a_library_that_it_has_versions_of(tmp_path: Path) -> None:
    place = tmp_path / "crun"
    place.write_bytes(elf.drop_need(Path("/usr/bin/crun").read_bytes(), "libsystemd.so.0"))
    place.chmod(0o755)
    assert "libsystemd.so.0" in readelf(Path("/usr/bin/crun")), "nothing was there to drop"
    assert readelf(place) == tuple(name for name in readelf(Path("/usr/bin/crun")) if name != "libsystemd.so.0")
    said = subprocess.run([place, "--version"], capture_output=True, check=True, timeout=30)
    assert said.stdout.startswith(b"crun version")
    symbols = subprocess.run(["readelf", "--dyn-syms", "-W", place], capture_output=True, check=True, timeout=30)
    assert re.search(rb"FUNC +WEAK +DEFAULT +UND sd_notify$", symbols.stdout, re.MULTILINE)
    assert re.search(rb"FUNC +GLOBAL +DEFAULT +UND read@GLIBC", symbols.stdout)
    assert symbols.stderr == b""


@pytest.mark.parametrize("soname", ["libc.so.6", "libm.so.6"])
def test_versions_go_from_the_middle_and_the_end_of_their_chain(soname: str, tmp_path: Path) -> None:
    place = tmp_path / "python"
    original = Path("/usr/bin/python3.11").read_bytes()
    place.write_bytes(elf.drop_need(original, soname))
    others = {found for found in wanted_of(Path("/usr/bin/python3.11")) if found != soname}
    assert soname in wanted_of(Path("/usr/bin/python3.11")), "nothing was there to drop"
    assert set(wanted_of(place)) == others


def wanted_of(path: Path) -> list[str]:
    said = subprocess.run(["readelf", "-VW", path], capture_output=True, check=True, timeout=30).stdout.decode()
    return re.findall(r"Version: 1  File: (\S+)", said)
