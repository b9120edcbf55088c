"""Nothing stays of a template's making whose process was killed, and nothing is taken from one that goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kata import paths
from kata.factory import leftovers
from kata.factory.store import TemplateStore
from kata.hypervisor.identity import claim_identity
from kata.linux.flock import wait_lock

MAKER = """
import os, sys, time
from pathlib import Path
from kata.factory import leftovers
from kata.factory.store import TemplateStore
from kata.hypervisor.identity import claim_identity
store = TemplateStore(Path(sys.argv[1]))
with store.making("one", 5) as half:
    (half / "memory").write_bytes(b"half")
    claim_identity(os.fspath(leftovers.make_directory("one", store.root)))
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TemplateStore:
    monkeypatch.setenv("KATA_STATE_DIR", str(tmp_path / "state"))
    return TemplateStore(tmp_path / "templates")


def start_maker(store: TemplateStore) -> subprocess.Popen[bytes]:
    maker = subprocess.Popen([sys.executable, "-c", MAKER, str(store.root)], stdout=subprocess.PIPE)
    assert maker.stdout is not None and maker.stdout.readline() == b"ready\n"
    return maker


def left(store: TemplateStore) -> list[str]:
    folders = (paths.vm_dir(), paths.state_dir() / "uids", store.root)
    return [path.name for folder in folders for path in folder.iterdir()]


def test_a_making_that_goes_on_keeps_what_it_has(store: TemplateStore) -> None:
    maker = start_maker(store)
    before = left(store)
    leftovers.sweep()
    store.sweep()
    assert left(store) == before and len(before) == 4  # folder, user id, half a template and its lock
    maker.kill()
    maker.communicate()


def test_nothing_is_left_of_one_that_was_killed(store: TemplateStore) -> None:
    maker = start_maker(store)
    os.kill(maker.pid, signal.SIGKILL)
    os.waitid(os.P_PID, maker.pid, os.WEXITED | os.WNOWAIT)  # it is a zombie: nobody has waited for it
    leftovers.sweep()
    assert left(store) == []
    maker.communicate()


def test_half_a_template_that_another_makes_is_spared(store: TemplateStore) -> None:
    maker = start_maker(store)
    maker.kill()
    maker.communicate()
    with store.making("one", 5) as half:
        leftovers.sweep()
        assert half.is_dir()
        assert list(paths.vm_dir().iterdir()) == []


def test_a_folder_that_names_no_process_is_removed(store: TemplateStore) -> None:
    folder = paths.vm_dir() / "template-one"
    folder.mkdir(parents=True)
    claim_identity(os.fspath(folder))
    leftovers.sweep()
    assert list(paths.vm_dir().iterdir()) == list((paths.state_dir() / "uids").iterdir()) == []


def test_a_sweep_of_templates_spares_those_that_are_there(store: TemplateStore) -> None:
    (store.root / "one").mkdir(parents=True)
    (store.root / "one" / "template.json").write_bytes(b"{}")
    for name in ("one.gone", "two.new"):
        (store.root / name).mkdir()
    store.sweep()
    assert sorted(path.name for path in store.root.iterdir()) == ["one", "one.lock"]
    fd = os.open(store.root / "one.lock", os.O_RDWR)
    assert wait_lock(fd, 0)
    os.close(fd)
