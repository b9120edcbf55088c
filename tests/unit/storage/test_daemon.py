"""Which virtiofsd is used, and with which words."""

from __future__ import annotations

from pathlib import Path

import pytest

from kata.storage.daemon import Cache, Daemon, Flavour, daemon_argv, find_daemon, named_daemon
from kata.storage.errors import DaemonError


@pytest.mark.parametrize(
    ("flavour", "needed"),
    [
        ("rust", ["--fd 7", "--shared-dir /t", "--sandbox namespace", "--seccomp kill", "--rlimit-nofile 0"]),
        ("c", ["--fd=7", "-o source=/t", "sandbox=namespace", "--rlimit-nofile=0", "announce_submounts"]),
    ],
)
def test_the_sandbox_is_always_on(flavour: str, needed: list[str]) -> None:
    words = " ".join(daemon_argv(Daemon("/d", flavour), tree="/t", listener_fd=7))  # type: ignore[arg-type]
    for part in needed:
        assert part in words
    assert "modcaps=-mknod" in words
    assert "none" not in words.replace("--sandbox namespace", "")
    assert "chroot" not in words


@pytest.mark.parametrize(
    ("flavour", "cache", "word"),
    [("rust", "metadata", "--cache metadata"), ("c", "never", "cache=none"), ("c", "always", "cache=always")],
)
def test_what_the_guest_may_keep(flavour: Flavour, cache: Cache, word: str) -> None:
    assert word in " ".join(daemon_argv(Daemon("/d", flavour), tree="/t", listener_fd=7, cache=cache))


def test_the_c_one_cannot_keep_metadata_alone() -> None:
    with pytest.raises(DaemonError, match="no cache 'metadata'"):
        daemon_argv(Daemon("/d", "c"), tree="/t", listener_fd=7, cache="metadata")


def test_a_daemon_that_was_named_says_which_it_is(tmp_path: Path) -> None:
    for name, said, flavour in (
        ("rust", "virtiofsd 1.13.0", "rust"),
        ("c", "virtiofsd version 7.2.0\nusing FUSE kernel interface version 7.36", "c"),
    ):
        program(path := tmp_path / name).write_text(f"#!/bin/sh\necho '{said}'\n")
        assert named_daemon(str(path)) == Daemon(str(path), flavour)  # type: ignore[arg-type]
    for missing in ("/nonexistent", str(tmp_path)):
        with pytest.raises(DaemonError, match="no virtiofsd at"):
            named_daemon(missing)


def program(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")
    path.chmod(0o755)
    return path


def test_the_first_place_wins_then_the_path(tmp_path: Path) -> None:
    places = ((str(tmp_path / "rust"), "rust"), (str(tmp_path / "c"), "c"))
    search = str(tmp_path / "bin")
    with pytest.raises(DaemonError, match="not installed"):
        find_daemon(places, search)  # type: ignore[arg-type]
    on_path = program(tmp_path / "bin" / "virtiofsd")
    assert find_daemon(places, search) == Daemon(str(on_path), "rust")  # type: ignore[arg-type]
    program(tmp_path / "c")
    assert find_daemon(places, search).flavour == "c"  # type: ignore[arg-type]
    program(tmp_path / "rust")
    assert find_daemon(places, search).flavour == "rust"  # type: ignore[arg-type]
