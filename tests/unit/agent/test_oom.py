"""GetOOMEvent over ordinary files in the place of memory.events."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from kata.agent.errors import SandboxGone
from kata.agent.oom import OomWatcher


def never() -> bool:
    return False


def make(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    events = folder / name / "memory.events"
    events.write_text("oom 0\noom_kill 0\n")
    return events


def test_a_kill_wakes_the_waiter(tmp_path: Path) -> None:
    watcher = OomWatcher()
    events = make(tmp_path, "one")
    watcher.watch("one", str(tmp_path / "one"))
    got: list[str] = []
    thread = threading.Thread(target=lambda: got.append(watcher.wait(never)))
    thread.start()
    events.write_text("oom 1\noom_kill 0\n")  # an allocation failed, but nothing was killed
    thread.join(0.2)
    assert not got
    events.write_text("oom 1\noom_kill 1\n")
    thread.join(5)
    assert got == ["one"]


def test_kills_before_the_wait_are_kept_and_shared_out(tmp_path: Path) -> None:
    watcher = OomWatcher()
    for name in ("one", "two", "three"):
        make(tmp_path, name)
        watcher.watch(name, str(tmp_path / name))
    for name in ("one", "two", "three"):
        (tmp_path / name / "memory.events").write_text("oom_kill 3\n")
    watcher.forget("two")
    got: list[str] = []
    threads = [threading.Thread(target=lambda: got.append(watcher.wait(never))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert sorted(got) == ["one", "three"]


def test_a_caller_who_left_gets_nothing_and_the_end_is_for_all(tmp_path: Path) -> None:
    watcher = OomWatcher()
    make(tmp_path, "one").write_text("oom_kill 0\n")
    watcher.watch("one", str(tmp_path / "one"))
    (tmp_path / "one/memory.events").write_text("oom_kill 1\n")
    with pytest.raises(SandboxGone):
        watcher.wait(lambda: True)
    assert watcher.wait(never) == "one"
    ended: list[bool] = []

    def wait() -> None:
        with pytest.raises(SandboxGone):
            watcher.wait(never)
        ended.append(True)

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    watcher.close()
    for thread in threads:
        thread.join(5)
    assert ended == [True] * 3


def test_without_a_memory_controller_there_is_nothing_to_watch(tmp_path: Path) -> None:
    watcher = OomWatcher()
    watcher.watch("one", str(tmp_path))
    watcher.forget("one")
    watcher.forget("never")
