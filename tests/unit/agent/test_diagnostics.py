"""GetDiagnosticData over files that a container could have left there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kata.agent import diagnostics
from kata.agent.errors import BadRequest, WrongState
from kata.oci.spec import Spec

WHERE = "/dev/termination-log"


def spec_for(source: object, path: str = WHERE) -> Spec:
    return {
        "annotations": {diagnostics.PATH_ANNOTATION: path},
        "mounts": [{"destination": "/etc/hosts", "source": "/x"}, {"destination": WHERE, "source": str(source)}],
    }


def test_at_most_4096_bytes_of_the_mounts_source(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"a" * 4095 + "\u00e9".encode() + b"tail")
    assert diagnostics.read("termination_log", spec_for(log)) == "a" * 4095 + "\ufffd"
    log.write_bytes(b"it ended\n")
    assert diagnostics.read("termination_log", spec_for(log)) == "it ended\n"
    log.write_bytes(b"")
    assert diagnostics.read("termination_log", spec_for(log)) == ""


@pytest.mark.parametrize(
    ("kind", "spec", "text"),
    [
        ("", spec_for("/x"), "log_type ''"),
        ("core", spec_for("/x"), "log_type 'core'"),
        ("termination_log", {}, "no annotation"),
        ("termination_log", spec_for("/x", "/elsewhere"), "no mount at /elsewhere"),
        ("termination_log", spec_for("relative"), "no mount at"),
    ],
)
def test_nothing_to_give(kind: str, spec: Spec, text: str) -> None:
    with pytest.raises(BadRequest, match=text):
        diagnostics.read(kind, spec)


def test_no_file_yet(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        diagnostics.read("termination_log", spec_for(tmp_path / "log"))


def test_links_pipes_and_directories_give_nothing_away(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    (tmp_path / "link").symlink_to(secret)
    with pytest.raises(OSError, match="symbolic"):
        diagnostics.read("termination_log", spec_for(tmp_path / "link"))
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(WrongState, match="no regular file"):
            diagnostics.read("termination_log", spec_for(tmp_path / name))
