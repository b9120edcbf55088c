"""What the agent needs is found by looking, not listed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kata.osbuilder import closure, collect
from kata.osbuilder.errors import UserlandError

SOURCE = """
from __future__ import annotations
import os.path
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    import decimal
    from fractions import Fraction
else:
    import bisect

def later() -> None:
    import json
    from a.b import c as d
    if TYPE_CHECKING:
        import never

class X:
    try:
        import heapq
    except ImportError:
        import queue
"""


def test_imports_are_found_wherever_they_stand() -> None:
    found = dict(closure.imports_of(SOURCE))
    assert {name for name, sure in found.items() if sure} == {
        *("__future__", "os.path", "typing", "bisect", "json", "a.b", "heapq", "queue")
    }
    assert {name for name, sure in found.items() if not sure} == {
        *("__future__.annotations", "typing.TYPE_CHECKING", "a.b.c")
    }


def test_relative_imports_need_no_mention() -> None:
    assert list(closure.imports_of("from . import x\nfrom .y import z\n")) == []


def test_what_the_collector_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("import json\nfrom google.protobuf import descriptor_pool\n")
    (tmp_path / "data.bin").write_bytes(b"\xff\xfe")
    wanted = closure.wanted_modules(
        [("agent/a.py", tmp_path / "a.py"), ("agent/__init__.py", tmp_path / "a.py"), ("x", tmp_path / "data.bin")]
    )
    assert {"!kata.agent", "!kata.agent.a", "!kata.agent.__main__", "!json", "!encodings.ascii"} <= set(wanted)
    assert {"?google.protobuf", "?google.protobuf.descriptor_pool"} <= set(wanted)
    assert wanted == sorted(wanted, key=lambda line: ("!?".index(line[0]), line))


@pytest.mark.parametrize(
    ("line", "failures"),
    [
        ("!json", []),
        ("?json.nonesuch", []),
        ("!json.nonesuch", ["json.nonesuch"]),
        ("?broken_in_test", ["broken_in_test"]),
        ("!broken_in_test", ["broken_in_test"]),
    ],
)
def test_modules_that_do_not_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, failures: list[str]
) -> None:
    (tmp_path / "broken_in_test.py").write_text("import nonesuch_of_another\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert [name for name, _ in collect.load([line])] == failures


def test_compiled_code_is_unchecked_reproducible_and_runs_alone(tmp_path: Path) -> None:
    source = tmp_path / "m.py"
    source.write_text('"""Words."""\nVALUES = {"a", "b", "c"}\ndef f(x):\n    return x in {"p", "q", "r", "s"}\n')
    for out in ("1", "2"):
        collect.compile_all([str(source)], str(tmp_path / out))
    one, two = (tmp_path / f"{out}{source}c" for out in ("1", "2"))
    assert one.read_bytes() == two.read_bytes()
    assert int.from_bytes(one.read_bytes()[4:8], "little") == 0b01
    code = f"import sys; sys.path.insert(0, {str(one.parent)!r}); import m; assert m.f('q') and m.__doc__ is None"
    subprocess.run([sys.executable, "-I", "-c", code], check=True, timeout=60)


def copied(root: Path, *files: str) -> None:
    for file in files:
        place = root / file.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place)


def ldd(path: str) -> set[str]:
    said = subprocess.run(["ldd", path], capture_output=True, check=True, timeout=30).stdout.decode()
    return {line.split()[0].rpartition("/")[2] for line in said.splitlines() if ".so" in line and "vdso" not in line}


def test_libraries_agree_with_the_loader(tmp_path: Path) -> None:
    libraries = Path("/usr/lib/x86_64-linux-gnu")
    names = ldd("/usr/bin/crun") | {"libgcc_s.so.1", "ld-linux-x86-64.so.2", "libyaml-0.so.2"}
    copied(tmp_path, "/usr/bin/crun", *(str(libraries / name) for name in names if (libraries / name).exists()))
    (tmp_path / "usr/lib64").mkdir()
    (tmp_path / "usr/lib64/ld-linux-x86-64.so.2").symlink_to("/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2")
    found = closure.libraries(tmp_path, ["usr/bin/crun"])
    assert {Path(path).name for path in found} == ldd("/usr/bin/crun") | {"crun", "libgcc_s.so.1"}


def test_a_missing_library_is_told_but_for_whole_packages(tmp_path: Path) -> None:
    copied(tmp_path, "/usr/bin/crun")
    for name in ("libgcc_s.so.1", "libc.so.6"):
        (tmp_path / "usr/lib/x86_64-linux-gnu").mkdir(parents=True, exist_ok=True)
        (tmp_path / "usr/lib/x86_64-linux-gnu" / name).write_bytes(b"no elf")
    (tmp_path / "usr/lib64").mkdir()
    (tmp_path / "usr/lib64/ld-linux-x86-64.so.2").write_bytes(b"no elf")
    with pytest.raises(UserlandError, match="none of the packages"):
        closure.libraries(tmp_path, ["usr/bin/crun"])
    assert "usr/bin/crun" in closure.libraries(tmp_path, ["usr/bin/crun"], {"usr/bin/crun"})
