"""Which virtiofsd is used, and with which words."""

from __future__ import annotations

from pathlib import Path

import pytest

from kata.storage.daemon import Daemon, daemon_argv, find_daemon
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
