"""The parser of requests: what is understood, what is refused, and that nothing else ever happens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata.management.errors import HttpError
from kata.management.http import BODY_LIMIT, REASONS, Head, Response, failure, parse_head, render

GOOD = b"GET /metrics HTTP/1.1\r\nHost: localhost"


def test_a_request_with_everything() -> None:
    head = parse_head(
        b"PUT /direct-volume/stats?path=%2Fa%20b+c&x= HTTP/1.1\r\n"
        b"Host: x\r\nContent-Length: 12 \r\nExpect: 100-continue"
    )
    assert head == Head("PUT", "/direct-volume/stats", {"path": "/a b c", "x": ""}, 12, True)


def test_a_whole_url_and_an_old_client() -> None:
    assert parse_head(b"GET http://localhost/metrics?a=b HTTP/1.0\r\nExpect: 100-continue") == Head(
        "GET", "/metrics", {"a": "b"}, 0, False
    )
    assert parse_head(b"GET http://localhost HTTP/1.1").path == "/"


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"", 400),
        (b"GET /metrics", 400),
        (b"GET  /metrics HTTP/1.1", 400),
        (b"get /metrics HTTP/1.1", 400),
        (b"GET /metrics HTTP/2.0", 505),
        (b"GET metrics HTTP/1.1", 400),
        (b"GET /%ff HTTP/1.1", 400),
        (b"GET /%00 HTTP/1.1", 400),
        (b"GET /\xc3\xa4 HTTP/1.1", 400),
        (GOOD + b"\r\nno colon", 400),
        (GOOD + b"\r\nBad name: x", 400),
        (GOOD + b"\r\nA: b\r\n folded: c", 400),
        (GOOD + b"\r\nA: \x01", 400),
        (GOOD + b"\r\nhost: other", 400),
        (GOOD + b"\r\nContent-Length: 1\r\nContent-Length: 2", 400),
        (GOOD + b"\r\nContent-Length: -1", 400),
        (GOOD + b"\r\nContent-Length: \xb2", 400),
        (GOOD + b"\r\nContent-Length: 0x10", 400),
        (GOOD + b"\r\nContent-Length: " + str(BODY_LIMIT + 1).encode(), 413),
        (GOOD + b"\r\nContent-Length: " + b"9" * 40, 400),
        (GOOD + b"\r\nTransfer-Encoding: chunked", 411),
        (GOOD + b"\r\nTransfer-Encoding: chunked\r\nContent-Length: 5", 411),
        (GOOD + b"\r\nA: b" * 70, 431),
    ],
)
def test_what_is_refused(head: bytes, status: int) -> None:
    with pytest.raises(HttpError) as caught:
        parse_head(head)
    assert caught.value.status == status


def test_a_head_of_blanks_takes_no_time() -> None:
    with pytest.raises(HttpError):
        parse_head(GOOD + b"\r\nA:" + b" \t" * 8000 + b"\x00")


@given(st.binary(max_size=400))
def test_any_bytes_are_a_request_or_an_error(data: bytes) -> None:
    try:
        head = parse_head(data)
    except HttpError as error:
        assert error.status in REASONS
    else:
        assert head.path.startswith("/") and "\0" not in head.path and 0 <= head.length <= BODY_LIMIT


@given(st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=60), st.binary())
def test_any_path_and_value_come_through(text: str, junk: bytes) -> None:
    import urllib.parse

    query = urllib.parse.urlencode({"path": text})
    head = parse_head(f"GET /{urllib.parse.quote(text, safe='')}?{query} HTTP/1.1\r\nHost: x".encode())
    assert (head.path, head.query) == (f"/{text}", {"path": text})
    with pytest.raises(HttpError):
        parse_head(b"GET / HTTP/1.1\r\n\x00" + junk)


def test_answers() -> None:
    said = render(Response(b"text", type="text/x"))
    assert said.startswith(b"HTTP/1.1 200 OK\r\n") and said.endswith(b"\r\n\r\ntext")
    assert b"Content-Length: 4\r\n" in said and b"Connection: close\r\n" in said
    assert render(Response(b"text"), head_only=True).endswith(b"\r\n\r\n")
    assert failure(404, "no\ud800").body == b"no?\n"
