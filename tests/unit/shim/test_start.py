"""What happens before a shim serves: command line, kind of container, address, bundle."""

from __future__ import annotations

import hashlib
import json
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata.errors import KataError
from kata.shim import address
from kata.shim.arguments import Arguments, ArgumentsError, parse
from kata.shim.bundle import BundleError, read_spec
from kata.shim.kind import CONTAINER, SANDBOX, SINGLE, Kind, KindError, kind_of


@pytest.mark.parametrize(
    "line",
    [
        "-namespace ns -address /c.sock -publish-binary /bin/c -id one start",
        "--namespace=ns --address=/c.sock --publish-binary=/bin/c --id=one start",
        "start -namespace ns -address /c.sock -publish-binary /bin/c -id one",
    ],
)
def test_the_forms_of_a_command_line(line: str) -> None:
    wanted = Arguments(action="start", namespace="ns", address="/c.sock", publish_binary="/bin/c", id="one")
    assert parse(line.split()) == wanted


def test_flags_and_what_makes_no_sense() -> None:
    assert parse(["-v"]).version and parse(["--info"]).info and parse(["-debug", "-id", "x"]).debug
    for words in (["-unknown"], ["-id"], ["destroy"]):
        with pytest.raises(ArgumentsError):
            parse(words)


@given(st.lists(st.text(max_size=10), max_size=6))
def test_no_command_line_is_a_fault(words: list[str]) -> None:
    try:
        parse(words)
    except ArgumentsError:
        pass


CRI, CRIO, DOCKER = "io.kubernetes.cri.container-type", "io.kubernetes.cri-o.ContainerType", "io.kubernetes.docker.type"


@pytest.mark.parametrize(
    ("annotations", "wanted"),
    [
        ({}, Kind(SINGLE, "me")),
        ({CRI: "sandbox"}, Kind(SANDBOX, "me")),
        ({CRI: "container", "io.kubernetes.cri.sandbox-id": "pod"}, Kind(CONTAINER, "pod")),
        ({CRIO: "container", "io.kubernetes.cri-o.SandboxID": "pod"}, Kind(CONTAINER, "pod")),
        ({DOCKER: "podsandbox"}, Kind(SANDBOX, "me")),
        ({DOCKER: "container", "io.kubernetes.sandbox.id": "pod"}, Kind(CONTAINER, "pod")),
    ],
)
def test_kinds(annotations: dict[str, str], wanted: Kind) -> None:
    assert kind_of("me", annotations) == wanted


@pytest.mark.parametrize("annotations", [{CRI: "pod"}, {CRI: "container"}, {DOCKER: "sandbox"}])
def test_annotations_that_contradict_themselves(annotations: dict[str, str]) -> None:
    with pytest.raises(KindError):
        kind_of("me", annotations)


def test_the_address_is_containerds_own() -> None:
    digest = hashlib.sha256(b"/run/containerd/containerd.sock/k8s.io/abc").hexdigest()
    path = address.socket_path("/run/containerd/containerd.sock", "k8s.io", "abc")
    assert path == f"/run/containerd/s/{digest}"


def test_a_socket_is_private_and_replaced_only_when_nobody_answers(tmp_path: Path) -> None:
    path = str(tmp_path / "s" / "x")
    first = address.bind(path)
    assert first is not None
    assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o700
    assert stat.S_IMODE(Path(path).stat().st_mode) == 0o600
    assert address.bind(path) is None  # a shim answers there
    first.close()
    second = address.bind(path)
    assert second is not None
    second.close()
    Path(path).unlink()
    Path(path).write_text("no socket")
    with pytest.raises(OSError, match="in use"):
        address.bind(path)
    assert Path(path).read_text() == "no socket"  # not ours to remove


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"process": 1}', "[" * 200_000])
def test_a_bad_specification_is_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(BundleError) as caught:
        read_spec(str(tmp_path))
    assert "config.json" in caught.value.what and isinstance(caught.value, KataError)


def test_a_specification_with_unknown_parts_is_taken(tmp_path: Path) -> None:
    spec = {"process": {"args": ["true"]}, "linux": {"namespaces": [{"type": "time"}]}, "vm": {"new": 1}}
    (tmp_path / "config.json").write_text(json.dumps(spec))
    assert read_spec(str(tmp_path)) == spec
    with pytest.raises(BundleError, match="cannot be read"):
        read_spec(str(tmp_path / "missing"))
