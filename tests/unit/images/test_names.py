"""Names are normalised to one form each, and nothing else passes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata.images.errors import InvalidNameError
from kata.images.names import normalise, qualify

HEX = "a" * 64


@pytest.mark.parametrize(
    ("name", "short", "long"),
    [
        ("busybox", "busybox:latest", "docker.io/library/busybox:latest"),
        ("busybox:1.36", "busybox:1.36", "docker.io/library/busybox:1.36"),
        ("docker.io/library/busybox", "busybox:latest", "docker.io/library/busybox:latest"),
        ("docker.io/busybox", "busybox:latest", "docker.io/library/busybox:latest"),
        ("index.docker.io/library/x", "x:latest", "docker.io/library/x:latest"),
        ("docker.io/a.b/x", "docker.io/a.b/x:latest", "docker.io/a.b/x:latest"),  # not the registry a.b's
        ("docker.io/localhost/x", "docker.io/localhost/x:latest", "docker.io/localhost/x:latest"),
        ("org/app", "org/app:latest", "docker.io/org/app:latest"),
        ("library/app", "app:latest", "docker.io/library/app:latest"),
        ("docker.io/library/a/b", "library/a/b:latest", "docker.io/library/a/b:latest"),
        ("quay.io/org/app:v1", "quay.io/org/app:v1", "quay.io/org/app:v1"),
        ("localhost/x", "localhost/x:latest", "localhost/x:latest"),
        ("localhost:5000/x", "localhost:5000/x:latest", "localhost:5000/x:latest"),
        ("HOST.example/x:T", "HOST.example/x:T", "HOST.example/x:T"),
        (f"x@sha256:{HEX}", f"x@sha256:{HEX}", f"docker.io/library/x@sha256:{HEX}"),
        (f"x:1@sha256:{HEX}", f"x@sha256:{HEX}", f"docker.io/library/x@sha256:{HEX}"),
        ("a__b-c---d.e", "a__b-c---d.e:latest", "docker.io/library/a__b-c---d.e:latest"),
    ],
)
def test_forms(name: str, short: str, long: str) -> None:
    assert normalise(name) == short
    assert qualify(name) == long
    assert normalise(long) == short


@pytest.mark.parametrize(
    "name",
    [
        "", " ", "-x", "--help", "UPPER", "Upper/x", "a//b", "/a", "a/", "a:", "a:-x", "a: b", "a\n", "a\0", "../a",
        "a..b", "a/../b", "a:b:c", "a@b", f"a@sha256:{HEX[1:]}", f"a@sha512:{HEX}", "ä", "a:é", "\u0661", "a:\u0661",
        "x" * 256, "x" * 231, f"a:{'x' * 129}", "a___b", "host:123456/x", "http://x",
    ],
)  # fmt: skip
def test_refused(name: str) -> None:
    with pytest.raises(InvalidNameError):
        normalise(name)


@given(st.text(alphabet="ab.:/@-_A1", max_size=40))
def test_normal_form_is_stable_and_safe(name: str) -> None:
    try:
        short = normalise(name)
    except InvalidNameError:
        return
    assert normalise(short) == short
    assert normalise(qualify(name)) == short
    assert not short.startswith(("-", "/", "."))
