"""Templates on disk: complete or not there, one maker at a time, and nothing left of those that were killed."""

from __future__ import annotations

import os
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from kata.factory import memory
from kata.factory.errors import FactoryError, NoTemplateError, UnusableError
from kata.factory.store import STATE, Description, TemplateStore

SIZE = 1 << 20


def make(store: TemplateStore, name: str, files: tuple[tuple[str, int, int], ...] = ()) -> None:
    with store.making(name, 5) as half:
        (half / STATE).write_bytes(b"devices")
        fd = memory.create(name, SIZE)
        os.pwrite(fd, name.encode(), 4096)
        memory.seal(fd)
        store.publish(half, Description(name, 1.0, files, "tcg", 1, 1, 0, 4096, 0.5), fd)
        os.close(fd)


@pytest.fixture
def store(tmp_path: Path) -> TemplateStore:
    return TemplateStore(tmp_path / "templates")


def files(store: TemplateStore) -> list[str]:
    return sorted(path.name for path in store.root.iterdir() if path.suffix != ".lock")


def test_what_was_made_is_opened(store: TemplateStore) -> None:
    with ExitStack() as undo:
        assert store.open("one", undo, SIZE) is None
        make(store, "one")
        assert store.has("one")
        saved = store.open("one", undo, SIZE)
        assert saved is not None
        assert os.pread(saved.memory_fd, 3, 4096) == b"one"
        assert os.read(saved.state_fd, 99) == b"devices"
        [entry] = store.entries()
        assert (entry.description.name, entry.holders, entry.stale) == ("one", 1, False)
        own = store.open("one", undo, SIZE, exclusive=True)
        assert own is not None and own.complete is not None
        own.complete()
        assert os.pread(own.memory_fd, 3, 4096) == b"one"
        os.pwrite(own.memory_fd, b"two", 4096)
        assert own.exclusive and os.pread(saved.memory_fd, 3, 4096) == b"one"
        assert store.entries()[0].holders == 1
    assert store.entries()[0].holders == 0
    with ExitStack() as undo:
        own = store.open("one", undo, SIZE, exclusive=True)  # nobody has it open: from disk
        assert own is not None and own.complete is not None
        own.complete()
        assert os.pread(own.memory_fd, 3, 4096) == b"one"
        assert store.entries()[0].holders == 0, "a copy is of no use to others"


def test_only_root_may_look(store: TemplateStore) -> None:
    make(store, "one")
    assert store.root.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o077 for path in (store.root / "one").iterdir()} <= {0o000, 0o044}


def test_a_making_that_fails_leaves_nothing(store: TemplateStore) -> None:
    with pytest.raises(RuntimeError), store.making("one", 5) as half:
        (half / "memory").write_bytes(b"x")
        raise RuntimeError
    assert files(store) == []


def test_what_a_killed_maker_left_is_cleared(store: TemplateStore) -> None:
    left = store.root / "one.new"
    left.mkdir(parents=True)
    (left / "memory").write_bytes(b"half")
    make(store, "one")
    assert files(store) == ["one"]


def test_one_makes_it_and_the_others_wait(store: TemplateStore) -> None:
    made: list[int] = []

    def start(number: int) -> None:
        with store.making("one", 20) as half:
            if store.has("one"):
                return
            made.append(number)
            (half / STATE).write_bytes(b"")
            fd = memory.create("one", SIZE)
            memory.seal(fd)
            store.publish(half, Description("one", 1.0, (), "tcg", 1, 1, 0, 0, 0.0), fd)

    threads = [threading.Thread(target=start, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(made) == 1 and files(store) == ["one"]


def test_a_making_that_takes_too_long_is_not_waited_for(store: TemplateStore) -> None:
    with store.making("one", 5), pytest.raises(FactoryError, match="another process"), store.making("one", 0.1):
        pass


def test_removing(store: TemplateStore) -> None:
    make(store, "one")
    with ExitStack() as undo:
        saved = store.open("one", undo, SIZE)
        store.remove("one")
        assert saved is not None and os.pread(saved.memory_fd, 3, 4096) == b"one"  # who has it goes on
    assert list(store.root.iterdir()) == []
    with pytest.raises(NoTemplateError, match="one"):
        store.remove("one")
    with pytest.raises(NoTemplateError):
        store.remove("../one")


def test_pruning_takes_stale_ones_and_those_not_used_for_longest(store: TemplateStore, tmp_path: Path) -> None:
    kernel = tmp_path / "kernel"
    kernel.write_text("k")
    for number in range(4):
        make(store, f"t{number}")
        os.utime(store.root / f"t{number}" / "template.json", (number, number))
    make(store, "stale", ((str(kernel), 1, 1),))
    assert store.prune(2, spare="t0") == ["stale", "t1"]
    assert files(store) == ["t0", "t2", "t3"]


def test_a_description_that_makes_no_sense_is_stale(store: TemplateStore) -> None:
    make(store, "one")
    (store.root / "one" / "template.json").write_text("{")
    assert store.entries()[0].stale
    assert store.prune() == ["one"]


def test_half_a_template_is_none(store: TemplateStore) -> None:
    make(store, "one")
    (store.root / "one" / "memory").unlink()
    with ExitStack() as undo:
        assert store.open("one", undo, SIZE) is None
    (store.root / "one" / "memory").mkdir()
    with ExitStack() as undo, pytest.raises(UnusableError, match="is no file"):
        store.open("one", undo, SIZE)


def test_a_full_disk_is_said_before_anything_is_made(store: TemplateStore) -> None:
    with pytest.raises(FactoryError, match="no room"):
        store.require_room(1 << 60)
