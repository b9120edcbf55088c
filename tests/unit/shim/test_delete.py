"""containerd's clean-up call: what it removes, and what it must leave alone."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from kata.protocol.generated.host import task_pb2
from kata.sandbox.store import Store
from kata.shim.arguments import Arguments
from kata.shim.delete import delete
from kata.shim.kind import BUNDLE_PATH
from tests.unit.sandbox.records import record


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("KATA_STATE_DIR", str(tmp_path))
    return Store()


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "config.json").write_text('{"process": {"args": ["x"]}}')
    return folder


def make(store: Store, bundle: Path, manager: str = "containerd") -> int:
    made = record("one")
    made.manager = manager
    made.container.annotations[BUNDLE_PATH] = str(bundle)
    return store.create(made)


def clear(bundle: Path) -> int:
    arguments = Arguments(action="delete", namespace="ns", address="/c.sock", id="one", bundle=str(bundle))
    return task_pb2.DeleteResponse.FromString(delete(arguments)).exit_status


def test_a_dead_sandbox_goes(store: Store, bundle: Path) -> None:
    os.close(make(store, bundle))
    assert clear(bundle) == 137
    assert store.ids() == []
    assert clear(bundle) == 137, "it must succeed whatever there is"


@pytest.mark.parametrize("manager", ["containerd", "kata"])
def test_a_sandbox_of_the_same_id_that_is_anothers_stays(
    store: Store, bundle: Path, tmp_path: Path, manager: str
) -> None:
    """ctr gives ids by hand: a second namespace may ask for one that is taken, and fails, and clears up."""
    lock = make(store, tmp_path / "elsewhere", manager)
    store.claim(lock)  # this very process would be killed as its holder
    assert clear(bundle) == 137
    os.close(lock)
    assert store.ids() == ["one"]


def test_it_waits_for_whoever_looks_at_the_sandbox(store: Store, bundle: Path) -> None:
    """`kata ps` takes the lock for a moment to see whether the sandbox lives."""
    lock = make(store, bundle)
    looking = threading.Timer(0.5, os.close, [lock])
    looking.start()
    assert clear(bundle) == 137
    looking.join()
    assert store.ids() == []


@pytest.fixture(autouse=True)
def no_mounts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of this host are not looked at here."""
    monkeypatch.setattr("kata.shim.delete.unmount_rootfs", lambda bundle: None)
