"""Just enough of HTTP/1.1 (RFC 9112) for one request a connection: pure functions over bytes.

Used by `server`. Whoever connects is root on this host, but what it sends is believed in nothing: every length has a
limit, and whatever is not understood exactly is refused. The standard library's server would cost a sandbox 5 MiB.
"""

from __future__ import annotations

import re
import urllib.parse
from typing import NamedTuple

from kata.management.errors import HttpError

HEAD_LIMIT = 16 << 10
BODY_LIMIT = 4 << 20
"""Bytes. Rules and policies go to the agent in one message, which has at most 4 MiB."""
FIELDS_LIMIT = 64
END_OF_HEAD = b"\r\n\r\n"

REQUEST_LINE = re.compile(rb"([A-Z]{1,16}) ([!-~]{1,8192}) HTTP/1\.([01])")
FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([\t\x20-\x7e\x80-\xff]*)")
LENGTH = re.compile(r"[0-9]{1,10}")

REASONS = {
    200: "OK",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    409: "Conflict",
    411: "Length Required",
    413: "Content Too Large",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
    505: "HTTP Version Not Supported",
}
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Head(NamedTuple):
    """A request up to its body, which has `length` bytes. `waits`: the client sends it when it is told to."""

    method: str
    path: str
    query: dict[str, str]
    length: int
    waits: bool


class Request(NamedTuple):
    """A whole request; `query` has the last value of each name."""

    method: str
    path: str
    query: dict[str, str]
    body: bytes


class Response(NamedTuple):
    """An answer. A `status` of 200 means that it is what was asked for."""

    body: bytes = b""
    status: int = 200
    type: str = "text/plain; charset=utf-8"


def parse_head(data: bytes) -> Head:
    """The head of a request, without the empty line that ends it. Raises HttpError."""
    first, *lines = data.split(b"\r\n")
    match = REQUEST_LINE.fullmatch(first)
    if match is None:
        if re.fullmatch(rb"[A-Z]+ [!-~]+ HTTP/[0-9.]+", first):
            raise HttpError(505, "HTTP/1.0 or 1.1 is spoken here")
        raise HttpError(400, "the request line makes no sense")
    fields = _fields(lines)
    path, query = _target(match[2].decode("ascii"))
    waits = fields.get("expect", "").lower() == "100-continue" and match[3] == b"1"
    return Head(match[1].decode("ascii"), path, query, _length(fields), waits)


def render(response: Response, *, head_only: bool = False) -> bytes:
    """The bytes of an answer, after which the connection ends."""
    head = (
        f"HTTP/1.1 {response.status} {REASONS[response.status]}\r\n"
        f"Content-Type: {response.type}\r\n"
        f"Content-Length: {len(response.body)}\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode("ascii") + (b"" if head_only else response.body)


def failure(status: int, text: str) -> Response:
    """An answer that is no success: a sentence for people."""
    return Response(f"{text}\n".encode("utf-8", "replace"), status)


def _fields(lines: list[bytes]) -> dict[str, str]:
    if len(lines) > FIELDS_LIMIT:
        raise HttpError(431, f"more than {FIELDS_LIMIT} header fields")
    found: dict[str, str] = {}
    for line in lines:
        match = FIELD.fullmatch(line)
        if match is None:
            raise HttpError(400, "a header field makes no sense")
        name = match[1].decode("ascii").lower()
        if name in found and name in ("content-length", "host"):
            raise HttpError(400, f"{name} is given twice")
        found[name] = match[2].decode("latin-1").strip(" \t")
    return found


def _length(fields: dict[str, str]) -> int:
    if "transfer-encoding" in fields:
        raise HttpError(411, "the body must come with its Content-Length, not in chunks")
    text = fields.get("content-length", "0")
    if not LENGTH.fullmatch(text):
        raise HttpError(400, "the Content-Length is no number")
    if int(text) > BODY_LIMIT:
        raise HttpError(413, f"the body may have {BODY_LIMIT} bytes")
    return int(text)


def _target(target: str) -> tuple[str, dict[str, str]]:
    """Path and query of a request's target; clients of sockets also send it as a whole URL."""
    if target.startswith("http://"):
        _, slash, rest = target[len("http://") :].partition("/")
        target = slash + rest or "/"
    if not target.startswith("/"):
        raise HttpError(400, "the request's target is no path")
    path, _, query = target.partition("?")
    pairs = [pair.partition("=") for pair in query.split("&") if pair]
    return _unescape(path), {_unescape(name, plus=True): _unescape(value, plus=True) for name, _, value in pairs}


def _unescape(text: str, *, plus: bool = False) -> str:
    try:
        found = urllib.parse.unquote_to_bytes(text.replace("+", " ") if plus else text).decode()
    except UnicodeDecodeError:
        raise HttpError(400, "the request's target is no UTF-8") from None
    if "\0" in found:
        raise HttpError(400, "the request's target has a zero byte")
    return found
