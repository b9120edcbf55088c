"""The setpriv prefix, as words and as what the kernel says of a process started with it."""

from __future__ import annotations

import os
import subprocess
from types import SimpleNamespace

import pytest

from kata.hypervisor.errors import HypervisorError
from kata.hypervisor.qemu.privileges import drop_privileges


@pytest.mark.parametrize(
    ("uid", "low", "root", "expected"),
    [
        (None, False, False, "setpriv --no-new-privs --pdeathsig KILL --"),
        (
            None,
            False,
            True,
            "setpriv --no-new-privs --pdeathsig KILL --inh-caps=-all --ambient-caps=-all --bounding-set=-all --",
        ),
        (
            7,
            True,
            True,
            "setpriv --no-new-privs --pdeathsig KILL --inh-caps=-all,+net_bind_service"
            " --ambient-caps=-all,+net_bind_service --bounding-set=-all,+net_bind_service"
            " --reuid 7 --regid 7 --clear-groups --",
        ),
    ],
)
def test_words(uid: int | None, low: bool, root: bool, expected: str) -> None:
    words = drop_privileges(uid, uid, accelerator="tcg", bind_low_ports=low, root=root)
    assert words == [*expected.split(), "/bin/sh", "-c", '[ "$PPID" = "$0" ] && exec "$@"', str(os.getpid())]


def test_memory_that_it_may_lock() -> None:
    words = drop_privileges(None, None, accelerator="tcg", bind_low_ports=False, root=False, locked_memory=4096)
    assert words[:3] == ["prlimit", "--memlock=4096:4096", "setpriv"]
    done = subprocess.run([*words, "cat", "/proc/self/limits"], capture_output=True, check=True, text=True)
    assert [line.split()[3:5] for line in done.stdout.splitlines() if "locked" in line] == [["4096", "4096"]]


@pytest.mark.skipif(os.geteuid() != 0, reason="enters a namespace")
def test_the_network_that_it_runs_in() -> None:
    words = drop_privileges(None, None, accelerator="tcg", bind_low_ports=False, netns="/proc/self/ns/net")
    assert words[:4] == ["nsenter", "--net=/proc/self/ns/net", "--", "setpriv"]
    said = subprocess.run([*words, "readlink", "/proc/self/ns/net"], capture_output=True, check=True, text=True).stdout
    assert said.strip() == os.readlink("/proc/self/ns/net")


@pytest.mark.parametrize(("gid", "mode", "groups"), [(109, 0o20660, "109"), (0, 0o20660, None), (109, 0o20600, None)])
def test_kvm_needs_its_devices_group(monkeypatch: pytest.MonkeyPatch, gid: int, mode: int, groups: str | None) -> None:
    monkeypatch.setattr(os, "stat", lambda _path: SimpleNamespace(st_gid=gid, st_mode=mode))
    if groups is None:
        with pytest.raises(HypervisorError, match="group of its own"):
            drop_privileges(7, 7, accelerator="kvm", bind_low_ports=False, root=True)
    else:
        words = drop_privileges(7, 7, accelerator="kvm", bind_low_ports=False, root=True)
        assert words[words.index("--groups") + 1] == groups


def test_setpriv_understands_it() -> None:
    argv = [*drop_privileges(None, None, accelerator="tcg", bind_low_ports=False), "cat", "/proc/self/status"]
    status = subprocess.run(argv, capture_output=True, check=True, text=True).stdout
    fields = dict(line.split(":\t") for line in status.splitlines() if line.startswith(("Cap", "NoNewPrivs")))
    assert fields["NoNewPrivs"] == "1"
    if os.geteuid() == 0:
        assert {int(value, 16) for name, value in fields.items() if name.startswith("Cap")} == {0}


def test_nothing_runs_once_its_owner_is_gone() -> None:
    argv = drop_privileges(None, None, accelerator="tcg", bind_low_ports=False)
    orphaned = subprocess.run([*argv[:-1], "1", "echo", "alive"], capture_output=True, check=False)
    assert (orphaned.returncode, orphaned.stdout) == (1, b"")
