"""What each kind of value takes, in a file and in an annotation, and that what it writes is read again."""

from __future__ import annotations

import datetime
import tomllib
from typing import Any

import pytest

from kata.config.kinds import (
    BadValueError,
    Choice,
    Encoded,
    Flag,
    Integer,
    Kind,
    Mebibytes,
    Milliseconds,
    Number,
    Path,
    Records,
    Regex,
    Seconds,
    Text,
    Words,
)
from kata.config.values import SharedMount

MOUNT = {"name": "n", "src_ctr": "a", "src_path": "/a", "dst_ctr": "b", "dst_path": "/b"}
DRIVERS = Choice("virtio-blk", "none", synonyms={"virtio-blk-pci": "virtio-blk"})


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (Flag(), True, True),
        (Integer(), 0, 0),
        (Integer(-1), -1, -1),
        (Number(), 2, 2.0),
        (Number(-5), -0.5, -0.5),
        (Mebibytes(), 2048, 2048),
        (Seconds(), 45, 45.0),
        (Milliseconds(), 1500, 1.5),
        (Text(), "quiet panic=1", "quiet panic=1"),
        (Text(lines=True), "a\nb", "a\nb"),
        (DRIVERS, "virtio-blk-pci", "virtio-blk"),
        (Path(), "", ""),
        (Path(), "/usr/bin/x", "/usr/bin/x"),
        (Words(), ["a", "b"], ("a", "b")),
        (Regex(), "enable_.*", "enable_.*"),
        (Records(SharedMount), [MOUNT], (SharedMount("n", "a", "/a", "b", "/b"),)),
    ],
)
def test_values_of_files(kind: Kind[Any], value: object, expected: object) -> None:
    assert kind.from_toml(value) == expected
    assert kind.from_toml(tomllib.loads(f"x = {kind.to_toml(expected)}")["x"]) == expected


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Flag(), 1),
        (Flag(), "true"),
        (Integer(), True),
        (Integer(), 1.0),
        (Integer(), -1),
        (Integer(), 2**32),
        pytest.param(Integer(), 1 << 40000, id="huge-integer"),
        (Number(), float("nan")),
        (Number(), float("inf")),
        (Number(), "1"),
        pytest.param(Number(), 1 << 40000, id="huge-number"),
        (Text(), 3),
        (Text(), "a\0b"),
        (Text(), "a\nb"),
        (Text("[a-z]*"), "A"),
        (Text(), datetime.date(2026, 1, 1)),
        (DRIVERS, "virtio"),
        (Path(), "usr/bin"),
        (Path(), "/usr/../etc/passwd"),
        (Words(), "a"),
        (Words(), ["a", 1]),
        (Words(Path()), ["a"]),
        (Regex(), "("),
        (Records(SharedMount), [{"name": "n"}]),
        (Records(SharedMount), [{**MOUNT, "more": "x"}]),
        (Records(SharedMount), MOUNT),
        (Records(SharedMount), ["x"]),
    ],
)
def test_values_that_cannot_be(kind: Kind[Any], value: object) -> None:
    with pytest.raises(BadValueError) as caught:
        kind.from_toml(value)
    assert len(caught.value.why) < 200


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        *[(Flag(), text, True) for text in ("1", "t", "T", "TRUE", "true", "True")],
        *[(Flag(), text, False) for text in ("0", "f", "F", "FALSE", "false", "False")],
        (Integer(), "17", 17),
        (Integer(-1), "-1", -1),
        (Number(), "1.5", 1.5),
        (Number(), "2", 2.0),
        (Mebibytes(), "2048", 2048),
        (Mebibytes(), "2Gi", 2048),
        (Mebibytes(), "2GiB", 2048),
        (Mebibytes(), "1 GB", 953),
        (Mebibytes(), "536870912B", 512),
        (Milliseconds(), "250", 0.25),
        (Words(), " a  b ", ("a", "b")),
        (Words(separator=";"), "e1000e EEE=1; i915", ("e1000e EEE=1", "i915")),
        (Words(separator=r"[\s,]+"), "one, two three", ("one", "two", "three")),
        (Encoded(lines=True), "cGFja2FnZQo=", "package\n"),
        (Records(SharedMount), "[]", ()),
    ],
)
def test_values_of_annotations(kind: Kind[Any], text: str, expected: object) -> None:
    assert kind.from_text(text) == expected


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Flag(), "yes"),
        (Flag(), ""),
        (Flag(), " true"),
        (Integer(), "0x10"),
        (Integer(), "1_000"),
        (Integer(), "٣"),
        pytest.param(Integer(), "9" * 5000, id="long-integer"),
        (Number(), "1e3"),
        (Number(), "nan"),
        (Mebibytes(), "2 Zi"),
        (Mebibytes(), "-1"),
        (Mebibytes(), "9" * 15 + "Ti"),
        (Encoded(), "%%%"),
        (Encoded(), "/w=="),
        (Records(SharedMount), "{"),
        pytest.param(Records(SharedMount), "[" * 100000, id="deep-json"),
        (Records(SharedMount), '{"name": 1}'),
    ],
)
def test_annotations_that_cannot_be(kind: Kind[Any], text: str) -> None:
    with pytest.raises(BadValueError):
        kind.from_text(text)
