"""Who a process runs as is never guessed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata.images.errors import UnknownUserError
from kata.images.users import MAX_ID, ResolvedUser, resolve_user

PASSWD = """root:x:0:0:root:/root:/bin/sh
web:x:33:34:web:/var/www:/bin/false
web:x:0:0:second:/root:/bin/sh
1000:x:5:5:a number for a name:/five:/bin/sh
some:x:1001:1002::relative:/bin/sh
"""
GROUP = """root:x:0:
www:x:34:web
staff:x:50:some,web
again:x:50:web
webby:x:60:webx,xweb
44:x:4:web
"""


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("", ResolvedUser(0, 0, (), "/root", "root")),
        ("root", ResolvedUser(0, 0, (), "/root", "root")),
        ("0", ResolvedUser(0, 0, (), "/root", "root")),
        ("web", ResolvedUser(33, 34, (34, 50, 4), "/var/www", "web")),
        ("33", ResolvedUser(33, 34, (34, 50, 4), "/var/www", "web")),
        ("0033", ResolvedUser(33, 34, (34, 50, 4), "/var/www", "web")),
        ("web:staff", ResolvedUser(33, 50, (), "/var/www", "web")),
        ("web:44", ResolvedUser(33, 44, (), "/var/www", "web")),
        ("33:33", ResolvedUser(33, 33, (), "/var/www", "web")),
        ("1000", ResolvedUser(1000, 0, (), "/", "")),
        ("1000:1000", ResolvedUser(1000, 1000, (), "/", "")),
        ("some", ResolvedUser(1001, 1002, (50,), "/", "some")),
        (str(MAX_ID), ResolvedUser(MAX_ID, 0, (), "/", "")),
        (f"5:{MAX_ID}", ResolvedUser(5, MAX_ID, (), "/five", "1000")),
    ],
)
def test_forms(user: str, expected: ResolvedUser) -> None:
    assert resolve_user(user, PASSWD, GROUP) == expected


@pytest.mark.parametrize(
    "user",
    [
        "nobody", "web:nogroup", ":", ":0", ":root", "web:", "0:", "a:b:c", "0:0:0", "-1", "+0", " 0", "0 ", "0x0",
        "1e3", "1_0", "\u0660", "0:-1", "0:\u0660", "4294967295", "4294967296",
        "0:4294967295", "18446744073709551616", "9" * 5000,
        "root\n", "root\0", "x", "*",
    ],
)  # fmt: skip
def test_refused(user: str) -> None:
    with pytest.raises(UnknownUserError):
        resolve_user(user, PASSWD, GROUP)


@pytest.mark.parametrize(
    "line",
    [
        "evil:x:-1:0::/:", "evil:x:4294967295:0::/:", "evil:x:4294967296:0::/:", "evil:x::0::/:", "evil:x:0:::/:",
        "evil:x:0x0:0::/:", "evil:x: 0:0::/:", "evil:x:0", "evil", "evil:x:0:0:::::", ":x:77:0::/:", "#evil:x:0:0::/:",
        "+evil::::::", "good:x:5:5:\x0bevil:x:0:0::/:",
        "good:x:5:5:\u2028evil:x:0:0::/:/x", "good:x:5:5:\revil:x:0:0::/:",
    ],
)  # fmt: skip
def test_a_crafted_line_is_no_line(line: str) -> None:
    with pytest.raises(UnknownUserError):
        resolve_user("evil", f"{line}\n", "")
    assert resolve_user("77", f"{line}\n", "").username == ""


def test_crafted_groups_are_no_groups() -> None:
    group = "a:x:-1:web\nb:x:4294967295:web\nc:x::web\nd:x:5\ne:x:6:web:x\nf:x:9:web\n"
    assert resolve_user("web", PASSWD, group).additional_gids == (9,)
    for name in "abcde":
        with pytest.raises(UnknownUserError):
            resolve_user(f"web:{name}", PASSWD, group)


def test_too_many_groups() -> None:
    group = "".join(f"g{n}:x:{n}:web\n" for n in range(1, 65538))
    with pytest.raises(UnknownUserError, match="65537 groups"):
        resolve_user("web", PASSWD, group)


def test_huge_files_are_quick() -> None:
    text = ":" * (1 << 20)
    assert resolve_user("7", text, text) == ResolvedUser(7, 0)
    members = "web:x:1:" + "web," * 250_000
    assert resolve_user("web", PASSWD, members).additional_gids == (1,)


NAMES = st.text(alphabet="ab0:-+ \n\r\0٣\u2028", max_size=12)


@given(NAMES, st.text(alphabet="ab01:-\n\r,x/", max_size=200), st.text(alphabet="ab01:-\n,", max_size=100))
def test_only_what_was_asked_for(user: str, passwd: str, group: str) -> None:
    try:
        resolved = resolve_user(user, passwd, group)
    except UnknownUserError:
        return
    assert 0 <= resolved.uid <= MAX_ID
    assert 0 <= resolved.gid <= MAX_ID
    wanted = user.partition(":")[0] or "0"
    if wanted.isdigit():
        assert resolved.uid == int(wanted)
    else:
        assert any(line.startswith(f"{wanted}:") for line in passwd.split("\n"))
        assert resolved.username == wanted
