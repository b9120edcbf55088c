"""The log for the host: whole lines to readers that come, go and do not read; and nobody waits for them."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kata.agent.logstream import LogStream
from kata.log import Logger
from kata.protocol.connection import Connection
from kata.protocol.transport import dial, listen


class Reader:
    """A host that reads lines."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._rest = b""

    def line(self) -> dict[str, str]:
        while b"\n" not in self._rest:
            data = self._connection.read(65536)
            assert data, self._rest
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        record: dict[str, str] = json.loads(line)
        assert all(isinstance(value, str) for value in record.values())
        return record


@pytest.fixture
def stream(tmp_path: Path) -> Iterator[tuple[LogStream, str]]:
    made = LogStream(lambda: "", version="1.2.3", limit=4000)
    address = f"unix://{tmp_path}/log.sock"
    with listen(address) as listener:

        def serve() -> None:
            with pytest.raises(OSError):  # the listener is closed at the end
                made.serve(listener)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield made, address
    made.put({"level": "info", "msg": "wakes the thread up"})


@pytest.mark.timeout(30)
def test_records_go_to_the_reader_in_upstreams_form_and_to_the_console(stream: tuple[LogStream, str]) -> None:
    made, address = stream
    console = os.memfd_create("console")
    log = Logger(console, name="kata-agent")
    log.forward = made.put
    log.bind(container="box").warn("first", count=1)  # before anybody reads
    with dial(address, 5.0) as connection:
        reader = Reader(connection)
        first = reader.line()
        assert {key: first[key] for key in ("level", "msg", "name", "source", "version", "container", "count")} == {
            "level": "WARN",
            "msg": "first",
            "name": "kata-agent",
            "source": "agent",
            "version": "1.2.3",
            "container": "box",
            "count": "1",
        }
        assert first["pid"] == str(os.getpid())
        log.debug("not at this level")
        log.error("second")
        assert (reader.line()["level"], os.pread(console, 9999, 0).count(b"\n")) == ("ERRO", 2)
    os.close(console)


@pytest.mark.timeout(30)
def test_nobody_reads_and_what_was_dropped_is_said(stream: tuple[LogStream, str]) -> None:
    made, address = stream
    for number in range(1000):
        made.put({"level": "info", "msg": f"record {number}"})
    with dial(address, 5.0) as connection:
        reader = Reader(connection)
        said = [reader.line() for _ in range(5)]
    # One record may have been on its way already when others pushed the rest out.
    confession = next(record for record in said if record["msg"] == "log records were dropped")
    kept = [int(record["msg"].split()[1]) for record in said if record["msg"].startswith("record")]
    assert 900 < int(confession["dropped"]) < 1000
    assert kept == sorted(kept) and kept[-1] > 900


@pytest.mark.timeout(30)
def test_the_next_reader_gets_what_the_last_one_left(stream: tuple[LogStream, str]) -> None:
    made, address = stream
    with dial(address, 5.0) as connection:
        made.put({"level": "info", "msg": "one"})
        assert Reader(connection).line()["msg"] == "one"
    made.put({"level": "info", "msg": "two"})
    with dial(address, 5.0) as connection:
        assert Reader(connection).line()["msg"] == "two"
