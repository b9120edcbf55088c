"""Assets are replaced in one step, under a lock, or not at all."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kata.kernel import asset
from kata.kernel.asset import File, Manifest, Package
from kata.kernel.errors import AssetError


def manifest_of(data: bytes) -> Manifest:
    return Manifest(
        name="thing",
        sha256=hashlib.sha256(data).hexdigest(),
        size=len(data),
        packages=(Package("p", "1", "aa"),),
        files=(File("/x", 1, "bb"),),
    )


def put(folder: Path, data: bytes) -> None:
    with asset.workspace(folder, "test") as work:
        (work / "thing").write_bytes(data)
        asset.publish(work / "thing", folder / "thing", manifest_of(data))


def test_an_asset_and_its_manifest_are_put_in_place(tmp_path: Path) -> None:
    put(tmp_path, b"one")
    put(tmp_path, b"second")
    assert (tmp_path / "thing").read_bytes() == b"second"
    assert asset.read_manifest(tmp_path / "thing") == manifest_of(b"second")
    assert sorted(os.listdir(tmp_path)) == ["thing", "thing.json"]


def test_a_failed_build_leaves_the_old_asset(tmp_path: Path) -> None:
    put(tmp_path, b"old")
    with pytest.raises(ZeroDivisionError), asset.workspace(tmp_path, "test") as work:
        (work / "thing").write_bytes(b"half")
        raise ZeroDivisionError
    assert (tmp_path / "thing").read_bytes() == b"old"
    assert asset.read_manifest(tmp_path / "thing") == manifest_of(b"old")
    assert sorted(os.listdir(tmp_path)) == ["thing", "thing.json"]


@pytest.mark.parametrize("damage", ["truncated", "gone", "no manifest", "bad manifest"])
def test_a_damaged_asset_reads_as_stale(tmp_path: Path, damage: str) -> None:
    put(tmp_path, b"whole")
    thing, manifest = tmp_path / "thing", tmp_path / "thing.json"
    match damage:
        case "truncated":
            thing.write_bytes(b"who")
        case "gone":
            thing.unlink()
        case "no manifest":
            manifest.unlink()
        case _:
            manifest.write_text('{"name": 3}')
    assert asset.read_manifest(thing) is None


def test_no_space_is_said_plainly(tmp_path: Path) -> None:
    said = asset.explain(OSError(28, "No space left on device", "/x/y"), tmp_path)
    assert "no space" in said.what
    assert said.hint


def test_an_error_of_the_file_system_becomes_ours(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match=r"missing"), asset.workspace(tmp_path, "test") as work:
        (work / "missing").read_bytes()
    assert os.listdir(tmp_path) == []


HOLD = """
import sys
from pathlib import Path
from kata.kernel import asset
with asset.locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_builder_waits_and_gives_up_in_time(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == b"held\n"
        start = time.monotonic()
        with pytest.raises(AssetError, match="another build"), asset.locked(tmp_path, timeout=0.3):
            pass
        assert 0.2 < time.monotonic() - start < 5
        holder.stdin.close()
        with asset.locked(tmp_path, timeout=20.0):
            pass
    finally:
        holder.kill()
        holder.wait()
        holder.stdin.close()
        holder.stdout.close()
