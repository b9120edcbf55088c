"""Records on disk: found by name and id, never seen half made, and alive exactly while their lock is held."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from msgspec.structs import replace

from kata import paths
from kata.hypervisor.identity import claim_identity
from kata.hypervisor.processref import ProcessRef, process_ref
from kata.sandbox.config import PodNetworkConfig
from kata.sandbox.errors import ConflictError, NotFoundError, SandboxError
from kata.sandbox.podnetwork import note_devices
from kata.sandbox.reconcile import kill, reconcile, remove_leftovers
from kata.sandbox.store import Store
from tests.unit.sandbox.records import record


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("KATA_STATE_DIR", os.fspath(tmp_path))
    return Store()


def test_a_record_survives_the_disk(store: Store) -> None:
    os.close(store.create(record()))
    assert store.find("one") == record()
    assert store.find("0000") == record()
    assert (store.directory("0" * 32)).stat().st_mode & 0o777 == 0o700


def test_names_are_taken_once(store: Store) -> None:
    os.close(store.create(record("1" * 32, "web")))
    with pytest.raises(ConflictError):
        store.create(record("2" * 32, "web"))
    assert store.ids() == ["1" * 32]


def test_an_id_must_be_unambiguous(store: Store) -> None:
    os.close(store.create(record("ab" * 16, "first")))
    os.close(store.create(record("ac" * 16, "second")))
    assert store.find("ab").name == "first"
    with pytest.raises(ConflictError):
        store.find("a")
    for wanted in ("", "zz"):
        with pytest.raises(NotFoundError):
            store.find(wanted)


def test_alive_is_the_lock(store: Store) -> None:
    lock = store.create(record())
    assert store.alive("0" * 32)
    store.claim(lock)
    assert store.holder("0" * 32) == process_ref(os.getpid())
    with pytest.raises(ConflictError):
        remove_leftovers(store, "0" * 32)
    assert not store.wait_end("0" * 32, 0.0)
    os.pwrite(lock, b"1 1\n".ljust(64), 0)
    assert store.wait_end("0" * 32, 0.0)
    os.close(lock)
    assert not store.alive("0" * 32)
    assert store.wait_end("1" * 32, 0.0)


def test_what_is_half_made_or_half_removed_is_swept_and_never_seen(store: Store) -> None:
    os.close(store.create(record()))
    for name in (f".new-{'1' * 32}", f".dead-{'2' * 32}"):
        (store.root / name).mkdir()
        (store.root / name / "lock").touch()
    assert store.ids() == ["0" * 32]
    reconcile(store)
    assert sorted(os.listdir(store.root)) == [".names", "0" * 32]


def test_a_removed_sandbox_leaves_nothing_to_those_who_look_at_it_meanwhile(store: Store) -> None:
    lock = store.create(record())
    folder = os.open(store.directory("0" * 32), os.O_PATH)
    store.remove("0" * 32)
    os.close(lock)
    with pytest.raises(NotFoundError):
        store.hold("0" * 32)
    with pytest.raises(FileNotFoundError):
        os.open("lock", os.O_RDWR | os.O_CREAT, dir_fd=folder)
    os.close(folder)
    assert os.listdir(store.root) == [".names"]


@pytest.mark.parametrize("damaged", [b'{"name": 3}', b"", b'{"\xff": 1}', b'{"phases": ' + b"[" * 100_000])
def test_a_damaged_record_is_an_error_and_can_be_removed(store: Store, damaged: bytes) -> None:
    os.close(store.create(record()))
    (store.directory("0" * 32) / "persist.json").write_bytes(damaged)
    (store.directory("0" * 32) / "lock").write_bytes(b"no number")
    assert store.holder("0" * 32) is None
    with pytest.raises(SandboxError, match="damaged"):
        store.read("0" * 32)
    assert store.records() == []
    assert reconcile(store) == []
    remove_leftovers(store, "0" * 32)
    assert store.ids() == []


def test_the_dead_are_buried(store: Store) -> None:
    living, dead = record("1" * 32, "living"), record("2" * 32, "dead")
    gone = record("3" * 32, "gone", auto_remove=True)
    lock = store.create(living)
    os.close(store.create(gone))
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    reference = process_ref(child.pid)
    assert reference is not None
    dead.status, dead.processes = "running", [reference]
    vm = paths.vm_dir() / dead.sandbox.id
    vm.mkdir(parents=True)
    claim_identity(os.fspath(vm))
    os.close(store.create(dead))
    assert reconcile(store) == ["2" * 32, "3" * 32]
    assert child.wait(5) == -9
    found = store.read("2" * 32)
    assert (found.status, found.exit_code, found.processes) == ("stopped", 137, [])
    assert "killed" in found.error
    assert not vm.exists()
    assert list((paths.state_dir() / "uids").iterdir()) == []
    assert store.ids() == ["1" * 32, "2" * 32]
    assert store.read("1" * 32).status == "creating"
    assert reconcile(store) == []
    os.close(lock)


def test_only_the_very_process_is_killed(store: Store) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    reference = process_ref(child.pid)
    assert reference is not None
    kill(ProcessRef(child.pid, reference.start + 1))
    assert child.poll() is None
    kill(reference)
    assert child.wait(5) == -9
    kill(reference)


def test_the_hosts_devices_come_back_from_a_sandbox_that_was_killed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[str] = []
    monkeypatch.setattr("kata.network.vfio.release", given.append)
    made = record()
    made.sandbox = replace(made.sandbox, network=PodNetworkConfig("/nonexistent/netns"))
    os.close(store.create(made))
    directory = paths.vm_dir() / made.sandbox.id
    directory.mkdir(parents=True)
    with ExitStack() as undo:
        note_devices(os.fspath(directory), ["0000:5e:00.1", "0000:5e:00.2"], undo)
        undo.pop_all()  # killed
    remove_leftovers(store, made.sandbox.id)
    assert sorted(given) == ["0000:5e:00.1", "0000:5e:00.2"]
    assert not directory.exists()
