"""What the shim makes of a container before its sandbox sees it: its specification, its root file system."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from kata.oci.spec import Spec
from kata.sandbox.config import SandboxConfig
from kata.shim.configure import Configured, container_spec
from kata.shim.rootfs import RootfsError, mount_rootfs
from tests.unit.config.files import loaded

SPEC = cast(Spec, {"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ERRNO"}, "cgroupsPath": "/x"}, "hostname": "h"})


@pytest.mark.parametrize(("setting", "kept"), [("", True), ("disable_guest_seccomp = true", False)])
def test_seccomp_profiles_reach_the_guest_unless_the_operator_says_otherwise(
    tmp_path: Path, setting: str, kept: bool
) -> None:
    configured = Configured(loaded(tmp_path, f"[runtime]\n{setting}\n"), cast(SandboxConfig, None))
    made = container_spec(configured, SPEC)
    assert ("seccomp" in made["linux"]) is kept
    assert (made["linux"]["cgroupsPath"], made["hostname"]) == ("/x", "h")
    assert "seccomp" in SPEC["linux"]


def test_a_root_file_system_that_is_there_already(tmp_path: Path) -> None:
    bundle, elsewhere = tmp_path / "bundle", tmp_path / "elsewhere"
    for folder in (bundle / "rootfs", bundle / "other", elsewhere):
        folder.mkdir(parents=True)
        (folder / "file").touch()
    assert mount_rootfs(str(bundle), []) == str(bundle / "rootfs")
    assert mount_rootfs(str(bundle), [], "other") == str(bundle / "other")
    assert mount_rootfs(str(bundle), [], str(elsewhere)) == str(elsewhere)


@pytest.mark.parametrize("root", ["empty", "missing", "/no/such/folder"])
def test_a_root_file_system_that_is_not_there(tmp_path: Path, root: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(RootfsError):
        mount_rootfs(str(tmp_path), [], root)
