"""The guest as a whole, over a copy of its sysfs files; and the pure parts of init, container and sandbox."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from kata.agent import init, ports, system
from kata.agent.container import signal_masks
from kata.agent.crun import said
from kata.agent.errors import BadRequest
from kata.agent.sandbox import CONTAINER_ID, check_signal, find_hooks


@pytest.mark.parametrize(("text", "numbers"), [("0\n", [0]), ("0-2,5\n", [0, 1, 2, 5]), ("", []), ("3,1-1", [3, 1])])
def test_list_format(text: str, numbers: list[int]) -> None:
    assert system.parse_list(text) == numbers


def test_this_machines_cpus() -> None:
    assert len(system.online()) == os.sysconf("SC_NPROCESSORS_ONLN")
    system.online_cpus(0)
    system.online_cpus(1)


def test_memory_blocks_are_brought_online_once(tmp_path: Path) -> None:
    for name, state in (("memory0", "online"), ("memory1", "offline"), ("memory2", "going-offline")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "state").write_text(state)
    (tmp_path / "block_size_bytes").write_text("8000000")
    system.online_memory(str(tmp_path))
    states = [(tmp_path / f"memory{number}/state").read_text() for number in range(3)]
    assert states == ["online", "onlinee", "going-offline"]  # a file keeps its tail; sysfs has none
    system.online_memory(str(tmp_path / "missing"))


def test_requests_that_make_no_sense() -> None:
    with pytest.raises(BadRequest):
        system.reseed_random(b"")
    for seconds, micros in ((-1, 0), (0, 1_000_000), (0, -1)):
        with pytest.raises(BadRequest):
            system.set_clock(seconds, micros)
    for signo in (-1, 65, 4096):
        with pytest.raises(BadRequest):
            check_signal(signo)
    assert [check_signal(signo) for signo in (0, 9, 64)] == [0, 9, 64]


@pytest.mark.parametrize(
    ("container_id", "good"),
    [
        ("ab", True),
        ("a", True),
        ("", False),
        (".a", False),
        ("a/b", False),
        ("a b", False),
        ("9_.-", True),
        ("a\n", False),
    ],
)
def test_container_ids(container_id: str, good: bool) -> None:
    assert bool(CONTAINER_ID.fullmatch(container_id)) == good


@pytest.mark.parametrize("name", ["SigBlk", "SigIgn", "SigCgt"])
def test_signal_masks_of_any_kind(name: str) -> None:
    status = f"Name:\tx\nSigQ:\t0/1\nSigPnd:\tffffffffffffffff\n{name}:\t0000000000004000\n"
    assert signal_masks(status) >> (signal.SIGTERM - 1) & 1
    assert not signal_masks(status) >> (signal.SIGHUP - 1) & 1


def test_what_crun_said(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert said(str(log)) == ""
    log.write_text('{"msg":"one","level":"error"}\nnot json\n[]\n{"msg":"two"}\n')
    assert said(str(log)) == "one; not json; []; two"


def test_serial_channel_by_name(tmp_path: Path) -> None:
    assert ports.serial_port(ports.CHANNEL, str(tmp_path / "missing")) == ""
    for port, name in (("vport0p1", "org.qemu.guest_agent.0\n"), ("vport0p2", "agent.channel.0\n")):
        (tmp_path / port).mkdir()
        (tmp_path / port / "name").write_text(name)
    (tmp_path / "vport0p0").mkdir()
    assert ports.serial_port(ports.CHANNEL, str(tmp_path)) == "serial:///dev/vport0p2"


def test_virtio_console_is_found_by_its_device_id(tmp_path: Path) -> None:
    assert not ports.has_virtio_console(str(tmp_path / "missing"))
    (tmp_path / "virtio0").mkdir()
    (tmp_path / "virtio0/device").write_text("0x0002\n")
    assert not ports.has_virtio_console(str(tmp_path))
    (tmp_path / "virtio1").mkdir()
    (tmp_path / "virtio1/device").write_text("0x0003\n")
    assert ports.has_virtio_console(str(tmp_path))


def test_mount_points_by_device_number() -> None:
    assert init.is_mount_point("/proc")
    assert not init.is_mount_point("/etc")


def test_guest_hooks_are_executable_files_in_order(tmp_path: Path) -> None:
    (tmp_path / "prestart").mkdir()
    for name, mode in (("20-b", 0o755), ("10-a", 0o700), ("30-text", 0o644)):
        (tmp_path / "prestart" / name).write_text("")
        (tmp_path / "prestart" / name).chmod(mode)
    (tmp_path / "prestart/folder").mkdir()
    found = find_hooks(str(tmp_path))
    assert found == {
        "prestart": [f"{tmp_path}/prestart/10-a", f"{tmp_path}/prestart/20-b"],
        "poststart": [],
        "poststop": [],
    }
