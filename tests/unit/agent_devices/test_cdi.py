"""CDI devices: which a container asks for, waiting until they are described, and what they bring into it."""

from __future__ import annotations

import copy
import json
import os
import select
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kata.agent.devices import cdi
from kata.agent.devices.batch import adapt_devices
from kata.agent.devices.cdi import cdi_updates, read_folder, requested, visible_devices, wait_for
from kata.agent.devices.context import CdiSettings, DeviceContext
from kata.agent.devices.errors import CdiTimeout, DeviceError, InvalidDevice
from kata.agent.edits import AddedNode, GuestNode, UpdateError
from kata.protocol.generated import agent_pb2
from tests.unit.agent_devices.fakes import PCI, FakeGuest

NULL, ZERO = GuestNode("c", 1, 3), GuestNode("c", 1, 5)
KIND = "vendor.example/gpu"


def describe(kind: str = KIND, **devices: Any) -> dict[str, Any]:
    """A specification; each device by its edits. A key `common` is for all of them."""
    common = devices.pop("common", {})
    listed = [{"name": name.lstrip("_"), "containerEdits": edits} for name, edits in devices.items()]
    return {"cdiVersion": "0.6.0", "kind": kind, "devices": listed, "containerEdits": common}


def write(folder: Path, name: str, content: object) -> None:
    """As a careful writer does it: whole at once."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f".{name}").write_text(json.dumps(content))
    (folder / f".{name}").rename(folder / name)


def annotated(*lists: str, **more: Any) -> Any:
    return {"annotations": {f"cdi.k8s.io/v{index}": text for index, text in enumerate(lists)}, **more}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run" / "cdi"


def settings_for(folder: Path, timeout: float = 0.0, *, visible: bool = False) -> CdiSettings:
    return CdiSettings(timeout, visible, str(folder))


# Section: what is asked for


@pytest.mark.parametrize(
    ("lists", "expected"),
    [
        ((), []),
        (("a.b/c=0",), ["a.b/c=0"]),
        (("a.b/c=0,a.b/c=1", "x/y=z:1", "a.b/c=0"), ["a.b/c=0", "a.b/c=1", "x/y=z:1"]),
        (("nvidia.com/gpu=GPU-1a2b",), ["nvidia.com/gpu=GPU-1a2b"]),
    ],
)
def test_annotations(lists: tuple[str, ...], expected: list[str]) -> None:
    assert requested(annotated(*lists), visible=False) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a.b/c",
        "a.b/c=",
        "=0",
        "a.b=0",
        "a.b/c=0,",
        "a.b/c=0 ",
        "a/b/c=0",
        "1a/b=0",
        "a.b/c=..",
        "a.b/c=0=1",
        "a-/b=0",
    ],
)
def test_malformed_annotations(text: str) -> None:
    with pytest.raises(InvalidDevice, match="names no CDI device"):
        requested(annotated(text), visible=False)


def test_other_annotations_and_a_pods_sandbox_ask_for_nothing() -> None:
    assert requested({"annotations": {"cdi.k8s.iox": "bad", "x": "a.b/c=0"}}, visible=True) == []
    sandbox = annotated("not even well formed")
    sandbox["annotations"]["io.katacontainers.pkg.oci.container_type"] = "pod_sandbox"
    sandbox["process"] = {"env": ["VISIBLE_CDI_DEVICES=nonsense"]}
    assert requested(sandbox, visible=True) == []
    sandbox["annotations"]["io.katacontainers.pkg.oci.container_type"] = "pod_container"
    with pytest.raises(InvalidDevice):
        requested(sandbox, visible=True)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", []),
        ("none", []),
        ("void", []),
        (" none ", []),
        ("a.b/c=all", ["a.b/c=all"]),
        ("a.b/c=0", ["a.b/c=0"]),
        ("a.b/c=0,1,007", ["a.b/c=0", "a.b/c=1", "a.b/c=7"]),
        ("a.b/c=0:x.y/z=all", ["a.b/c=0", "x.y/z=all"]),
        (" a.b/c = 0 , 1 : x.y/z=2 ", ["a.b/c=0", "a.b/c=1", "x.y/z=2"]),
        ("a.b/c=4294967295", ["a.b/c=4294967295"]),
    ],
)
def test_visible_devices(value: str, expected: list[str]) -> None:
    assert visible_devices(["A=1", f"VISIBLE_CDI_DEVICES={value}"]) == expected


@pytest.mark.parametrize(
    "value",
    [
        "all",
        "0",
        "=0",
        "a.b/c=",
        "a.b/c",
        "a.b/c=none",
        "a.b/c=0,",
        "a.b/c=all,0",
        "a.b/c=0,all",
        "a.b/c=all,all",
        "a.b/c=-1",
        "a.b/c=0x1",
        "a.b/c=²",
        "a.b/c=4294967296",
        "a.b/c=0:",
        ":a.b/c=0",
        "a.b/c=0::a.b/c=1",
        "none:a.b/c=0",
        "c=0",
        "a.b/c=" + "1" * 5000,
    ],
)
def test_malformed_visible_devices(value: str) -> None:
    with pytest.raises(InvalidDevice):
        visible_devices([f"VISIBLE_CDI_DEVICES={value}"])


@settings(deadline=None)
@given(st.text(alphabet="ab./=,:0all \x00é", max_size=20))
def test_any_text_is_understood_or_refused(text: str) -> None:
    try:
        names = visible_devices([f"VISIBLE_CDI_DEVICES={text}"])
    except InvalidDevice:
        return
    assert all(requested(annotated(name), visible=False) == [name] for name in names)


def test_the_environment_counts_only_where_it_is_allowed_to() -> None:
    spec = annotated("a.b/c=0", process={"env": ["VISIBLE_CDI_DEVICES=a.b/c=0,1"]})
    assert requested(spec, visible=False) == ["a.b/c=0"]
    assert requested(spec, visible=True) == ["a.b/c=0", "a.b/c=1"]
    assert requested({"process": {"env": ["XVISIBLE_CDI_DEVICES=bad", "VISIBLE_CDI_DEVICES"]}}, visible=True) == []


# Section: waiting


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[], None]], None]]:
    """Something to do once `wait_for` has looked in vain and goes to sleep."""
    looked = threading.Event()
    threads: list[threading.Thread] = []

    class Poll:
        def __init__(self) -> None:
            self._poll = select.poll()
            self.register = self._poll.register

        def poll(self, timeout: float) -> object:
            looked.set()
            return self._poll.poll(timeout)

    monkeypatch.setattr(cdi, "select", types.SimpleNamespace(poll=Poll, POLLIN=select.POLLIN))

    def start(action: Callable[[], None]) -> None:
        def run() -> None:
            assert looked.wait(10)
            action()

        threads.append(threading.Thread(target=run))
        threads[-1].start()

    yield start
    for thread in threads:
        thread.join(10)
    assert looked.is_set()


def test_what_is_there_is_taken_at_once(folder: Path) -> None:
    write(folder, "a.json", describe(_0={"env": ["A=1"]}))
    assert wait_for([f"{KIND}=0"], settings_for(folder)).env == ("A=1",)


def test_two_files_that_come_late_into_a_folder_that_is_not_there(folder: Path, waiting: Any) -> None:
    def later() -> None:
        write(folder, "a.json", describe(_0={"env": ["A=1"]}))
        write(folder, "b.json", describe("other.example/thing", x={"env": ["B=1"]}))

    waiting(later)
    edits = wait_for([f"{KIND}=0", "other.example/thing=x"], settings_for(folder, 20.0))
    assert edits.env == ("A=1", "B=1")


def test_a_file_that_is_written_slowly(folder: Path, waiting: Any) -> None:
    text = json.dumps(describe(_0={"env": ["A=1"]}))
    folder.mkdir(parents=True)

    def later() -> None:
        with (folder / "a.json").open("w") as stream:
            for part in (text[:20], text[20:]):
                stream.write(part)
                stream.flush()

    waiting(later)
    assert wait_for([f"{KIND}=0"], settings_for(folder, 20.0)).env == ("A=1",)


def test_a_node_that_comes_after_its_description(folder: Path, tmp_path: Path, waiting: Any) -> None:
    node = tmp_path / "dev" / "deep" / "gpu0"
    write(folder, "a.json", describe(_0={"deviceNodes": [{"path": "/dev/gpu0", "hostPath": str(node)}]}))

    def later() -> None:
        node.parent.mkdir(parents=True)
        node.symlink_to("/dev/null")

    waiting(later)
    edits = wait_for([f"{KIND}=0"], settings_for(folder, 20.0))
    assert edits.nodes == (AddedNode("/dev/gpu0", NULL, replace=True),)


def test_time_runs_out(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CdiTimeout, match=f"waiting for CDI device {KIND}=0") as caught:
        wait_for([f"{KIND}=0"], settings_for(folder, 0.05))
    assert "agent.cdi_timeout" in (caught.value.hint or "")
    write(folder, "bad.json", [])
    write(folder, "bad.yaml", "text")
    (folder / "no-spec.txt").write_text("{")
    write(folder, "other.json", describe("other.example/thing", x={}))
    with pytest.raises(CdiTimeout, match=r"bad.json is no JSON object.*bad.yaml is no JSON object"):
        wait_for(["other.example/thing=x", f"{KIND}=0"], settings_for(folder))
    write(folder, "a.json", describe(_0={"deviceNodes": [{"path": "/dev/x", "hostPath": str(tmp_path / "none")}]}))
    with pytest.raises(CdiTimeout, match=str(tmp_path / "none")):
        wait_for([f"{KIND}=0"], settings_for(folder))


def test_waiting_keeps_no_descriptor(folder: Path) -> None:
    before = os.listdir("/proc/self/fd")
    for _ in range(3):
        with pytest.raises(CdiTimeout):
            wait_for([f"{KIND}=0"], settings_for(folder))
    assert len(os.listdir("/proc/self/fd")) == len(before)


LONG = 600.0
"""A time-out that no test waits for: these fail at once."""


def test_a_device_that_its_kind_does_not_have(folder: Path) -> None:
    write(folder, "a.json", describe(_0={}, _1={}, all={}))
    with pytest.raises(DeviceError, match=f"{KIND}=7 does not exist; of its kind there are {KIND}=0, {KIND}=1"):
        wait_for(["absent.example/kind=0", f"{KIND}=0", f"{KIND}=7"], settings_for(folder, LONG))


def test_a_kind_whose_only_file_is_unusable(folder: Path) -> None:
    write(folder, "a.json", describe(_0={"env": "A=1"}))
    with pytest.raises(DeviceError, match="env is no list"):
        wait_for([f"{KIND}=0"], settings_for(folder, LONG))
    write(folder, "b.json", describe(_0={"env": ["A=1"]}))
    assert wait_for([f"{KIND}=0"], settings_for(folder)).env == ("A=1",), "another file has it"


def test_a_device_in_two_files(folder: Path) -> None:
    for name in ("a.json", "b.json"):
        own: Any = {f"_{ord(name[0])}": {"env": ["ONE=1"]}}
        write(folder, name, describe(_0={}, **own))
    with pytest.raises(DeviceError, match=r"is in two files: .*a.json and .*b.json"):
        wait_for([f"{KIND}=0"], settings_for(folder, LONG))
    assert wait_for([f"{KIND}=97"], settings_for(folder)).env == ("ONE=1",)


def test_a_node_that_is_no_device(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    write(folder, "a.json", describe(_0={"deviceNodes": [{"path": "/dev/x", "hostPath": str(tmp_path / "file")}]}))
    with pytest.raises(InvalidDevice, match="no device"):
        wait_for([f"{KIND}=0"], settings_for(folder, LONG))


def test_too_many_files(folder: Path) -> None:
    for number in range(258):
        write(folder, f"{number:03}.json", describe(_0={}) if number == 0 else [])
    found = read_folder(str(folder))
    assert list(found.devices) == [f"{KIND}=0"]
    assert len(found.problems) == 256
    assert "more than 256" in found.problems[str(folder)].what


# Section: what it brings


def test_everything_in_the_order_of_the_request(folder: Path) -> None:
    node = {"path": "/dev/null"}
    hook = {"hookName": "createRuntime", "path": "/bin/hook"}
    lib = {"hostPath": "/lib", "containerPath": "/lib"}
    write(
        folder,
        "a.json",
        describe(
            common={"env": ["C=1"], "mounts": [lib], "hooks": [hook]},
            _0={"env": ["X=0"], "deviceNodes": [node], "additionalGids": [7]},
            _1={"env": ["X=1"], "deviceNodes": [node], "mounts": [{**lib, "options": ["ro"]}]},
        ),
    )
    edits = wait_for([f"{KIND}=1", f"{KIND}=0"], settings_for(folder), uid=1000)
    assert edits.env == ("C=1", "X=1", "X=0")
    assert edits.nodes == (AddedNode("/dev/null", NULL, replace=True, uid=1000),) * 2
    assert edits.mounts == ({"destination": "/lib", "source": "/lib", "type": "bind", "options": ["ro"]},)
    assert edits.hooks == (("createRuntime", {"path": "/bin/hook"}),)
    assert edits.gids == (7,)


def test_the_batch_with_a_device_whose_numbers_overlap(folder: Path, tmp_path: Path) -> None:
    """A container's disk becomes 1:3 in the guest; the CDI node 1:5 is the disk's host number, and stays what it is."""
    write(
        folder,
        "a.json",
        describe(
            _0={
                "env": ["GPU=0"],
                "deviceNodes": [{"path": "/dev/gpu", "hostPath": "/dev/zero", "permissions": "rw", "uid": 5}],
                "mounts": [{"hostPath": "/opt/lib", "containerPath": "/usr/lib/gpu", "options": ["ro"]}],
                "hooks": [{"hookName": "prestart", "path": "/bin/hook"}],
                "additionalGids": [44],
            }
        ),
    )
    spec = annotated(
        f"{KIND}=0",
        process={"env": ["GPU=none", "P=1"], "user": {"uid": 0, "gid": 0}},
        linux={
            "devices": [
                {"path": "/dev/disk", "type": "c", "major": 1, "minor": 5},
                {"path": "/dev/gpu", "type": "c", "major": 99, "minor": 9},
            ],
            "resources": {"devices": [{"allow": True, "type": "c", "major": 1, "minor": 5, "access": "r"}]},
        },
    )
    before = copy.deepcopy(spec)
    with FakeGuest(tmp_path, timeout=0.1) as guest:
        (guest.dev / "vda").symlink_to("/dev/null")
        guest.add_folder(f"{PCI}/0000:00:02.0/virtio1/block/vda")
        context = DeviceContext(guest.hotplug, cdi=settings_for(folder))
        disk = agent_pb2.Device(id="02", type="blk", container_path="/dev/disk")
        adapted: Any = adapt_devices([disk], spec, context).spec
        write(folder, "b.json", describe(_0={}))
        with pytest.raises(DeviceError, match="two files"):
            adapt_devices([disk], spec, context)
    assert spec == before
    assert adapted["linux"]["devices"] == [
        {"path": "/dev/disk", "type": "c", "major": 1, "minor": 3},
        {"path": "/dev/gpu", "type": "c", "major": 1, "minor": 5, "uid": 5},
    ]
    rules = [(rule["minor"], rule["access"]) for rule in adapted["linux"]["resources"]["devices"]]
    assert rules == [(3, "r"), (3, "rwm"), (5, "rw")]
    assert adapted["process"]["env"] == ["P=1", "GPU=0"]
    assert adapted["process"]["user"]["additionalGids"] == [44]
    assert adapted["mounts"] == [
        {"destination": "/usr/lib/gpu", "source": "/opt/lib", "type": "bind", "options": ["ro"]}
    ]
    assert adapted["hooks"] == {"prestart": [{"path": "/bin/hook"}]}


def test_two_devices_that_want_one_path(folder: Path) -> None:
    nodes = [[{"path": "/dev/x", "hostPath": real}] for real in ("/dev/null", "/dev/zero")]
    write(folder, "a.json", describe(_0={"deviceNodes": nodes[0]}, _1={"deviceNodes": nodes[1]}))
    spec = annotated(f"{KIND}=0,{KIND}=1")
    with FakeGuest(folder.parent) as guest, pytest.raises(UpdateError, match="Two different devices"):
        adapt_devices([], spec, DeviceContext(guest.hotplug, cdi=settings_for(folder)))


def test_the_containers_user_owns_new_nodes(folder: Path) -> None:
    write(
        folder,
        "a.json",
        describe(_0={"deviceNodes": [{"path": "/dev/a", "hostPath": "/dev/zero", "uid": 0}, {"path": "/dev/null"}]}),
    )
    spec = annotated(f"{KIND}=0", process={"user": {"uid": 1000}})
    [update] = cdi_updates(spec, settings_for(folder))
    assert [(node.path, node.node, node.uid) for node in update.edits.nodes] == [
        ("/dev/a", ZERO, 0),
        ("/dev/null", NULL, 1000),
    ]
    assert cdi_updates({}, settings_for(folder)) == []
