"""Hostile specifications and ids against the shim, up to where a machine would start: all end in a sentence."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from kata import paths
from kata.errors import KataError
from kata.hypervisor.errors import HypervisorError
from kata.log import Logger
from kata.oci.convert import (
    process_from_proto,
    process_to_proto,
    resources_to_proto,
    spec_from_proto,
    spec_to_proto,
)
from kata.oci.errors import SpecError
from kata.oci.ids import is_id
from kata.oci.spec import Process
from kata.protocol.generated import oci_pb2
from kata.protocol.generated.host import task_pb2
from kata.sandbox.config import ContainerConfig, SharedRootfs
from kata.sandbox.containerplan import facilities, plan_container
from kata.sandbox.errors import ConfigError
from kata.shim.arguments import Arguments
from kata.shim.bundle import BundleError, annotations_of, read_checked, read_spec
from kata.shim.configure import configure
from kata.shim.delete import delete
from kata.shim.events import Publisher
from kata.shim.kind import KindError, kind_of
from kata.shim.pod import Pod
from kata.shim.service import to_status
from tests.helpers.tenants import POD, bundle, pod

WRONG: tuple[object, ...] = (
    *(None, True, -1, 0, 2**31, 2**70, -(2**70), 1.5, float("inf"), float("nan")),
    *("", "text", "x\0y", "\ud800", "../../../..", "/proc/1/root", "--help", "x" * 5000),
    *([], {}, [None], [[]], [{}], {"x": None}, {"x": {"y": []}}),
)
IDS = ("", ".", "..", "../..", "a/b", "/etc", "--help", "-x", "a\nb", "a\0b", "a b", "é", "\u0661", "a" * 4096, "a:b")


def places(value: object, path: tuple[object, ...] = ()) -> Iterator[tuple[object, ...]]:
    """The way to everything in a document."""
    if isinstance(value, dict):
        for key, entry in value.items():
            yield (*path, key)
            yield from places(entry, (*path, key))
    elif isinstance(value, list):
        for number, entry in enumerate(value):
            yield (*path, number)
            yield from places(entry, (*path, number))


def changed(place: tuple[Any, ...], value: object, *, gone: bool = False) -> dict[str, Any]:
    """The usual specification with something else at one place, or nothing."""
    spec = copy.deepcopy(POD)
    here: Any = spec
    for step in place[:-1]:
        here = here[step]
    if gone:
        del here[place[-1]]
    else:
        here[place[-1]] = value
    return spec


def go_through(folder: str) -> None:
    """What the shim makes of a bundle before anything is started. Raises KataError."""
    spec = read_checked(folder)
    kind = kind_of("box", annotations_of(spec))
    made = configure(kind, spec).sandbox
    container = ContainerConfig(id="box", spec=cast("dict[str, object]", spec), rootfs=SharedRootfs("/x"))
    spec_to_proto(plan_container(container, facilities(made)).spec)


def test_the_usual_specification_goes_through(tmp_path: Path, assets: Path) -> None:
    go_through(bundle(tmp_path, POD))


def test_wrong_types_everywhere(tmp_path: Path, assets: Path) -> None:
    """Every place of a specification with everything that it should not have: a sentence of ours, never a fault."""
    refused = tried = 0
    for place in places(POD):
        for value in (*WRONG, "gone"):
            tried += 1
            folder = bundle(tmp_path, changed(place, value, gone=value == "gone"))
            try:
                go_through(folder)
            except KataError as error:
                refused += 1
                assert error.what and len(error.what) < 12_000
            except Exception as error:
                raise AssertionError(f"{place} = {value!r:.60}") from error
    assert refused > tried / 2


def test_what_goers_engines_write_for_nothing_is_nothing(tmp_path: Path, assets: Path) -> None:
    """null is what Go writes for an empty list or map, so it is no attack."""
    spec = changed(("mounts",), None)
    spec["annotations"] = spec["hooks"] = None
    spec["linux"]["resources"]["devices"] = spec["process"]["rlimits"] = None
    go_through(bundle(tmp_path, spec))


@pytest.mark.parametrize("key", ["x", "linux", "process", "annotations", "mounts"])
@pytest.mark.parametrize("depth", [50, 900, 100_000])
def test_deeply_nested_documents(tmp_path: Path, assets: Path, key: str, depth: int) -> None:
    spec = json.dumps({**POD, key: "HERE"}).replace('"HERE"', '{"a":' * depth + "1" + "}" * depth)
    (tmp_path / "config.json").write_text(spec)
    with contextlib.suppress(KataError):  # and nothing else, RecursionError least of all
        go_through(str(tmp_path))


def test_huge_documents(tmp_path: Path) -> None:
    begin = time.monotonic()
    for text, why in (
        ('{"process": {"args": ["' + "x" * (16 << 20) + '"]}}', "has more than 16 MiB"),
        ('{"process": {"x": ' + "1" * 100_000 + "}}", "is no JSON"),
        ("[" * (1 << 20), "is no JSON"),
        ("\x00" * 4096, "is no JSON"),
        ('{"process": ', "is no JSON"),
        ('"process"', "is no specification"),
        ('{"process": []}', "must be an object"),
        ('{"process": {}, "linux": 5}', "must be an object"),
        ('{"process": {}, "annotations": ["a"]}', "must be an object"),
    ):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(BundleError, match=why):
            read_spec(str(tmp_path))
    assert time.monotonic() - begin < 60


def test_what_lies_in_the_place_of_a_specification(tmp_path: Path) -> None:
    """A pipe is not waited for, and a device not read."""
    place = tmp_path / "config.json"
    makings: tuple[Callable[[], None], ...] = (
        lambda: os.mkfifo(place),
        lambda: place.mkdir(),
        lambda: place.symlink_to("/dev/zero"),
        lambda: place.symlink_to(place),
        lambda: place.symlink_to("/proc/self/mem"),
    )
    for make in makings:
        make()
        with pytest.raises(BundleError):
            read_spec(str(tmp_path))
        place.rmdir() if place.is_dir() else place.unlink()


def test_what_an_error_quotes_is_cut(tmp_path: Path, assets: Path) -> None:
    """A path of megabytes is told as a beginning of it: an answer has 4 MiB at most, and a log is no place for it."""
    for place, value in (
        (("mounts", 3, "source"), f"/{'x' * (8 << 20)}"),
        (("annotations", "io.kubernetes.cri.container-type"), "z" * (8 << 20)),
    ):
        with pytest.raises(KataError) as caught:
            go_through(bundle(tmp_path, changed(place, value)))
        assert len(to_status(caught.value).message) < 20_000
    assert len(to_status(ValueError("x" * (8 << 20))).message) < 20_000


# Ids


@pytest.mark.parametrize("name", IDS)
def test_ids_are_no_paths_and_no_options(name: str) -> None:
    assert not is_id(name)
    with pytest.raises(KindError, match="is no id"):
        kind_of(name, {})
    annotations = {"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": name or "../x"}
    with pytest.raises(KindError, match="is no id"):
        kind_of("box", annotations)
    with pytest.raises(KataError):
        kind_of(name, {"io.kubernetes.cri.container-type": "sandbox"})


@pytest.mark.root
@pytest.mark.parametrize("name", ["..", ".", "", "a/../..", "../" * 3, "--help"])
def test_clearing_up_after_such_an_id_removes_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`delete` succeeds whatever it is given; with `..` for an id it would remove the state of every sandbox."""
    monkeypatch.setenv("KATA_STATE_DIR", str(tmp_path / "state"))
    for folder in (paths.sandboxes_dir() / "other", paths.vm_dir() / "other"):
        folder.mkdir(parents=True)
        (folder / "kept").touch()
    (tmp_path / "bundle").mkdir()
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    answer = delete(Arguments("delete", "ns", name, "/run/c.sock", "", str(tmp_path / "bundle")))
    assert task_pb2.DeleteResponse.FromString(answer).exit_status == 137
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("spec", [{"process": {}, "annotations": 5}, {"process": {}, "hooks": [{"path": 5}]}, [], 7])
def test_clearing_up_after_a_hostile_bundle_succeeds(spec: object, tmp_path: Path) -> None:
    folder = bundle(tmp_path, spec)
    assert delete(Arguments("delete", "ns", "box", "/run/c.sock", "", folder))
    hooks = {"poststop": [{"path": f"/{'x' * 10}", "timeout": "long"}, 5, None]}
    assert delete(Arguments("delete", "ns", "box", "/run/c.sock", "", bundle(tmp_path, pod(hooks=hooks))))


# Whom a process runs as


@pytest.mark.parametrize("number", [-1, 2**32 - 1, 2**32, 2**32 + 1000, 2**64, 1.0, "0", True])
def test_go_2025_3528_user_ids_do_not_overflow_into_root(number: object) -> None:
    """GO-2025-3528, GO-2026-5378: an id that does not fit was root's; 2^32-1 is "as before" to setresuid(2)."""
    for user in ({"uid": number, "gid": 1}, {"uid": 1, "gid": number}, {"uid": 1, "additionalGids": [number]}):
        with pytest.raises(SpecError):
            process_to_proto(cast("Process", {"args": ["x"], "user": user}))


@pytest.mark.parametrize("field", ["UID", "GID", "AdditionalGids"])
def test_go_2025_3528_nor_in_the_agent_whoever_asks(field: str) -> None:
    message = oci_pb2.Process(Args=["x"], User=oci_pb2.User(UID=1, GID=1))
    if field == "AdditionalGids":
        message.User.AdditionalGids.append(2**32 - 1)
    else:
        setattr(message.User, field, 2**32 - 1)
    with pytest.raises(SpecError, match="is no user or group"):
        process_from_proto(message)
    with pytest.raises(SpecError, match="is no user or group"):
        spec_from_proto(oci_pb2.Spec(Process=message))


def test_numbers_of_an_update_are_checked_as_well() -> None:
    hostile: tuple[Any, ...] = ({"memory": {"limit": "1"}}, {"cpu": {"quota": 2**70}}, {"devices": [5]}, {"cpu": []})
    for resources in hostile:
        with pytest.raises(SpecError):
            resources_to_proto(resources)


# Requests to a shim


@pytest.fixture
def shim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pod]:
    """A shim's state without a sandbox; what starts one fails the test."""
    monkeypatch.setenv("KATA_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr(Pod, "_start_sandbox", lambda *_: pytest.fail("a sandbox would have been started"))
    log = Logger(os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC))
    publisher = Publisher("", "ns", log)
    yield Pod("ns", publisher, log)
    publisher.close(1.0)
    os.close(log.fd)


def request(folder: str, **fields: str) -> task_pb2.CreateTaskRequest:
    made = task_pb2.CreateTaskRequest(id="box", bundle=folder)
    for name, text in fields.items():
        setattr(made, name, text)
    return made


@pytest.mark.parametrize("uri", ["binary:///bin/sh?-c=touch%20HERE", "file://HERE", "binary://x", "http://x", "x://y"])
@pytest.mark.parametrize("stream", ["stdin", "stdout", "stderr"])
def test_go_2026_5758_a_pods_container_gets_no_logger(
    uri: str, stream: str, shim: Pod, tmp_path: Path, assets: Path
) -> None:
    """GO-2026-5758: an image's label became a program that the shim runs as root. Pods' streams are FIFOs, or none."""
    evidence = tmp_path / "evidence"
    folder = bundle(tmp_path / "bundle", POD)
    with pytest.raises(KataError, match="cannot have"):
        shim.create(request(folder, **{stream: uri.replace("HERE", str(evidence))}))
    assert not evidence.exists()
    assert shim.idle


def test_go_2026_5758_nothing_of_a_specification_is_a_stream(tmp_path: Path, assets: Path) -> None:
    """Labels of images and annotations of pods that name loggers, in all the places that containerd has for them."""
    evidence = tmp_path / "evidence"
    uri = f"binary:///bin/touch?{evidence}"
    words = ("containerd.io/restart.loguri", "io.containerd.image.log-uri", "nerdctl/log-uri", "stdout", "log_path")
    spec = pod(annotations={**POD["annotations"], **dict.fromkeys(words, uri)})
    spec["process"]["env"] += [f"STDOUT={uri}", f"CONTAINER_LOG={uri}"]
    go_through(bundle(tmp_path / "bundle", spec))
    assert not evidence.exists()


@pytest.mark.parametrize("checkpoint", ["/", "/run/vc", "../..", "x"])
def test_go_2026_5064_5338_5622_nothing_is_restored_from_a_checkpoint(
    checkpoint: str, tmp_path: Path, assets: Path
) -> None:
    from kata.linux.flag import Flag
    from kata.protocol.status import Code, RpcError
    from kata.shim.service import TaskService

    class NoPods:
        def get(self) -> Pod:
            raise AssertionError("a checkpoint was looked at")

    service = TaskService(cast("Any", NoPods()), Flag())
    folder = bundle(tmp_path, POD)
    for call, asked in (
        (service.create, request(folder, checkpoint=checkpoint)),
        (service.checkpoint, task_pb2.CheckpointTaskRequest(id="box", path=checkpoint)),
    ):
        with pytest.raises(RpcError) as caught:
            call(cast("Any", asked), cast("Any", None))
        assert caught.value.code == Code.UNIMPLEMENTED
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize("hostname", ["a" * 5000, "a\nb", "é" * 64, "--help", "../../x", ""])
def test_hostile_hostnames_are_cut_or_refused(hostname: str, tmp_path: Path, assets: Path) -> None:
    """At most 64 bytes (sethostname(2)), and a guest's affair from there."""
    spec = read_checked(bundle(tmp_path, pod(hostname=hostname)))
    made = configure(kind_of("box", annotations_of(spec)), spec).sandbox
    assert len(made.hostname.encode()) <= 64


def test_names_of_disks_that_are_replaced_are_not_opened(tmp_path: Path) -> None:
    """Between a look and the opening: a link, a pipe and a device in the place of an image."""
    from contextlib import ExitStack

    from kata.hypervisor.machine import Disk
    from kata.hypervisor.qemu.files import open_disk
    from kata.sandbox.disks import plug_of

    image = tmp_path / "disk.img"
    image.write_bytes(b"mine")
    plug = plug_of(str(image), readonly=True)
    disk = Disk(plug.path, plug.serial, identity=plug.identity)
    with ExitStack() as stack:
        assert os.read(open_disk(disk, stack), 4) == b"mine"
    (tmp_path / "secret").write_bytes(b"others")
    replacings: tuple[Callable[[], None], ...] = (
        lambda: image.symlink_to(tmp_path / "secret"),
        lambda: os.mkfifo(image),
        lambda: os.link(tmp_path / "secret", image),
        lambda: image.symlink_to("/dev/zero"),
    )
    for replace in replacings:
        image.unlink()
        replace()
        with ExitStack() as stack, pytest.raises(HypervisorError, match="replaced"):
            open_disk(disk, stack)


def test_cve_2026_24054_a_link_to_a_device_is_no_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever may write to a folder can make a link in it, and must not get the host's disk for it."""
    from kata.sandbox import blockvolumes
    from kata.sandbox.updates import Facilities

    class Block:
        st_mode, st_rdev, st_uid, st_gid = 0o60660, os.makedev(8, 0), 0, 0

    monkeypatch.setattr("kata.sandbox.blockvolumes.os.stat", lambda path: Block)
    (tmp_path / "disk").symlink_to("/dev/sda")
    (tmp_path / "dev").symlink_to("/dev")
    for source in (tmp_path / "disk", tmp_path / "dev/sda", f"/dev/../{tmp_path}/disk", f"{tmp_path}/x/../disk"):
        mount = {"source": str(source), "destination": "/disk", "type": "bind", "options": ["rbind"]}
        with pytest.raises(ConfigError, match="by a link"):
            blockvolumes.node("box", 0, cast("Any", mount), Facilities(share=True, shm=True))
