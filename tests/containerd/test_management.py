"""A sandbox of containerd as an operator sees it: its management socket, and the commands that use it. One boot."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import socket
import stat
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kata import paths
from kata.protocol.workers import IDLE_TIMEOUT
from tests.containerd.conftest import await_nothing_left
from tests.containerd.test_ctr import expect
from tests.helpers.cli import kata, ps, start
from tests.helpers.containerd import RUNTIME, Containerd

pytestmark = [pytest.mark.containerd, pytest.mark.root, pytest.mark.timeout(600)]

NAME = "managed-sandbox"
CONFIG = """
[hypervisor.qemu]
image = "{image}"
[agent.kata]
debug_console_enabled = true
"""


@pytest.fixture(scope="module")
def sandbox(daemon: Containerd, debug_image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containerd]:
    """A running container, with a shell in its guest."""
    folder = tmp_path_factory.mktemp("debug")
    (folder / "configuration.toml").write_text(CONFIG.format(image=debug_image))
    options = ("--runtime-config-path", str(folder / "configuration.toml"))
    daemon.run(NAME, "sleep", "100000", options=options)
    yield daemon
    daemon.remove(NAME)
    assert await_nothing_left(daemon) == []


def ask(method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
    """A request the way any HTTP client makes it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(60)
        sock.connect(str(paths.sandboxes_dir() / NAME / "shim-monitor.sock"))
        sock.sendall(f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        said = b""
        while data := sock.recv(65536):
            said += data
    head, _, answer = said.partition(b"\r\n\r\n")
    return int(head.split()[1]), answer


def test_the_socket_is_roots_and_the_bundle_says_where(sandbox: Containerd) -> None:
    path = paths.sandboxes_dir() / NAME / "shim-monitor.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    [bundle] = (sandbox.folder / "state").glob(f"*/default/{NAME}")
    assert (bundle / "monitor_address").read_text() == f"unix://{path}"


def test_metrics_of_every_part(sandbox: Containerd) -> None:
    text = kata("metrics", NAME[:5], check=True).stdout.decode()
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert int(values['kata_shim_rpc_durations_histogram_milliseconds_count{action="create"}']) == 1
    name = "kata_shim_agent_rpc_durations_histogram_milliseconds_count"
    assert int(values[f'{name}{{action="grpc.CreateContainerRequest"}}']) == 1
    for prefix in ("shim", "hypervisor", "virtiofsd", "agent"):
        assert int(values[f"kata_{prefix}_threads"]) >= 1
        assert int(values[f'kata_{prefix}_proc_status{{item="vmrss"}}']) > 1 << 20
    total = int(values['kata_guest_meminfo{item="mem_total"}'])
    assert 100 << 20 < total < 4 << 30
    assert int(values["kata_shim_pod_overhead_memory_in_bytes"]) > 50 << 20
    assert float(values["kata_shim_pod_overhead_cpu"]) >= 0
    assert int(values["kata_agent_process_open_fds"]) > 3
    assert ask("GET", "/metrics")[0] == 200


def test_where_the_agent_is(sandbox: Containerd) -> None:
    status, answer = ask("GET", "/agent-url")
    assert status == 200
    scheme, _, rest = answer.decode().partition("://")
    assert scheme == "vsock" or Path(rest).is_socket()
    assert ask("GET", "/nothing")[0] == 404
    assert ask("POST", "/metrics")[0] == 405


def test_the_packet_filter_of_an_image_without_iptables(sandbox: Containerd) -> None:
    done = kata("iptables", "get", NAME)
    assert done.returncode == 1
    assert b"iptables" in done.stderr
    done = kata("iptables", "set", NAME, stdin=b"*filter\nCOMMIT\n")
    assert done.returncode == 1 and b"iptables" in done.stderr
    assert ask("GET", "/ip6tables")[0] == 502


def test_a_policy_that_the_guest_does_not_understand_changes_nothing(sandbox: Containerd, tmp_path: Path) -> None:
    (path := tmp_path / "p.rego").write_text("this is no policy")
    done = kata("policy", "set", NAME, str(path))
    assert done.returncode == 1 and b"SetPolicy" in done.stderr
    assert sandbox.exec(NAME, "p1", "true").returncode == 0


def test_ps_says_whose_it_is(sandbox: Containerd) -> None:
    [found] = [one for one in ps() if one["id"] == NAME]
    assert (found["manager"], found["namespace"], found["status"]) == ("containerd", "default", "running")
    line = next(line for line in kata("ps", check=True).stdout.decode().splitlines() if line.startswith(NAME[:12]))
    assert "containerd/default" in line and " Up " in line


@pytest.mark.parametrize("words", [["stop"], ["rm", "-f"], ["exec"], ["logs"]], ids=lambda words: words[0])
def test_commands_that_are_containerds(sandbox: Containerd, words: list[str]) -> None:
    done = kata(*words, NAME, *(["true"] if words == ["exec"] else []))
    assert done.returncode in (1, 125)
    assert b"belongs to containerd" in done.stderr and b"ctr --namespace default task" in done.stderr
    assert sandbox.status(NAME) == "RUNNING"


def test_names_that_are_wrong(sandbox: Containerd) -> None:
    for words in (["metrics"], ["iptables", "get"], ["console"]):
        done = kata(*words, "no-such")
        assert b"there is no sandbox no-such" in done.stderr


def test_the_guests_own_shell(sandbox: Containerd) -> None:
    done = kata("console", NAME, "--", "sh", "-c", "cat /proc/1/cmdline; echo err >&2; exit 5")
    assert done.returncode == 5, done.stderr
    assert b"/sbin/init" in done.stdout and done.stdout.endswith(b"err\n")
    done = kata("console", NAME, stdin=b"x=7\necho \"a$x\" 'b'\nexit $((x * 2))\n")
    assert (done.stdout, done.returncode) == (b"a7 b\n", 14), done.stderr


def test_the_guests_own_shell_on_a_terminal(sandbox: Containerd) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 33, 99, 0, 0))
    process = start("console", NAME, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    expect(ours, b"stty rows 33 columns 99")
    os.write(ours, b"stty size\r")
    expect(ours, b"33 99")
    os.write(ours, b"\x1d")
    assert process.wait(30) == 0
    os.close(ours)


def test_env_on_this_host(sandbox: Containerd) -> None:
    found = json.loads(kata("env", "--json", check=True).stdout)
    assert found["Meta"]["Version"] == "1.0.27"
    assert found["Hypervisor"]["Version"].startswith("QEMU emulator version")
    assert found["Host"]["VMContainerCapable"] is True


def test_a_sandbox_that_nobody_asks_for_anything_lives_on(sandbox: Containerd) -> None:
    time.sleep(IDLE_TIMEOUT + 3)  # until the shim's thread that has created it has ended
    assert sandbox.status(NAME) == "RUNNING"
    assert sandbox.exec(NAME, "idle", "true").returncode == 0


def test_containerd_takes_what_install_writes(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    default = subprocess.run(["containerd", "config", "default"], capture_output=True, check=True).stdout
    for text in (default, b"version = 2\n", None):
        config.unlink(missing_ok=True)
        if text is not None:
            config.write_bytes(text)
        kata("install", "containerd", "--config", str(config), "--bin-dir", str(tmp_path), check=True)
        dump = subprocess.run(
            ["containerd", "-c", str(config), "config", "dump"], capture_output=True, check=True
        ).stdout.decode()
        table = dump.partition("containerd.runtimes.kata]")[2].partition("[plugins.")[0]
        assert f'runtime_type = "{RUNTIME}"' in table and "privileged_without_host_devices = true" in table
        assert table.count('["io.katacontainers.*"]') == 2
        kata("install", "containerd", "--config", str(config), "--bin-dir", str(tmp_path), "--undo", check=True)
        assert (config.read_bytes() if config.exists() else None) == text
