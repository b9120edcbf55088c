"""Files sent into a guest that shares nothing: the pieces, put together by the agent's own code."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kata.agent.copyfile import Piece, copy_file
from kata.protocol.generated import agent_pb2
from kata.sandbox import copying
from kata.sandbox.copying import PIECE, Copier
from kata.sandbox.errors import ConfigError
from kata.sandbox.updates import Copy


class Guest:
    """Puts the pieces where an agent would, below a root of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.largest = 0

    def copy_file(self, piece: agent_pb2.CopyFileRequest) -> None:
        self.largest = max(self.largest, len(piece.data))
        copy_file(
            Piece(
                piece.path,
                piece.file_size,
                piece.file_mode,
                piece.dir_mode,
                piece.uid,
                piece.gid,
                piece.offset,
                piece.data,
            ),
            str(self.root),
        )


def send(source: Path, root: Path) -> Guest:
    guest = Guest(root)
    Copier(guest, Copy(str(source), f"{root}/volume")).run()
    return guest


def seen(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every path below, with its mode and content."""
    found = {}
    for path in sorted(folder.rglob("*")):
        info = path.lstat()
        content = os.fsencode(os.readlink(path)) if path.is_symlink() else b""
        found[str(path.relative_to(folder))] = (info.st_mode, path.read_bytes() if path.is_file() else content)
    return found


def test_a_tree_arrives_as_it_is(tmp_path: Path) -> None:
    (source := tmp_path / "source").mkdir(mode=0o750)
    (source / "large").write_bytes(os.urandom(2 * PIECE + 5))
    (source / "exact").write_bytes(bytes(PIECE))
    (source / "empty").touch(mode=0o600)
    (source / "deep" / "er").mkdir(parents=True)
    (source / "deep" / "er" / "program").write_bytes(b"#!")
    (source / "deep" / "er" / "program").chmod(0o755)
    (source / "..data").symlink_to("deep")
    (source / "away").symlink_to("/etc/shadow")
    os.mkfifo(source / "pipe")
    guest = send(source, tmp_path / "root")
    expected = seen(source)
    del expected["pipe"]
    assert seen(tmp_path / "root" / "volume") == expected
    assert stat.S_IMODE((tmp_path / "root" / "volume").stat().st_mode) == 0o750
    assert guest.largest == PIECE


def test_a_file_is_a_volume_too_and_a_link_to_it(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("one\n")
    (tmp_path / "link").symlink_to("hosts")
    send(tmp_path / "link", tmp_path / "root")
    assert (tmp_path / "root" / "volume").read_text() == "one\n"
    assert not (tmp_path / "root" / "volume").is_symlink()


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 40))
def test_every_size_arrives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(copying, "PIECE", 8)
    (tmp_path / "file").write_bytes(data := os.urandom(size))
    send(tmp_path / "file", tmp_path / "root")
    assert (tmp_path / "root" / "volume").read_bytes() == data


def test_what_is_too_large_for_a_guests_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (source := tmp_path / "source").mkdir()
    with (source / "sparse").open("wb") as file:
        file.truncate(copying.MOST_BYTES + 1)
    with pytest.raises(ConfigError, match="too large to be copied"):
        send(source, tmp_path / "root")
    (source / "sparse").unlink()
    monkeypatch.setattr(copying, "MOST_ENTRIES", 3)
    for name in "abc":
        (source / name).touch()
    with pytest.raises(ConfigError, match="or 3 files"):
        send(source, tmp_path / "root")


def test_a_file_that_shrinks_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path := tmp_path / "file").write_bytes(bytes(100))
    real = os.pread

    def pread(fd: int, size: int, offset: int) -> bytes:
        os.truncate(path, 40)
        return real(fd, size, offset)

    monkeypatch.setattr(os, "pread", pread)
    with pytest.raises(ConfigError, match="became shorter"):
        send(path, tmp_path / "root")


def test_a_source_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be copied into the guest"):
        send(tmp_path / "missing", tmp_path / "root")
