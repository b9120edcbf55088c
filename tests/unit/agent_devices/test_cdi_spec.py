"""CDI specification files: what is read, and what anybody could write into one."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kata.agent.devices import cdi_spec
from kata.agent.devices.cdi_spec import CdiSpecError, ContainerEdits, Node, parse_kind, parse_spec, read_spec

WHOLE: dict[str, Any] = {
    "cdiVersion": "0.7.0",
    "kind": "vendor.example/net-adapter",
    "annotations": {"any": {"thing": 1}},
    "containerEdits": {"env": ["COMMON=1"], "intelRdt": {"closID": "x"}, "netDevices": []},
    "devices": [
        {
            "name": "0",
            "annotations": {},
            "containerEdits": {
                "env": ["A=", "B=x=y\nz"],
                "deviceNodes": [
                    {"path": "/dev/a"},
                    {
                        "path": "/dev/b",
                        "hostPath": "/dev/real",
                        "type": "u",
                        "major": 195,
                        "minor": 7,
                        "fileMode": 0o660,
                        "permissions": "rw",
                        "uid": 0,
                        "gid": 44,
                    },
                    {"path": "/dev/c", "type": "b"},
                ],
                "mounts": [
                    {"hostPath": "/usr/lib/x.so", "containerPath": "/usr/lib/x.so", "options": ["ro", "bind"]},
                    {"hostPath": "tmpfs", "containerPath": "/scratch", "type": "tmpfs"},
                ],
                "hooks": [
                    {
                        "hookName": "createContainer",
                        "path": "/usr/bin/hook",
                        "args": ["hook", "--now"],
                        "env": ["H=1"],
                        "timeout": 5,
                    },
                    {"hookName": "poststop", "path": "/usr/bin/hook"},
                ],
                "additionalGids": [44, 0],
            },
        },
        {"name": "all"},
    ],
}


def test_everything_that_a_file_can_say() -> None:
    spec = parse_spec(WHOLE, "f")
    assert (spec.kind, spec.common) == ("vendor.example/net-adapter", ContainerEdits(env=("COMMON=1",)))
    assert spec.devices["all"] == ContainerEdits()
    edits = spec.devices["0"]
    assert edits.env == ("A=", "B=x=y\nz")
    assert edits.nodes == (
        Node("/dev/a", "/dev/a", "", 0, 0, "rwm", None, None, None),
        Node("/dev/b", "/dev/real", "c", 195, 7, "rw", 0o660, 0, 44),
        Node("/dev/c", "/dev/c", "", 0, 0, "rwm", None, None, None),  # a type alone is no number
    )
    assert edits.mounts == (
        {"destination": "/usr/lib/x.so", "source": "/usr/lib/x.so", "type": "bind", "options": ["ro", "bind"]},
        {"destination": "/scratch", "source": "tmpfs", "type": "tmpfs", "options": []},
    )
    assert edits.hooks == (
        ("createContainer", {"path": "/usr/bin/hook", "args": ["hook", "--now"], "env": ["H=1"], "timeout": 5}),
        ("poststop", {"path": "/usr/bin/hook"}),
    )
    assert edits.gids == (44, 0)


def changed(*place: str | int, value: object) -> Any:
    """The whole specification with one value replaced, or put in."""
    spec = copy.deepcopy(WHOLE)
    inner: Any = spec
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = value
    return spec


EDITS = ("devices", 0, "containerEdits")
NODE = (*EDITS, "deviceNodes", 1)
MOUNT = (*EDITS, "mounts", 0)
HOOK = (*EDITS, "hooks", 0)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ([], "is no JSON object"),
        (None, "is no JSON object"),
        ("text", "is no JSON object"),
        ({}, "kind is no text"),
        (changed("kind", value="novendor"), "is no kind"),
        (changed("kind", value="a/b/c"), "is no kind"),
        (changed("kind", value="../b/c"), "is no kind"),
        (changed("kind", value=7), "kind is no text"),
        (changed("cdiVersion", value="2.0.0"), "cdiVersion"),
        (changed("cdiVersion", value=0.6), "cdiVersion is no text"),
        (changed("containerEdits", value=[]), "containerEdits is no JSON object"),
        (changed("devices", value={}), "devices is no list"),
        (changed("devices", 1, value="0"), r"devices\[1\] is no JSON object"),
        (changed("devices", 1, "name", value="0"), "two devices '0'"),
        (changed("devices", 1, "name", value="-a"), "no name of a device"),
        (changed("devices", 1, "name", value="a="), "no name of a device"),
        (changed("surprise", value=1), "the key 'surprise' is not known"),
        (changed("devices", 0, "surprise", value=1), "the key 'surprise' is not known"),
        (changed(*EDITS, "surprise", value=1), "the key 'surprise' is not known"),
        (changed(*NODE, "surprise", value=1), "the key 'surprise' is not known"),
        (changed(*MOUNT, "surprise", value=1), "the key 'surprise' is not known"),
        (changed(*HOOK, "surprise", value=1), "the key 'surprise' is not known"),
        (changed(*EDITS, "netDevices", value=[{"name": "eth7"}]), "netDevices are not supported"),
        (changed(*EDITS, "env", value="A=1"), "env is no list"),
        (changed(*EDITS, "env", value=["A"]), "is not <name>=<value>"),
        (changed(*EDITS, "env", value=["=A"]), "is not <name>=<value>"),
        (changed(*EDITS, "env", value=["A=\0"]), "env is no text"),
        (changed(*EDITS, "env", value=["A=\ud800"]), "env is no text"),
        (changed(*EDITS, "additionalGids", value=[-1]), "additionalGids is no number"),
        (changed(*EDITS, "additionalGids", value=[True]), "additionalGids is no number"),
        (changed(*NODE, "path", value="dev/x"), "no absolute path"),
        (changed(*NODE, "path", value="/dev/../etc/x"), "no absolute path"),
        (changed(*NODE, "hostPath", value="x"), "no absolute path"),
        (changed(*NODE, "type", value="p"), "is no device's"),
        (changed(*NODE, "major", value=1 << 40), "major is no number from 0 to 4095"),
        (changed(*NODE, "minor", value="7"), "minor is no number"),
        (changed(*NODE, "minor", value=1.0), "minor is no number"),
        (changed(*NODE, "fileMode", value=0o17777), "fileMode is no number"),
        (changed(*NODE, "permissions", value="rwx"), "are not of r, w and m"),
        (changed(*NODE, "uid", value=0xFFFFFFFF), "uid is no number"),
        (changed(*MOUNT, "containerPath", value=None), "containerPath is no text"),
        (changed(*MOUNT, "hostPath", value=""), "hostPath is no text"),
        (changed(*MOUNT, "options", value="ro"), "options is no list"),
        (changed(*HOOK, "hookName", value="never"), "is no point at which a hook runs"),
        (changed(*HOOK, "path", value="hook"), "no absolute path"),
        (changed(*HOOK, "timeout", value=-1), "timeout is no number"),
    ],
)
def test_what_is_wrong_is_named(content: object, sentence: str) -> None:
    with pytest.raises(CdiSpecError, match=sentence):
        parse_spec(content, "f")


def test_an_unusable_file_tells_its_kind_when_it_can() -> None:
    with pytest.raises(CdiSpecError) as caught:
        parse_spec(changed(*EDITS, "env", value=7), "f")
    assert caught.value.kind == "vendor.example/net-adapter"
    with pytest.raises(CdiSpecError) as caught:
        parse_spec([], "f")
    assert caught.value.kind == ""


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def damaged(draw: st.DrawFn) -> Any:
    """The whole specification with one value, somewhere, replaced by any JSON."""
    spec = copy.deepcopy(WHOLE)
    inner: Any = spec
    while True:
        key = draw(st.sampled_from(sorted(inner)) if isinstance(inner, dict) else st.integers(0, len(inner) - 1))
        if not isinstance(inner[key], dict | list) or not inner[key] or draw(st.booleans()):
            inner[key] = draw(JSON)
            return spec
        inner = inner[key]


@settings(deadline=None)
@given(damaged() | JSON)
def test_nothing_but_its_own_error_gets_out(content: Any) -> None:
    try:
        spec = parse_spec(content, "f")
    except CdiSpecError as error:
        assert str(error)
        return
    parse_kind(spec.kind)
    for edits in (spec.common, *spec.devices.values()):
        assert all(node.path.startswith("/") and ".." not in node.path.split("/") for node in edits.nodes)
        json.dumps([edits.mounts, edits.hooks, edits.env]).encode()


def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.json"
    file.write_text(json.dumps(WHOLE))
    assert read_spec(str(file)) == parse_spec(WHOLE, str(file))
    yaml = tmp_path / "a.yaml"  # JSON is YAML too
    yaml.write_text(json.dumps(WHOLE))
    assert read_spec(str(yaml)).devices == parse_spec(WHOLE, "").devices
    with pytest.raises(FileNotFoundError):
        read_spec(str(tmp_path / "none.json"))
    monkeypatch.setattr(cdi_spec, "MAX_BYTES", file.stat().st_size)
    read_spec(str(file))
    monkeypatch.setattr(cdi_spec, "MAX_BYTES", file.stat().st_size - 1)
    with pytest.raises(CdiSpecError, match="more than"):
        read_spec(str(file))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"", "is no JSON"),
        (b'{"cdiVersion"', "is no JSON"),
        (b"\xff\xfe\x00", "is no JSON"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"kind":' * 50_000, "nested too deep"),
        (b"1" * 5000, "is no JSON"),
        (b"NaN", "is no JSON object"),
    ],
)
def test_hostile_text(tmp_path: Path, text: bytes, sentence: str) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(text)
    with pytest.raises(CdiSpecError, match=sentence):
        read_spec(str(file))


def test_yaml_says_that_it_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("cdiVersion: 0.6.0\nkind: a.b/c\n")
    with pytest.raises(CdiSpecError) as caught:
        read_spec(str(file))
    assert "JSON alone" in (caught.value.hint or "")


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "real.json").write_text(json.dumps(WHOLE))
    (tmp_path / "link.json").symlink_to("real.json")
    (tmp_path / "folder.json").mkdir()
    os.mkfifo(tmp_path / "fifo.json")
    (tmp_path / "device.json").symlink_to("/dev/zero")
    for name, sentence in (
        ("link", "symbolic links"),
        ("device", "symbolic links"),
        ("folder", "no regular file"),
        ("fifo", "no regular file"),
    ):
        with pytest.raises(CdiSpecError, match=sentence):
            read_spec(str(tmp_path / f"{name}.json"))
