"""Hooks of the host: what they get, their order, and what becomes of those that fail."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from kata.log import Logger
from kata.oci.spec import Spec
from kata.shim.hooks import HookError, HostHooks


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Logger]:
    fd = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    yield Logger(fd)
    os.close(fd)


def shell(script: str, **more: Any) -> dict[str, Any]:
    return {"path": "/bin/sh", "args": ["hook", "-c", script, "name"], **more}


def hooks(folder: Path, log: Logger, **kinds: Any) -> HostHooks:
    spec = {"ociVersion": "1.0.2", "annotations": {"a": "b"}, "hooks": kinds}
    return HostHooks("box", str(folder), cast(Spec, spec), log)


def test_what_a_hook_gets(tmp_path: Path, log: Logger) -> None:
    script = f'cat > {tmp_path}/state; tr "\\0" "\\n" < /proc/self/environ > {tmp_path}/env; echo $0 > {tmp_path}/name'
    hooks(tmp_path, log, prestart=[shell(script, env=["ONLY=this one"])]).create(42)
    state = json.loads((tmp_path / "state").read_text())
    assert state == {
        "ociVersion": "1.0.2",
        "id": "box",
        "status": "creating",
        "pid": 42,
        "bundle": str(tmp_path),
        "annotations": {"a": "b"},
    }
    variables = dict(line.split("=", 1) for line in (tmp_path / "env").read_text().split("\n") if line)
    assert set(variables) - {"PWD", "OLDPWD", "_", "SHLVL"} == {"ONLY"} and variables["ONLY"] == "this one"
    assert (tmp_path / "name").read_text() == "name\n"


def test_the_order_and_the_states(tmp_path: Path, log: Logger) -> None:
    def note(name: str) -> dict[str, Any]:
        return shell(f'echo {name} $(grep -o \'"status": "[a-z]*"\' | cut -d\'"\' -f4) >> {tmp_path}/notes')

    kinds = ("createRuntime", "prestart", "poststart", "poststop", "createContainer", "startContainer")
    made = hooks(tmp_path, log, **{kind: [note(f"{kind}1"), note(f"{kind}2")] for kind in kinds})
    made.create(1)
    made.started(1)
    made.removed()
    assert (tmp_path / "notes").read_text().splitlines() == [
        *("prestart1 creating", "prestart2 creating", "createRuntime1 creating", "createRuntime2 creating"),
        *("createContainer1 creating", "createContainer2 creating"),
        *("poststart1 running", "poststart2 running", "poststop1 stopped", "poststop2 stopped"),
    ]


@pytest.mark.parametrize(
    ("hook", "said"),
    [
        (shell("echo oh dear >&2; exit 3"), "/bin/sh failed with exit code 3"),
        (shell("sleep 100", timeout=1), "/bin/sh did not end within 1 s"),
        ({"path": "/no/such/hook", "args": ["name"]}, "/no/such/hook"),
        ({"path": "bin/sh"}, "must be absolute"),
        (shell("true", timeout=0), "a time limit of 0 seconds"),
    ],
    ids=["code", "time", "missing", "relative", "limit"],
)
def test_a_failure_before_the_start_is_one_of_the_container(
    tmp_path: Path, log: Logger, hook: dict[str, Any], said: str
) -> None:
    made = hooks(tmp_path, log, prestart=[hook, shell(f"touch {tmp_path}/later")])
    with pytest.raises(HookError) as failure:
        made.create(1)
    assert said in failure.value.what
    assert "oh dear" in failure.value.detail or hook["path"] != "/bin/sh" or "3" not in said
    assert not (tmp_path / "later").exists()


def test_a_hook_that_runs_out_of_time_takes_its_children_along(tmp_path: Path, log: Logger) -> None:
    made = hooks(tmp_path, log, prestart=[shell(f"sleep 100 & echo $! > {tmp_path}/child; wait", timeout=1)])
    with pytest.raises(HookError):
        made.create(1)
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 10
    while _lives(child):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_later_failure_is_a_warning(tmp_path: Path, log: Logger) -> None:
    bad = shell("exit 1")
    made = hooks(
        tmp_path,
        log,
        poststart=[bad, shell(f"touch {tmp_path}/started")],
        poststop=[bad, shell(f"touch {tmp_path}/removed")],
    )
    made.started(1)
    made.removed()
    assert (tmp_path / "started").exists() and (tmp_path / "removed").exists()
    assert (tmp_path / "log").read_text().count("failed with exit code 1") == 2


def test_a_container_is_removed_once(tmp_path: Path, log: Logger) -> None:
    kinds = {"poststop": [shell(f"echo x >> {tmp_path}/count")]}
    for _ in range(2):
        hooks(tmp_path, log, **kinds).removed()
    assert (tmp_path / "count").read_text() == "x\n"


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
