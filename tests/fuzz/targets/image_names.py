"""Names of images and references to them, as people, Kubernetes and archives write them."""

from __future__ import annotations

from kata.images import names, users
from kata.images.errors import ImageError, InvalidNameError, UnknownUserError
from kata.images.source import Kind, classify, is_explicit

SEEDS = (
    b"docker.io/library/busybox:1.36\0root:x:0:0:root:/root:/bin/sh\nu:x:1:2::/srv/u:\0g:x:3:u\n",
    b"localhost:5000/a/b@sha256:" + b"a" * 64 + b"\0u:x:1:2:a\0",
    b"oci-archive:/a/b.tar:c\0\0",
    b"apt://busybox-static\0u:x:4294967295:1::/:\0",
    b"u:g\0u:x:1:2::/srv/u:\0g:x:3:u\n",
)
TOKENS = (
    b"/",
    b":",
    b"@",
    b"sha256:",
    b"..",
    b"://",
    b"docker://",
    b"oci:",
    b"\0",
    b"\n",
    b"4294967295",
    b"\xd9\xa1",
    b"-",
)


def target(data: bytes) -> None:
    """A reference, a passwd file and a group file, apart by zero bytes."""
    word, passwd, group = [*data.decode("utf-8", "replace").split("\0"), "", ""][:3]
    _name(word)
    is_explicit(word)
    try:
        source = classify(word, lambda path: Kind.OCI_ARCHIVE if "a" in path else None)
    except ImageError as error:
        assert len(error.what) < 5000
    else:
        assert not source.path.startswith("-")
        assert source.kind is Kind.REGISTRY or source.kind is Kind.BUSYBOX or source.path.startswith("/")
    try:
        user = users.resolve_user(word, passwd, group)
    except UnknownUserError as error:
        assert error.what.isprintable()
    else:
        assert all(0 <= number <= users.MAX_ID for number in (user.uid, user.gid, *user.additional_gids))
        assert user.home.startswith("/")


def _name(word: str) -> None:
    """What is a name has one short form and one long one, and each leads to the other."""
    try:
        short = names.normalise(word)
    except InvalidNameError as error:
        assert error.what.isprintable()
        return
    long = names.qualify(word)
    assert names.normalise(short) == short
    assert names.normalise(long) == short
    assert names.qualify(short) == long
    assert not short.startswith("-")
