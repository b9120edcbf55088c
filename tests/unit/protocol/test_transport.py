"""Addresses: unix sockets of any path, hybrid vsock's handshake, ports of a device, and what must be refused."""

from __future__ import annotations

import errno
import os
import pty
import socket
import stat
import threading
import time
import tty
from collections.abc import Callable
from pathlib import Path

import pytest

from kata.linux.fds import set_pipe_size
from kata.protocol import serial, transport
from kata.protocol.connection import (
    READ_PIECE,
    WRITE_PIECE,
    Connection,
    DeviceConnection,
    SocketConnection,
    Stalled,
)
from kata.protocol.serial import SerialListener
from kata.protocol.transport import dial, listen


def exchange(client: Connection, server: Connection) -> None:
    """Bytes go both ways, then the end is seen."""
    with client, server:
        client.write(b"to the server")
        assert server.read(100) == b"to the server"
        server.write(b"to the client")
        assert client.read(100) == b"to the client"
        client.shutdown()
        assert server.read(100) == b""


def in_thread(run: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_unix_sockets_are_for_their_owner_alone_and_go_with_their_listener(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    with listen(f"unix://{path}") as listener:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        exchange(dial(f"unix://{path}", 5), listener.accept(5))
    assert not path.exists()


def test_unix_paths_may_be_longer_than_a_socket_address(tmp_path: Path) -> None:
    path = tmp_path / ("d" * 120) / ("s" * 60)
    path.parent.mkdir()
    with listen(f"unix://{path}") as listener:
        assert path.is_socket()
        exchange(dial(f"unix://{path}", 5), listener.accept(5))


def test_an_abandoned_socket_is_replaced_and_a_live_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with listen(f"unix://{path}") as listener:
        with pytest.raises(OSError, match=str(path)) as caught:
            listen(f"unix://{path}")
        assert caught.value.errno == errno.EADDRINUSE
        listener.accept(5).close()  # the question whether somebody lives there
        exchange(dial(f"unix://{path}", 5), listener.accept(5))


def test_what_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("precious")
    with pytest.raises(OSError, match="in use"):
        listen(f"unix://{path}")
    assert path.read_text() == "precious"


def test_a_socket_that_somebody_else_made_meanwhile_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    first = listen(f"unix://{path}")
    path.unlink()
    with listen(f"unix://{path}"):
        first.close()
        assert path.is_socket()


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("/run/agent.sock", "no address"),
        ("unix://@abstract", "absolute path"),
        ("unix://relative", "absolute path"),
        ("tcp://127.0.0.1:1", "unknown"),
        ("vsock://guest:1024", "vsock://<cid>:<port>"),
        ("vsock://3", "vsock://<cid>:<port>"),
        ("hvsock:///path", "hvsock://<path>:<port>"),
        ("hvsock:///path:-1", "hvsock://<path>:<port>"),
        ("serial:///dev/vport0p1", "listen-only"),
    ],
)
def test_addresses_that_cannot_be_dialled(address: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        dial(address, 1)


def test_hybrid_vsock_is_not_listened_at() -> None:
    with pytest.raises(ValueError, match="dial-only"):
        listen("hvsock:///path:1024")


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing"):
        dial(f"unix://{tmp_path}/nothing", 1)


def test_a_listener_that_does_not_accept_costs_the_timeout(tmp_path: Path) -> None:
    path = tmp_path / "full"
    with socket.socket(socket.AF_UNIX) as full:
        full.bind(str(path))
        full.listen(0)
        with dial(f"unix://{path}", 1):
            start = time.monotonic()
            with pytest.raises(TimeoutError):
                dial(f"unix://{path}", 0.2)
            assert 0.15 < time.monotonic() - start < 3


def test_accept_ends_with_its_timeout_and_with_close(tmp_path: Path) -> None:
    listener = listen(f"unix://{tmp_path}/s")
    with pytest.raises(TimeoutError):
        listener.accept(0.05)
    errors: list[int | None] = []

    def accept() -> None:
        try:
            listener.accept()
        except OSError as error:
            errors.append(error.errno)

    thread = in_thread(accept)
    time.sleep(0.05)
    listener.close()
    thread.join(10)
    assert errors == [errno.EBADF]
    listener.close()


def test_vsock() -> None:
    with listen("vsock://-1:40713") as listener:
        # Without a hypervisor's transport only the local CID answers, and only where the kernel has loopback.
        assert isinstance(listener, transport.SocketListener)
        assert listener._socket.family == socket.AF_VSOCK
        assert listener._socket.getsockname() == (socket.VMADDR_CID_ANY, 40713)


class Vmm:
    """A VMM's hybrid vsock socket that gives `answers` in turn (None hangs up) and passes the last one on."""

    def __init__(self, path: Path, answers: list[bytes | None]) -> None:
        self.asked: list[bytes] = []
        self.connection: socket.socket | None = None
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen()
        self._socket.settimeout(10)
        self._answers = answers
        self.thread = in_thread(self._run)

    def _run(self) -> None:
        for answer in self._answers:
            connection, _ = self._socket.accept()
            self.asked.append(connection.recv(64))
            if answer is not None:
                connection.sendall(answer)
            if answer is not None and answer.startswith(b"OK"):
                self.connection = connection
            else:
                connection.close()
        self._socket.close()


def test_hybrid_vsock_tries_until_the_guest_listens_and_takes_no_byte_of_its(tmp_path: Path) -> None:
    vmm = Vmm(tmp_path / "v", [None, b"NO\n", b"no line at all, but " * 9, b"OK 1073741824\nhello"])
    connection = dial(f"hvsock://{tmp_path}/v:1024", 10)
    vmm.thread.join(10)
    assert vmm.asked == [b"CONNECT 1024\n"] * 4
    assert vmm.connection is not None
    assert connection.read(100) == b"hello"
    exchange(connection, SocketConnection(vmm.connection))


def test_hybrid_vsock_gives_up_at_its_deadline(tmp_path: Path) -> None:
    start = time.monotonic()
    with pytest.raises(FileNotFoundError):
        dial(f"hvsock://{tmp_path}/v:1024", 0.3)
    assert time.monotonic() - start < 3


def test_a_silent_vmm_costs_the_timeout(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "v"))
        silent.listen()
        with pytest.raises(TimeoutError):
            dial(f"hvsock://{tmp_path}/v:1024", 0.3)


class Port:
    """A terminal in raw mode: as a virtio-serial port, a device with a far side that comes and goes."""

    def __init__(self) -> None:
        self.host, guest = pty.openpty()
        tty.setraw(guest)
        self.path = os.ttyname(guest)
        self._guest = guest

    def close(self) -> None:
        os.close(self.host)
        os.close(self._guest)


def test_a_port_serves_one_host_at_a_time_and_anew_after_each() -> None:
    port = Port()
    with listen(f"serial://{port.path}") as listener:
        for _ in range(2):
            with listener.accept(5) as connection:
                assert isinstance(connection, DeviceConnection)
                os.write(port.host, b"ask")
                assert connection.read(100) == b"ask"
                connection.write(b"answer")
                assert os.read(port.host, 100) == b"answer"
                with pytest.raises(TimeoutError, match="in use"):
                    listener.accept(0.05)
    port.close()


def test_a_port_is_waited_for_until_its_host_connects(monkeypatch: pytest.MonkeyPatch) -> None:
    port = Port()
    connected = threading.Event()
    monkeypatch.setattr(serial, "host_connected", lambda fd: connected.is_set())
    monkeypatch.setattr(serial, "RECHECK", 0.02)
    listener = SerialListener(port.path)
    with pytest.raises(TimeoutError, match="did not connect"):
        listener.accept(0.1)
    taken: list[Connection] = []
    thread = in_thread(lambda: taken.append(listener.accept(10)))
    assert taken == []
    connected.set()
    thread.join(10)
    taken[0].close()
    listener.close()
    port.close()


def test_closing_a_port_s_listener_ends_its_accept() -> None:
    port = Port()
    listener = SerialListener(port.path)
    connection = listener.accept(5)
    errors: list[int | None] = []

    def accept() -> None:
        try:
            listener.accept()
        except OSError as error:
            errors.append(error.errno)

    thread = in_thread(accept)
    listener.close()
    thread.join(10)
    assert errors == [errno.EBADF]
    connection.close()
    port.close()


def test_a_device_takes_a_message_in_pieces_whatever_it_takes_at_once() -> None:
    source, sink = os.pipe()
    set_pipe_size(sink, 4096)
    connection = Connection.from_fd(sink)
    head, tail = os.urandom(7), os.urandom(3 * WRITE_PIECE + 5)
    got: list[bytes] = []
    thread = in_thread(lambda: got.extend(iter(lambda: os.read(source, 999), b"")))
    connection.write(head, time.monotonic() + 20, None, memoryview(tail))
    connection.close()
    thread.join(20)
    os.close(source)
    assert b"".join(got) == head + tail


def test_a_device_that_is_not_read_says_how_much_it_took() -> None:
    source, sink = os.pipe()
    set_pipe_size(sink, 4096)
    connection = Connection.from_fd(sink)
    with pytest.raises(Stalled) as caught:
        connection.write(b"x" * 1000, time.monotonic() + 0.05, None, b"y" * 5000)
    assert os.read(source, 10000) == b"x" * 1000 + b"y" * (caught.value.sent - 1000)
    connection.close()
    os.close(source)


def test_a_device_gives_many_pieces_in_one_read() -> None:
    source, sink = os.pipe()
    connection = Connection.from_fd(source)
    data = os.urandom(5 * READ_PIECE + 3)
    os.write(sink, data)
    assert connection.read(4 * READ_PIECE) == data[: 4 * READ_PIECE]
    assert connection.read(100) == data[4 * READ_PIECE : 4 * READ_PIECE + 100]
    assert connection.read(8 * READ_PIECE) == data[4 * READ_PIECE + 100 :]
    os.close(sink)
    assert connection.read(100) == b""
    connection.close()


def test_host_connected_tells_a_port_s_hang_up() -> None:
    port = Port()
    fd = os.open(port.path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    assert serial.host_connected(fd)
    os.close(port.host)
    assert not serial.host_connected(fd)
    os.close(fd)
    os.close(port._guest)


def test_shutdown_wakes_a_reader_of_a_device() -> None:
    port = Port()
    connection = Connection.from_fd(os.open(port.path, os.O_RDWR | os.O_NOCTTY))
    got: list[bytes] = []
    thread = in_thread(lambda: got.append(connection.read(10)))
    time.sleep(0.05)
    connection.shutdown()
    thread.join(10)
    assert got == [b""]
    with pytest.raises(BrokenPipeError):
        connection.write(b"too late")
    connection.close()
    connection.close()
    assert connection.fileno() == -1
    port.close()
