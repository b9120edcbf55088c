"""Records of direct volumes: written, believed only when they are right, marked by their users."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata import paths
from kata.storage import directvolumes
from kata.storage.errors import VolumeError

PATH = "/var/lib/kubelet/pods/7/volumes/kubernetes.io~csi/pvc-1/mount"


def record(**changes: Any) -> bytes:
    values = {"volume-type": "block", "device": "/dev/sdx", "fstype": "ext4", "metadata": {}, "options": []}
    return json.dumps({**values, **changes}).encode()


@pytest.fixture(autouse=True)
def state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KATA_STATE_DIR", str(tmp_path))


def folder() -> Path:
    return paths.direct_volumes_dir() / base64.urlsafe_b64encode(PATH.encode()).decode()


def test_a_record_is_where_drivers_of_storage_look_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    directvolumes.add(PATH, record(options=["noatime"], metadata={"fsGroup": "1000"}))
    assert json.loads((folder() / "mountInfo.json").read_text())["device"] == "/dev/sdx"
    assert [path.name for path in folder().iterdir()] == ["mountInfo.json"]
    found = directvolumes.read(PATH)
    assert found is not None
    assert (found.device, found.fstype, found.options) == ("/dev/sdx", "ext4", ["noatime"])
    assert (found.group, found.group_policy) == (1000, "Always")
    monkeypatch.delenv("KATA_STATE_DIR")
    assert str(paths.direct_volumes_dir()) == "/run/kata-containers/shared/direct-volumes"


def test_a_volume_in_use_is_not_forgotten() -> None:
    directvolumes.add(PATH, record())
    directvolumes.mark(PATH, "box")
    with pytest.raises(VolumeError, match="in use by sandbox box"):
        directvolumes.remove(PATH)
    directvolumes.unmark_all("box")
    assert directvolumes.sandboxes(PATH) == []
    directvolumes.remove(PATH)
    directvolumes.remove(PATH)
    assert directvolumes.read(PATH) is None and not folder().exists()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"volume-type": "spdkvol"}, "volume-type 'spdkvol' is not supported"),
        ({"volume-type": 7}, "volume-type"),
        ({"device": "sdx"}, "no absolute path"),
        ({"device": ["/dev/sdx"]}, "device"),
        ({"fstype": ""}, "no file system"),
        ({"fstype": "ext4,suid"}, "no file system"),
        ({"options": "ro"}, "options"),
        ({"options": ["ro,dev"]}, "comma"),
        ({"metadata": {"fsGroup": "-1"}}, "no group id"),
        ({"metadata": {"fsGroup": "4294967295"}}, "no group id"),
        ({"metadata": {"fsGroup": 5}}, "metadata"),
        ({"metadata": {"fsGroupChangePolicy": "never"}}, "fsGroupChangePolicy"),
        ({"metadata": {"encryptionKey": "ephemeral"}}, "not supported by this guest's agent"),
    ],
)
def test_what_is_wrong_with_a_record_is_said(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(VolumeError, match=why) as caught:
        directvolumes.add(PATH, record(**changes))
    assert PATH in caught.value.what
    assert not folder().exists()


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode) | st.just(b"[" * 100_000))
def test_no_record_breaks_more_than_itself(data: bytes) -> None:
    with pytest.raises(VolumeError):
        directvolumes.parse(data, PATH)


def test_a_hostile_folder_is_not_followed(tmp_path: Path) -> None:
    folder().mkdir(parents=True)
    (elsewhere := tmp_path / "elsewhere").write_bytes(record())
    (folder() / "mountInfo.json").symlink_to(elsewhere)
    with pytest.raises(VolumeError, match="cannot be opened"):
        directvolumes.read(PATH)
    (folder() / "mountInfo.json").unlink()
    os.mkfifo(folder() / "mountInfo.json")
    with pytest.raises(VolumeError, match="no regular file"):
        directvolumes.read(PATH)
    (folder() / "mountInfo.json").unlink()
    with (folder() / "mountInfo.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(VolumeError, match="64 KiB"):
        directvolumes.read(PATH)
    (folder() / "mountInfo.json").unlink()
    folder().rmdir()
    folder().symlink_to(tmp_path)
    with pytest.raises(VolumeError, match="its folder"):
        directvolumes.read(PATH)


def test_names_that_are_none() -> None:
    for path in ("relative", "", "/a\0b", f"/{'x' * 300}"):
        with pytest.raises(VolumeError):
            directvolumes.add(path, record())
    for sandbox in ("", "../x", "mountInfo.json", "a/b"):
        with pytest.raises(VolumeError):
            directvolumes.mark(PATH, sandbox)
