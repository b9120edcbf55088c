"""skopeo copies images of every kind into an OCI layout of ours; nothing else here talks to registries.

A user's string is only ever the part after a transport prefix, behind `--`. Called by the store. Never parse an
archive or speak to a registry here.
"""

from __future__ import annotations

import re
from pathlib import Path

from kata.images import layout
from kata.images.errors import ImageError, InvalidNameError, MalformedImageError, NoSpaceError
from kata.images.source import Kind, Source
from kata.images.tarheaders import BadArchiveError, Bounded, most_unpacked, open_compressed
from kata.images.workspace import bounded, free_bytes
from kata.linux import process
from kata.linux.process import ProcessError

TIMEOUT = 900.0
OPERATORS_POLICY = Path("/etc/containers/policy.json")
OPEN_POLICY = b'{"default":[{"type":"insecureAcceptAnything"}]}'
"""containers-policy.json(5): no signatures asked for."""

_REF = "image"
_ZSTD = "+zstd"
_SAFE_REF = re.compile(r"[A-Za-z0-9._/@+\-][A-Za-z0-9._:/@+\-]{0,254}", re.ASCII)
_MESSAGE = re.compile(r'level=fatal msg="((?:[^"\\]|\\.)*)"')


def fetch(source: Source, work: Path) -> Path:
    """Copy the image at `source` into a new layout with one entry in `work`, and return the layout.

    Raises ImageError with skopeo's last words as the detail; NoSpaceError.
    """
    target = work / "layout"
    if source.kind is Kind.DOCKER_ARCHIVE:
        source = _expand(source, work)
    _copy(_describe(source), target, work, _policy(source, work), ("--dest-oci-accept-uncompressed-layers",))
    if _has_zstd(target):
        # umoci reads gzip only, so such layers are packed anew; the digest is another one then.
        packed = work / "repacked"
        options = ("--dest-compress-format", "gzip")
        _copy(f"oci:{target}:{_REF}", packed, work, work / "policy.json", options)
        target = packed
    return target


def _expand(source: Source, work: Path) -> Source:
    """A compressed archive of `docker save` as a plain one: skopeo 1.9 finds an "unexpected EOF" in such files.

    Raises NoSpaceError before the file system is full, MalformedImageError.
    """
    path = Path(source.path)
    try:
        opened = open_compressed(path)
    except OSError:
        opened = None  # skopeo says it better
    if opened is None:
        return source
    plain, left = work / "expanded.tar", free_bytes(work)
    try:
        with opened, plain.open("xb") as target:
            packed = Bounded(opened, most_unpacked(path))
            while chunk := packed.read(1 << 20):
                left -= len(chunk)
                if left < 0:
                    raise NoSpaceError(f"{source.path} does not fit on this file system once it is unpacked")
                target.write(chunk)
    except BadArchiveError as error:
        raise MalformedImageError(f"{source.path} is no usable archive", detail=str(error)) from None
    return Source(source.kind, str(plain), source.ref)


def _policy(source: Source, work: Path) -> Path:
    """For registries the operator's policy where there is one; a file on this host was chosen by its user."""
    own = work / "policy.json"
    own.write_bytes(OPEN_POLICY)
    return OPERATORS_POLICY if source.kind is Kind.REGISTRY and OPERATORS_POLICY.exists() else own


def _describe(source: Source) -> str:
    """The source as skopeo writes it."""
    if source.kind is Kind.REGISTRY:
        return f"docker://{source.path}"
    path = str(Path(source.path).resolve())
    if ":" in path:
        raise InvalidNameError(f"{path} has a colon in it, which skopeo cannot take", hint="rename it or link to it")
    if source.ref and not _SAFE_REF.fullmatch(source.ref):
        raise InvalidNameError(f"{source.ref[:80]!r} cannot name an image in {path}")
    return f"{source.kind.value}:{path}" + (f":{source.ref}" if source.ref else "")


def _copy(source: str, target: Path, work: Path, policy: Path, options: tuple[str, ...]) -> None:
    argv = [
        "skopeo", "--policy", str(policy), "--tmpdir", str(work),
        "copy", "--quiet", "--format", "oci", *options,
        "--", source, f"oci:{target}:{_REF}",
    ]  # fmt: skip
    try:
        # No file can be larger than what is free: a bomb ends before the file system is full.
        process.run(bounded(argv, free_bytes(work)), timeout=TIMEOUT)
    except ProcessError as error:
        raise _explain(error, source) from None


def _explain(error: ProcessError, source: str) -> ImageError:
    if error.returncode is None:
        return ImageError(error.what, hint=error.hint, detail=error.detail)
    if error.returncode == 127 or "failed to execute skopeo" in error.detail:
        return ImageError("the program skopeo is not installed", hint="apt-get install skopeo")
    detail = last_words(error.detail)
    if "file too large" in detail or error.returncode < 0:
        return NoSpaceError(f"{source} does not fit on this file system", detail=detail)
    return ImageError(
        f"{source} cannot be copied", hint="skopeo's own words are below; is that the image you meant?", detail=detail
    )


def last_words(output: str) -> str:
    """skopeo's fatal message without its log line's wrapping; the last line where there is none."""
    found = _MESSAGE.findall(output)
    if found:
        return str(found[-1]).replace('\\"', '"').replace("\\\\", "\\")
    return output.strip().rpartition("\n")[2]


def _has_zstd(target: Path) -> bool:
    manifests = layout.read_index(target).manifests
    return any(
        layer.media_type.endswith(_ZSTD)
        for descriptor in manifests
        for layer in layout.read_manifest(target, descriptor).layers
    )
