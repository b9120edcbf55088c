"""Image configurations are hostile: what is not exactly right is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata.images.config import ImageConfig, parse, require_platform
from kata.images.errors import MalformedImageError, WrongPlatformError

FULL = {
    "Env": ["PATH=/bin", "EMPTY=", "E=a=b"],
    "Entrypoint": ["/e"],
    "Cmd": ["c", ""],
    "User": "web:33",
    "WorkingDir": "srv/../app/",
    "StopSignal": "SIGRTMIN+3",
    "Volumes": {"/data": {}, "rel/./x": {}},
    "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
    "Labels": {"a": "b"},
}


def document(config: Any = None, **changes: Any) -> bytes:
    base = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": ["x"]}, "config": config}
    return json.dumps(base | changes).encode()


def test_everything() -> None:
    assert parse(document(FULL, created="2024-01-01T00:00:00Z"), 1) == ImageConfig(
        env=("PATH=/bin", "EMPTY=", "E=a=b"),
        entrypoint=("/e",),
        cmd=("c", ""),
        user="web:33",
        working_dir="/app",
        stop_signal="SIGRTMIN+3",
        volumes=("/data", "/rel/x"),
        exposed_ports=("53/udp", "80/tcp"),
        labels={"a": "b"},
        architecture="amd64",
        os="linux",
        created="2024-01-01T00:00:00Z",
    )


@pytest.mark.parametrize("config", [None, {}, dict.fromkeys(FULL), {"Unknown": 1}])
def test_nothing(config: Any) -> None:
    assert parse(document(config), 1) == ImageConfig(architecture="amd64", os="linux")


@pytest.mark.parametrize(("path", "expected"), [("//x", "/x"), ("..", "/"), ("/../../etc", "/etc"), (".", "/")])
def test_working_dir_stays_inside(path: str, expected: str) -> None:
    assert parse(document({"WorkingDir": path}), 1).working_dir == expected


@pytest.mark.parametrize(
    "data",
    [
        b"", b"null", b"[]", b"{", b'"x"', b"\xff\xfe", b"[" * 100_000,
        document(architecture=1), document(os=None), document(rootfs={"type": "other", "diff_ids": ["x"]}),
        document(rootfs={"type": "layers"}), document(rootfs={"type": "layers", "diff_ids": ["x", "y"]}),
        document([]), document({"Env": "A=b"}), document({"Env": ["A"]}), document({"Env": ["=b"]}),
        document({"Env": ["A=\0"]}), document({"Env": [1]}), document({"Cmd": "sh"}), document({"Cmd": [None]}),
        document({"Cmd": ["a\0b"]}), document({"Entrypoint": {"a": 1}}), document({"User": 0}),
        document({"User": "a\0"}), document({"WorkingDir": "/a\0"}), document({"StopSignal": "KILL; rm"}),
        document({"StopSignal": "SIGTERM\n"}), document({"StopSignal": 15}), document({"Volumes": ["/x"]}),
        document({"Volumes": {"/x": 1}}), document({"Labels": {"a": 1}}), document({"Labels": []}),
    ],
)  # fmt: skip
def test_refused(data: bytes) -> None:
    with pytest.raises(MalformedImageError):
        parse(data, 1)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(sorted(FULL)) | st.text(), inner),
        max_leaves=12,
    )
)
def test_anything_is_parsed_or_refused(value: Any) -> None:
    try:
        config = parse(document(value), 1)
    except MalformedImageError:
        return
    assert all(isinstance(text, str) and "=" in text for text in config.env)
    assert config.working_dir == "" or config.working_dir.startswith("/")


@pytest.mark.parametrize(
    ("config", "machine", "fits"),
    [
        (ImageConfig(architecture="amd64", os="linux"), "x86_64", True),
        (ImageConfig(architecture="arm64", os="linux"), "aarch64", True),
        (ImageConfig(), "x86_64", True),
        (ImageConfig(architecture="arm64", os="linux"), "x86_64", False),
        (ImageConfig(architecture="amd64", os="windows"), "x86_64", False),
    ],
)
def test_platform(config: ImageConfig, machine: str, fits: bool) -> None:
    if fits:
        require_platform(config, machine)
    else:
        with pytest.raises(WrongPlatformError, match=f"{config.os}/{config.architecture}"):
            require_platform(config, machine)
