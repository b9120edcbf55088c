"""Kernel modules on demand: what is loaded, in which order, and what never reaches the kernel."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from kata.agent import modules
from kata.agent.errors import AgentError, BadRequest, Unsupported
from kata.linux import syscalls

NEEDS = """vfio-pci: irqbypass vfio vfio-pci-core vfio-pci
virtio_scsi: scsi_common scsi_mod virtio_scsi
"""


class Kernel:
    """The folders that a guest has, and a finit_module(2) that marks what it is given as loaded."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.loaded = folder / "modules", folder / "loaded"
        self.folder.mkdir()
        self.loaded.mkdir()
        (self.folder / "modules.needs").write_text(NEEDS)
        (self.folder / "modules.builtin").write_text("virtio_net\n")
        for name in ("irqbypass", "vfio", "vfio-pci-core", "vfio-pci", "scsi_common", "scsi_mod", "virtio_scsi"):
            (self.folder / f"{name}.ko").touch()
        self.calls: list[tuple[str, str]] = []
        self.error = 0

    def finit_module(self, fd: int, parameters: str = "", flags: int = 0) -> None:
        assert flags == 0
        name = os.path.basename(os.readlink(f"/proc/self/fd/{fd}")).removesuffix(".ko")
        self.calls.append((name, parameters))
        if self.error:
            raise OSError(self.error, os.strerror(self.error))
        self.mark(name)

    def mark(self, name: str, state: str = "live") -> None:
        entry = self.loaded / name.replace("-", "_")
        entry.mkdir()
        if state:
            (entry / "initstate").write_text(f"{state}\n")

    def want(self, *names: str) -> None:
        modules.load_modules(names, folder=str(self.folder), loaded=str(self.loaded))

    def load(self, name: str, *parameters: str) -> None:
        modules.load(name, parameters, folder=str(self.folder), loaded=str(self.loaded))

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.calls]


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel(tmp_path)
    monkeypatch.setattr(syscalls, "finit_module", made.finit_module)
    return made


def test_dependencies_come_first_and_nothing_twice(kernel: Kernel) -> None:
    kernel.want("virtio_scsi", "vfio-pci")
    assert kernel.names == ["scsi_common", "scsi_mod", "virtio_scsi", "irqbypass", "vfio", "vfio-pci-core", "vfio-pci"]
    kernel.want("vfio_pci", "virtio-scsi")
    assert len(kernel.calls) == 7


def test_a_module_that_only_others_ask_for(kernel: Kernel) -> None:
    kernel.want("vfio")
    assert kernel.names == ["irqbypass", "vfio"]


def test_what_is_built_in_needs_no_file(kernel: Kernel) -> None:
    kernel.mark("ext4", state="")
    kernel.want("virtio_net", "virtio-net", "ext4")
    assert kernel.calls == []


def test_what_another_thread_is_loading_is_waited_for(kernel: Kernel) -> None:
    kernel.mark("virtio_scsi", state="coming")
    kernel.error = errno.EEXIST
    kernel.want("virtio_scsi")
    assert kernel.names == ["scsi_common", "scsi_mod", "virtio_scsi"]


def test_neither_driver_nor_module(kernel: Kernel) -> None:
    with pytest.raises(Unsupported, match="neither the driver qat nor a module"):
        kernel.want("qat")


def test_a_kernel_without_modules_has_nothing_to_load(tmp_path: Path, kernel: Kernel) -> None:
    modules.load_modules(["virtio_scsi"], folder=str(tmp_path / "none"), loaded=str(kernel.loaded))
    assert kernel.calls == []


def test_what_the_kernel_refuses_is_said(kernel: Kernel) -> None:
    kernel.error = errno.ENOEXEC
    with pytest.raises(AgentError, match="the kernel module scsi_common cannot be loaded: Exec format error"):
        kernel.want("virtio_scsi")


def test_a_file_that_is_missing(kernel: Kernel) -> None:
    (kernel.folder / "vfio.ko").unlink()
    with pytest.raises(AgentError, match="the kernel module vfio cannot be loaded: No such file"):
        kernel.want("vfio-pci")


def test_parameters_are_for_the_module_itself(kernel: Kernel) -> None:
    kernel.load("vfio-pci", "ids=8086:10d3,1af4:1000", "disable_idle_d3")
    assert kernel.calls[-1] == ("vfio-pci", "ids=8086:10d3,1af4:1000 disable_idle_d3")
    assert [parameters for _, parameters in kernel.calls[:-1]] == ["", "", ""]


@pytest.mark.parametrize("name", ["", "-r", "../x", "a/b", "a b", "a\n", "a.ko", "x" * 65, "ä"])
def test_names_that_are_none(kernel: Kernel, name: str) -> None:
    with pytest.raises(BadRequest, match="is no kernel module"):
        kernel.want(name)
    with pytest.raises(BadRequest, match="is no kernel module"):
        kernel.load(name)
    assert kernel.calls == []


@pytest.mark.parametrize("text", ["", "a b", "a=b c", '"a=b', "a='b", "-f", "--force", "a=b\n", "a\0", "=x"])
def test_parameters_that_are_none(kernel: Kernel, text: str) -> None:
    with pytest.raises(BadRequest, match="is no parameter"):
        kernel.load("vfio-pci", text)
    assert kernel.calls == []
