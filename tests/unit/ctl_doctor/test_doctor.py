"""`kata doctor` with things that tests leave: each is found once, changed by nothing but --fix, and then gone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kata import paths
from kata.ctl.commands import doctor
from kata.ctl.doctor.all import examine, treat
from kata.ctl.doctor.finding import Finding, Outcome
from kata.errors import KataError
from kata.factory.leftovers import make_directory
from kata.factory.store import TemplateStore
from kata.hypervisor.identity import claim_identity
from kata.hypervisor.processref import ProcessRef, lives, process_ref
from kata.linux.startmark import VARIABLE, mark, read_mark
from kata.sandbox import shimsockets
from kata.sandbox.store import Store
from tests.unit.sandbox.records import record

ID = "d" * 32


@pytest.fixture(autouse=True)
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state and data directory of the test's own; what is elsewhere on this host is not looked at."""
    monkeypatch.setenv("KATA_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("KATA_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setattr("kata.ctl.doctor.networks.namespaces", dict)
    monkeypatch.setattr("kata.sandbox.reconcile.dead_cgroups", list)
    return tmp_path


def in_killed_process(action: Callable[[], object]) -> None:
    """Do something in a process that is killed before it could undo anything."""
    pid = os.fork()
    if pid == 0:
        try:
            action()
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def sandbox(*, auto_remove: bool = False) -> None:
    store = Store()
    store.claim(store.create(record(ID, auto_remove=auto_remove)))
    machine(ID)


def machine(name: str) -> None:
    (paths.vm_dir() / name).mkdir(parents=True)
    claim_identity(os.fspath(paths.vm_dir() / name))


def plant_sandbox(_: Path) -> None:
    in_killed_process(sandbox)


def plant_damage(_: Path) -> None:
    in_killed_process(sandbox)
    shutil.rmtree(paths.vm_dir())
    shutil.rmtree(paths.state_dir() / "uids")
    (Store().directory(ID) / "persist.json").write_text("{")


def plant_half_a_folder(_: Path) -> None:
    (Store().root / f".dead-{ID}").mkdir(parents=True)


def plant_machine(_: Path) -> None:
    machine(ID)


def plant_user_id(_: Path) -> None:
    machine(ID)
    shutil.rmtree(paths.vm_dir())


def plant_template(_: Path) -> None:
    in_killed_process(lambda: make_directory("one", TemplateStore().root))


def plant_half_a_template(_: Path) -> None:
    def make() -> None:
        with TemplateStore().making("one", 5.0):
            os.kill(os.getpid(), signal.SIGKILL)

    in_killed_process(make)


def plant_socket(tmp_path: Path) -> None:
    def listen() -> None:
        path = str(tmp_path / "shim.sock")
        shimsockets.note(path)
        socket.socket(socket.AF_UNIX).bind(path)

    in_killed_process(listen)


def plant_zygote(_: Path) -> None:
    folder = paths.state_dir() / "zygote"
    folder.mkdir(parents=True)
    (folder / "abc.lock").touch()
    (folder / "abc").touch()


def plant_import(_: Path) -> None:
    (paths.images_dir() / "work/0011223344556677/layout").mkdir(parents=True)


def plant_build(_: Path) -> None:
    (paths.assets_dir() / ".kata-osbuilder-xyz/root").mkdir(parents=True)


PLANTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "sandbox": (plant_sandbox, "is dead: the process that held it was killed"),
    "record": (plant_damage, "the record of sandbox dddd"),
    "folder": (plant_half_a_folder, "was being made or removed when its process was killed"),
    "machine": (plant_machine, "is of a sandbox whose own folder is gone"),
    "user id": (plant_user_id, "which is gone"),
    "template": (plant_template, "is of a template that was being made"),
    "template ": (plant_half_a_template, "is half a template"),
    "socket": (plant_socket, "the shim that listened at"),
    "zygote": (plant_zygote, "the zygote of the socket abc was killed"),
    "workspace": (plant_import, "is of an import of an image that was killed"),
    "workspace ": (plant_build, "is of a build that was killed"),
}


def tree(folder: Path) -> list[str]:
    """All that is there, but for files that are locked with and are empty."""
    found = sorted(path for path in folder.rglob("*") if path.name not in (".lock", ".names") and not path.is_dir())
    return [str(path.relative_to(folder)) for path in [*found, *folder.rglob("*/")] if path.name != "lock"]


@pytest.mark.parametrize("kind", PLANTS)
def test_what_is_left_is_found_once_and_repaired(kind: str, tmp_path: Path) -> None:
    plant, words = PLANTS[kind]
    plant(tmp_path)
    before = tree(tmp_path)
    [found] = examine(fix=False)
    assert (found.state, found.finding.kind) == ("left", kind.strip())
    assert words in found.finding.found and "\n" not in found.finding.found
    assert tree(tmp_path) == before
    [repaired] = examine(fix=True)
    assert repaired.state == "repaired", repaired
    assert tree(tmp_path) != before
    assert list(examine(fix=False)) == []


def test_a_dead_sandbox_is_recorded_and_its_machine_goes(tmp_path: Path) -> None:
    in_killed_process(sandbox)
    list(examine(fix=True))
    assert list(paths.vm_dir().iterdir()) == [] == list((paths.state_dir() / "uids").iterdir())
    assert (Store().read(ID).status, Store().read(ID).exit_code) == ("stopped", 137)


def test_one_that_was_to_be_removed_is(tmp_path: Path) -> None:
    in_killed_process(lambda: sandbox(auto_remove=True))
    [outcome] = examine(fix=True)
    assert outcome.said == "removed it, with its machine"
    assert Store().ids() == []


LIVING = """
import os, sys
from tests.unit.ctl_doctor import test_doctor as ours
getattr(ours, sys.argv[1])()
print("ready", flush=True)
sys.stdin.read()
"""


def live_template() -> None:
    keep.append(TemplateStore().making("one", 5.0))
    keep[-1].__enter__()  # type: ignore[attr-defined]
    make_directory("one", TemplateStore().root)


def live_socket() -> None:
    shimsockets.note(str(paths.state_dir() / "s"))


def live_import() -> None:
    from kata.images.workspace import workspace

    (paths.images_dir() / "work").mkdir(parents=True)
    keep.append(workspace(paths.images_dir() / "work"))
    keep[-1].__enter__()  # type: ignore[attr-defined]


def live_build() -> None:
    from kata.kernel import asset

    keep.extend([asset.locked(paths.assets_dir()), asset.workspace(paths.assets_dir(), "build")])
    for manager in keep:
        manager.__enter__()  # type: ignore[attr-defined]


keep: list[object] = []


@pytest.mark.parametrize("what", ["sandbox", "live_template", "live_socket", "live_import", "live_build"])
def test_what_a_living_process_has_is_left_alone(what: str, tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    words = [sys.executable, "-c", f"import sys; sys.path[:0] = {[str(root / 'src'), str(root)]!r}\n{LIVING}", what]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        before = tree(tmp_path)
        assert list(examine(fix=True)) == []
        assert tree(tmp_path) == before
        process.kill()
    assert [outcome.state for outcome in examine(fix=True)][:1] == ["repaired"]


def test_folders_of_others_at_the_same_place_are_not_ours(tmp_path: Path) -> None:
    """Upstream's runtimes have theirs below /run/vc too, with records that are no records of ours."""
    for folder in (paths.sandboxes_dir(), paths.vm_dir()):
        (folder / "theirs").mkdir(parents=True)
    (paths.sandboxes_dir() / "theirs/persist.json").write_text('{"State": "running"}')
    (paths.vm_dir() / "other").mkdir()
    before = tree(tmp_path)
    assert list(examine(fix=True)) == []
    assert tree(tmp_path) == before


def test_a_socket_that_is_anothers_by_now_stays(tmp_path: Path) -> None:
    plant_socket(tmp_path)
    path = tmp_path / "shim.sock"
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        [outcome] = examine(fix=True)
        assert outcome.state == "repaired"
        assert path.is_socket()
    assert shimsockets.abandoned() == []


def test_a_user_id_that_was_claimed_anew_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Between a look at the claim and its removal another sandbox may have taken it over."""
    plant_user_id(tmp_path)
    [outcome] = examine(fix=False)
    (paths.vm_dir() / "new").mkdir(parents=True)
    claim = paths.state_dir() / "uids" / outcome.finding.subject
    claim.write_text(str(paths.vm_dir() / "new"))
    assert outcome.finding.repair is not None
    outcome.finding.repair()
    assert claim.exists()


def test_what_fails_is_said(tmp_path: Path) -> None:
    def refuse() -> str:
        raise KataError("it does not go")

    finding = Finding("thing", "x", "a thing is left", refuse)
    assert treat(finding, fix=True) == Outcome(finding, "failed", "it does not go")
    assert treat(finding, fix=False).state == "left"
    assert treat(Finding("thing", "x", "y", advice="do it"), fix=True)[1:] == ("wrong", "do it")


def test_a_look_that_fails_does_not_keep_the_others_from_looking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant_zygote(tmp_path)
    monkeypatch.setattr("kata.sandbox.reconcile.dead_cgroups", _refuse)
    states = [(outcome.finding.kind, outcome.state) for outcome in examine(fix=False)]
    assert states == [("cgroups", "wrong"), ("zygote", "left")]


def _refuse() -> list[object]:
    raise PermissionError(1, "not permitted")


@pytest.fixture
def as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)


def run(capsys: pytest.CaptureFixture[str], *, fix: bool = False, as_json: bool = False) -> tuple[int, str]:
    import argparse

    code = doctor.execute(argparse.Namespace(fix=fix, json=as_json))
    return code, capsys.readouterr().out


@pytest.mark.usefixtures("as_root")
def test_exit_codes_and_sums(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys) == (0, "Nothing is left, and nothing is wrong.\n")
    plant_zygote(tmp_path)
    code, text = run(capsys)
    assert code == 1
    assert text == (
        "left      the zygote of the socket abc was killed → kata doctor --fix removes it\n"
        "1 to repair (kata doctor --fix).\n"
    )
    code, text = run(capsys, fix=True)
    assert code == 0
    assert text == ("repaired  the zygote of the socket abc was killed → removed it\nNothing is left any more.\n")


@pytest.mark.usefixtures("as_root")
def test_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plant_zygote(tmp_path)
    code, text = run(capsys, as_json=True)
    assert code == 1
    assert json.loads(text) == {
        "clean": False,
        "findings": [
            {
                "kind": "zygote",
                "subject": "abc",
                "state": "left",
                "found": "the zygote of the socket abc was killed",
                "said": "kata doctor --fix removes it",
            }
        ],
    }


def test_it_wants_root(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(KataError, match="other users"):
        run(capsys)


def test_marks() -> None:
    found = read_mark(f"PATH=/bin\0{VARIABLE}={mark()}\0X=1\0".encode())
    assert found is not None
    assert ProcessRef(found.pid, found.start) == process_ref(os.getpid())
    assert paths.state_dir_of(found.state) == paths.state_dir()
    for text in (b"", b"PATH=/bin\0", f"{VARIABLE}=1 2".encode(), f"{VARIABLE}=a b c /d".encode(), b"\xff\0"):
        assert read_mark(text) is None


def test_who_lives() -> None:
    me = process_ref(os.getpid())
    assert me is not None
    assert lives(me)
    assert not lives(ProcessRef(me.pid, me.start - 1))
    with subprocess.Popen(["sleep", "60"]) as child:
        reference = process_ref(child.pid)
        assert reference is not None and lives(reference)
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert process_ref(child.pid) == reference and not lives(reference), "it is a zombie"
