"""Option values: what Docker's users type is understood, everything else is refused in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata.ctl import values
from kata.ctl.errors import UsageError
from kata.hypervisor.machine import PublishedPort


@pytest.mark.parametrize(
    ("text", "mib"),
    [("512m", 512), ("512M", 512), ("1g", 1024), ("1.5g", 1536), ("268435456", 256), ("131072k", 128), ("512mb", 512)],
)
def test_memory_sizes(text: str, mib: int) -> None:
    assert values.memory_mib(text) == mib


@pytest.mark.parametrize("text", ["", "m", "lots", "-1g", "16m", "0", "1x", "512 m", "1e3m", "٣g"])
def test_memory_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        values.memory_mib(text)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "port"),
    [
        ("8080:80", PublishedPort(8080, 80)),
        ("53:5353/udp", PublishedPort(53, 5353, "udp")),
        ("0.0.0.0:8080:80/tcp", PublishedPort(8080, 80, "tcp", "0.0.0.0")),
    ],
)
def test_ports(text: str, port: PublishedPort) -> None:
    assert values.port(text) == port


@pytest.mark.parametrize(
    "text",
    ["80", "", ":", "a:80", "80:a", "0:80", "65536:80", "1:2:3:4", "x.y:1:2", "80:80/sctp", "80,id=x:80", "٨:80"],
)
def test_ports_refused(text: str) -> None:
    with pytest.raises(UsageError):
        values.port(text)


@given(st.text())
def test_a_port_is_numbers_or_a_usage_error(text: str) -> None:
    try:
        port = values.port(text)
    except UsageError:
        return
    assert 0 < port.host_port < 65536
    assert 0 < port.guest_port < 65536
    assert all(char in "0123456789." for char in port.host_address)


def test_volumes(tmp_path: Path) -> None:
    source = tmp_path / "data"
    source.mkdir()
    link = tmp_path / "link"
    link.symlink_to(source)
    volume = values.volume(f"{link}:/data/../srv:ro")
    assert (volume.source, volume.destination, volume.readonly) == (str(source), "/srv", True)
    assert not values.volume(f"{source}:/data").readonly


@pytest.mark.parametrize(
    "text", ["data:/data", "/nowhere-at-all:/data", "/tmp:data", "/tmp:/", "/tmp", "/tmp:/d:rx", ":/x"]
)
def test_volumes_refused(text: str) -> None:
    with pytest.raises(UsageError):
        values.volume(text)


def test_environment() -> None:
    assert values.environment(["A=1", "B", "C", "D="], {"B": "2"}) == ("A=1", "B=2", "D=")
    with pytest.raises(UsageError):
        values.environment(["=1"], {})


@pytest.mark.parametrize("text", ["0", "-1", "x", "nan", "inf", "1000", ""])
def test_cpus_refused(text: str) -> None:
    with pytest.raises(UsageError):
        values.cpus(text)


@pytest.mark.parametrize(
    ("text", "good"), [("web", True), ("a", False), ("-web", False), ("a/b", False), ("w" * 65, False)]
)
def test_names(text: str, good: bool) -> None:
    if good:
        assert values.name(text) == text
    else:
        with pytest.raises(UsageError):
            values.name(text)


@pytest.mark.parametrize(("text", "good"), [("web", True), ("a.b-c", True), ("-a", False), ("a_b", False), ("", False)])
def test_hostnames(text: str, good: bool) -> None:
    if good:
        assert values.hostname(text) == text
    else:
        with pytest.raises(UsageError):
            values.hostname(text)
