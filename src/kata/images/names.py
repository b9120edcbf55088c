"""Image names: what is a valid one, and the short form under which the store keeps it.

The grammar is the one that registries use (github.com/distribution/reference): `[host[:port]/]path[:tag][@digest]`.
Pure functions, called by the store and by `classify`. Never add look-ups here.
"""

from __future__ import annotations

import re

from kata.images.errors import InvalidNameError

MAX_LENGTH = 255
"""Characters of a name in its long form."""
HUB = "docker.io"
DIGEST = r"sha256:[0-9a-f]{64}"

_HOST = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_PATH = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
_NAME = re.compile(
    rf"(?P<repository>(?:(?P<host>{_HOST}(?:\.{_HOST})*(?::[0-9]{{1,5}})?)/)?(?P<path>{_PATH}(?:/{_PATH})*))"
    rf"(?::(?P<tag>\w[\w.-]{{0,127}}))?(?:@(?P<digest>{DIGEST}))?",
    re.ASCII,
)


def normalise(name: str) -> str:
    """The short, complete form: `busybox` -> `busybox:latest`, `docker.io/library/x` -> `x:latest`.

    `docker.io/a.b/x` keeps its host: `a.b/x` is another image, of the registry a.b.
    Raises InvalidNameError for anything outside the grammar.
    """
    host, path, rest = _split(name)
    if host != HUB or ("/" in path and _is_host(path.partition("/")[0])):
        return f"{host}/{path}{rest}"
    return path.removeprefix("library/") + rest if path.count("/") == 1 else path + rest


def qualify(name: str) -> str:
    """The long form with the registry's host: `busybox` -> `docker.io/library/busybox:latest`."""
    host, path, rest = _split(name)
    return f"{host}/{path}{rest}"


def _split(name: str) -> tuple[str, str, str]:
    """Host, path and `:tag` or `@digest` (a tag beside a digest says nothing more, and is dropped)."""
    match = _NAME.fullmatch(name) if len(name) <= MAX_LENGTH else None
    if match is None:
        raise InvalidNameError(
            f"{name[:MAX_LENGTH]!r} is not an image name",
            hint="small letters, digits, '.', '_', '-' and '/', then perhaps ':' and a tag",
        )
    host, path = _place(match)
    rest = f"@{match['digest']}" if match["digest"] else f":{match['tag'] or 'latest'}"
    if len(f"{host}/{path}{rest}") > MAX_LENGTH:
        raise InvalidNameError(f"{name!r} is too long for an image name", hint=f"{MAX_LENGTH} characters with the host")
    return host, path, rest


def _place(match: re.Match[str]) -> tuple[str, str]:
    """Host and path: a first component is a host only when it has a dot or a port, or is `localhost`."""
    host, path = match["host"] or "", match["path"]
    if host and not _is_host(host):
        if not re.fullmatch(_PATH, host):
            raise InvalidNameError(
                f"{match[0]!r} is not an image name", hint="capital letters are allowed in the tag only"
            )
        host, path = "", f"{host}/{path}"
    if host in ("", HUB, f"index.{HUB}"):
        return HUB, path if "/" in path else f"library/{path}"
    return host, path


def _is_host(component: str) -> bool:
    return "." in component or ":" in component or component == "localhost"
