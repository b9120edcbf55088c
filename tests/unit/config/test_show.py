"""`kata config`: what is printed, and exit codes. The guest's kernel parameters."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from kata.config import guest, load
from kata.config.render import default_file
from kata.ctl.__main__ import main
from tests.unit.config.files import HOST, HYPERVISOR, SAMPLES, enabling, loaded, write


def test_show_says_where_each_value_came_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = enabling("default_vcpus", more="kernel_params = 'quiet'\n")
    path = write(tmp_path, text, a="[hypervisor.qemu]\ndefault_memory = 512\n")
    assert main(["config", "show", "--config", path, "--annotation", f"{HYPERVISOR}default_vcpus=0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [f"# {path}", f"# {tmp_path}/config.d/a.toml"]
    assert f'kernel_params = "quiet"  # {path}' in lines
    assert f"default_memory = 512  # {tmp_path}/config.d/a.toml" in lines
    assert f"default_vcpus = 1  # {HYPERVISOR}default_vcpus (at least 1)" in lines
    assert 'machine_type = "q35"  # default' in lines
    assert tomllib.loads("\n".join(lines))["hypervisor"]["qemu"]["default_memory"] == 512


def test_show_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, "[runtime]\nenable_pprof = true\njaeger_password = 'tell no one'\n")
    assert main(["config", "show", "--json", "--config", path]) == 0
    said = capsys.readouterr()
    shown = json.loads(said.out)
    assert shown["settings"]["runtime.enable_pprof"] == {"value": True, "origin": "file", "where": path, "note": ""}
    assert [found["key"] for found in shown["warnings"]] == ["runtime.enable_pprof", "runtime.jaeger_password"]
    assert "runtime.enable_pprof: it has no effect" in said.err
    assert "tell no one" not in said.out + said.err


def test_show_hides_secrets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, "[runtime]\njaeger_password = 'tell no one'\n")
    main(["config", "show", "--config", path])
    said = capsys.readouterr()
    assert "tell no one" not in said.out + said.err
    assert 'jaeger_password = "(not shown)"' in said.out


@pytest.mark.parametrize(
    ("text", "code", "line"),
    [
        ("", 0, None),
        ("[runtime]\nenable_pprof = true\n", 0, "warning: runtime.enable_pprof: it has no effect"),
        ("[runtime]\nenable_prof = true\n", 1, ":2: error: runtime.enable_prof: there is no such key; did you mean"),
        ("[hypervisor.clh]\n", 1, "error: hypervisor.clh: only qemu can be run"),
        ("[hypervisor.qemu]\nconfidential_guest = true\n", 1, "error: hypervisor.qemu.confidential_guest"),
    ],
)
def test_check(text: str, code: int, line: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "check", write(tmp_path, text)]) == code
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == (line is not None)
    assert line is None or line in lines[0]


def test_check_of_what_is_not_there_or_no_toml(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "check", str(tmp_path / "none.toml")]) == 1
    assert main(["config", "check", write(tmp_path, "[")]) == 1
    said = capsys.readouterr().err
    assert said.count("kata: config: ") == 2


def test_a_malformed_annotation_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show", "--annotation", "x"]) == 2
    assert "is not NAME=VALUE" in capsys.readouterr().err


def test_the_default_file_is_the_defaults(tmp_path: Path) -> None:
    path = write(tmp_path, default_file())
    config = load(path, host=HOST)
    assert {origin.kind for origin in config.origins.values()} <= {"default"}
    uncommented = [line.removeprefix("# ") if " = " in line else line for line in default_file().splitlines()]
    again = loaded(tmp_path, "\n".join(uncommented))
    assert again.hypervisor == config.hypervisor
    assert again.runtime == config.runtime
    assert again.warnings == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ()),
        ("[agent.kata]\nenable_debug = true\n", ("agent.log=debug",)),
        ("[agent.kata]\nenable_debug = true\nlog_level = 'trace'\n", ("agent.log=trace",)),
        (
            "[agent.kata]\ncontainer_pipe_size = 4096\nvisible_cdi_devices = true\n[hypervisor.qemu]\n"
            "kernel_params = 'a \"b c\" agent.container_pipe_size=1'\n",
            (
                "agent.container_pipe_size=4096",
                "agent.visible_cdi_devices=true",
                "a",
                '"b c"',
                "agent.container_pipe_size=1",
            ),
        ),
    ],
)
def test_what_the_guest_is_told(text: str, words: tuple[str, ...], tmp_path: Path) -> None:
    from kata.agent.config import parse_cmdline

    params = guest.kernel_params(loaded(tmp_path, text))
    assert params == words
    assert parse_cmdline(" ".join(params)).unknown == ()


def test_an_upstream_file_can_be_shown_whatever_its_hypervisor(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show", "--config", str(SAMPLES / "go-clh.toml")]) == 0
    assert "[hypervisor.clh]" in capsys.readouterr().out
