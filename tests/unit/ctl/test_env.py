"""`kata env`: upstream's fields, the same in both forms."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata.ctl import env
from kata.ctl.__main__ import main

FIELDS = {
    "Kernel": "Path Parameters",
    "Meta": "Version",
    "Image": "Path",
    "Initrd": "Path",
    "Hypervisor": "MachineType Version Path BlockDeviceDriver EntropySource SharedFS VirtioFSDaemon SocketPath Msize9p "
    "MemorySlots PCIeRootPort Debug HotPlugVFIO ColdPlugVFIO PCIeSwitchPort SecurityInfo",
    "Hypervisor.SecurityInfo": "Rootless DisableSeccomp GuestHookPath EnableAnnotations ConfidentialGuest",
    "Runtime": "Config Path GuestSeLinuxLabel Experimental Version Debug Trace DisableGuestSeccomp DisableNewNetNs "
    "SandboxCgroupOnly",
    "Runtime.Config": "Path",
    "Runtime.Version": "OCI Version",
    "Runtime.Version.Version": "Semver Commit Major Minor Patch",
    "Host": "AvailableGuestProtections Kernel Architecture Distro CPU Memory VMContainerCapable SupportVSocks",
    "Host.Distro": "Name Version",
    "Host.CPU": "Vendor Model CPUs",
    "Host.Memory": "Total Free Available",
    "Agent": "Debug Trace",
}


def test_both_forms_have_upstreams_fields(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (path := tmp_path / "c.toml").write_text(
        "[hypervisor.qemu]\nmsize_9p = 4096\nkernel_params = 'a \"b c\"'\nenable_annotations = ['x', 'y']\n"
        "[agent.kata]\nenable_debug = true\n"
    )
    assert main(["env", "--config", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert main(["env", "--config", str(path)]) == 0
    as_toml = tomllib.loads(capsys.readouterr().out)
    for changing in ("Free", "Available"):
        del found["Host"]["Memory"][changing], as_toml["Host"]["Memory"][changing]
    assert as_toml == found
    for name, fields in FIELDS.items():
        table = found
        for part in name.split("."):
            table = table[part]
        assert set(table) == set(fields.split()) - {"Free", "Available"}, name
    assert found["Meta"]["Version"] == "1.0.27"
    assert found["Hypervisor"]["Msize9p"] == 4096
    assert found["Hypervisor"]["SecurityInfo"]["EnableAnnotations"] == ["x", "y"]
    assert found["Kernel"]["Parameters"] == 'agent.log=debug a "b c"'
    assert found["Agent"] == {"Debug": True, "Trace": False}
    assert found["Runtime"]["Config"]["Path"] == str(path)


def test_protections_of_the_host(tmp_path: Path) -> None:
    assert env.protections(tmp_path) == ["none"]
    for name, said in (("sev", "Y\n"), ("sev_snp", "N\n")):
        (tmp_path / "kvm_amd/parameters").mkdir(parents=True, exist_ok=True)
        (tmp_path / "kvm_amd/parameters" / name).write_text(said)
    assert env.protections(tmp_path) == ["sev"]


@given(st.text(st.characters(codec="utf-8")))
def test_any_text_is_a_toml_string(text: str) -> None:
    assert tomllib.loads(env.toml({"a": text, "b": {"c": [text]}})) == {"a": text, "b": {"c": [text]}}
