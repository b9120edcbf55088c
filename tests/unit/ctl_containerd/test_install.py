"""`kata install containerd` on files: what it makes, keeps, refuses and undoes."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from kata.ctl.__main__ import main
from kata.ctl.containerd import runtimeclass
from kata.ctl.containerd.install import backup_of
from kata.ctl.containerd.shim import NAME, shim_program
from tests.unit.ctl_containerd.test_document import DEBIAN

ROOT = Path(__file__).parents[3]


class Host:
    """A configuration and a folder on the PATH."""

    def __init__(self, folder: Path) -> None:
        self.config, self.bin = folder / "etc" / "config.toml", folder / "bin"
        self.bin.mkdir()

    def install(self, *words: str) -> int:
        return main(["install", "containerd", "--config", str(self.config), "--bin-dir", str(self.bin), *words])

    def configure(self, text: str, mode: int = 0o640) -> None:
        self.config.parent.mkdir()
        self.config.write_text(text)
        self.config.chmod(mode)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_there_and_back(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    host.configure(DEBIAN)
    assert host.install() == 0
    assert "systemctl restart containerd" in capsys.readouterr().out
    assert host.config.read_text().startswith(DEBIAN) and "io.containerd.kata.v2" in host.config.read_text()
    assert stat.S_IMODE(host.config.stat().st_mode) == 0o640
    assert backup_of(host.config).read_text() == DEBIAN
    assert (host.bin / NAME).readlink() == shim_program()
    changed = host.config.read_text()
    assert host.install() == 0
    assert "has the runtime kata already" in capsys.readouterr().out
    assert (host.config.read_text(), backup_of(host.config).read_text()) == (changed, DEBIAN)
    assert host.install("--undo") == 0
    assert host.config.read_text() == DEBIAN
    assert os.listdir(host.config.parent) == ["config.toml"]
    assert os.listdir(host.bin) == []
    assert host.install("--undo") == 0
    assert "has no runtime of ours" in capsys.readouterr().out


def test_without_a_configuration(host: Host) -> None:
    assert host.install() == 0
    assert "version = 2" in host.config.read_text()
    assert host.install("--undo") == 0
    assert os.listdir(host.config.parent) == []
    assert host.install("--undo") == 0


def test_what_others_changed_meanwhile_stays(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    host.configure(DEBIAN)
    host.install()
    host.config.write_text(host.config.read_text() + '[debug]\nlevel = "info"\n')
    assert host.install("--undo") == 0
    assert host.config.read_text() == DEBIAN + '[debug]\nlevel = "info"\n'
    assert backup_of(host.config).read_text() == DEBIAN
    assert "what others changed stays" in capsys.readouterr().out


def test_a_dry_run_changes_nothing(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    host.configure(DEBIAN)
    assert host.install("--dry-run", "--restart", "--runtime-class-out", str(host.bin / "class.yaml")) == 0
    assert capsys.readouterr().out.count("would do: ") == 2
    assert host.config.read_text() == DEBIAN and os.listdir(host.bin) == []


def test_a_configuration_behind_a_link(host: Host, tmp_path: Path) -> None:
    (real := tmp_path / "real.toml").write_text(DEBIAN)
    host.config.parent.mkdir()
    host.config.symlink_to(real)
    host.install()
    assert host.config.is_symlink() and "kata" in real.read_text()


@pytest.mark.parametrize("text", ["version = 2\nx =", '[plugins.cri]\na = "b"\n', "version = 2\n\xff"])
def test_what_cannot_be_edited_is_not_touched(host: Host, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    host.configure("")
    host.config.write_bytes(text.encode("latin-1"))
    assert host.install() == 1
    assert "kata: config: " in capsys.readouterr().err
    assert host.config.read_bytes() == text.encode("latin-1")
    assert os.listdir(host.bin) == []


def test_another_shim_on_the_path(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    host.configure(DEBIAN)
    (host.bin / NAME).write_text("#!/bin/sh\n")
    assert host.install() == 1
    assert "is another shim" in capsys.readouterr().err
    assert host.config.read_text() == DEBIAN
    assert host.install("--undo") == 0
    assert (host.bin / NAME).read_text() == "#!/bin/sh\n"
    (host.bin / NAME).unlink()
    (host.bin / NAME).symlink_to(host.bin / "nowhere")
    assert host.install() == 0
    assert (host.bin / NAME).readlink() == shim_program()


def test_the_cri_plugin_switched_off_is_told(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    host.configure('version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n')
    assert host.install() == 0
    assert "disabled_plugins" in capsys.readouterr().err


def test_the_runtime_class(host: Host, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert host.install("--runtime-class-out", str(tmp_path / "class.yaml")) == 0
    assert (tmp_path / "class.yaml").read_text() == runtimeclass.manifest()
    capsys.readouterr()
    assert host.install("--runtime-class-out", "-") == 0
    assert runtimeclass.manifest() in capsys.readouterr().out


def test_what_packaging_has_is_what_is_installed() -> None:
    from kata.ctl.containerd import document

    assert (ROOT / "packaging/kubernetes/runtimeclass.yaml").read_text() == runtimeclass.manifest()
    for version in (2, 3):
        snippet = (ROOT / f"packaging/containerd/config-v{version}.toml").read_text()
        assert document.parse(snippet) == document.parse(document.add(f"version = {version}\n").text)
