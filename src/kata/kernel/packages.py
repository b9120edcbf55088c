"""Debian packages by the machine's own apt: found, downloaded into our cache, read without being installed.

Used by the kernel and the osbuilder room. apt checks signatures and hashes against the sources that the machine
trusts; nothing here names a server. Nothing here may change what is installed on the machine.
"""

from __future__ import annotations

import contextlib
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

from kata import paths
from kata.kernel.asset import Package, hash_file
from kata.kernel.errors import PackageError
from kata.linux import process

Progress = Callable[[str], None]

QUERY_TIMEOUT = 120.0
DOWNLOAD_TIMEOUT = 900.0
QUIET = ("-q", "-o", "APT::Sandbox::User=root", "-o", "Debug::NoLocking=1")
"""The cache belongs to us, not to apt's own user; apt's locks guard its own folders only."""

INSTALLED = re.compile(r"^Inst (\S+) \((\S+) .*\[(\w+)\]\)", re.MULTILINE)
"""A line of `apt-get --simulate install`: name, version, architecture."""


def cache_dir(name: str) -> Path:
    """Our cache of .deb files for one purpose."""
    path = paths.cache_dir() / "packages" / name
    path.mkdir(parents=True, exist_ok=True)
    return path


def dependencies_of(name: str) -> list[str]:
    """The packages that `name` depends on directly; empty when apt does not know it."""
    answer = process.run(
        ("apt-cache", "--no-recommends", "--no-suggests", "depends", name), timeout=QUERY_TIMEOUT, ok=(0, 100)
    )
    return re.findall(r"^\s+\|?Depends: (\S+)$", answer.stdout.decode(), re.MULTILINE)


def names(prefix: str) -> list[str]:
    """The names of all packages known to apt that start with `prefix`."""
    answer = process.run(("apt-cache", "pkgnames", prefix), timeout=QUERY_TIMEOUT)
    return sorted(answer.stdout.decode().split())


def update(progress: Progress) -> None:
    """Bring apt's package lists up to date.

    Raises PackageError when no list could be had.
    """
    progress("updating the package lists")
    try:
        process.run(("apt-get", "-q", "update"), timeout=DOWNLOAD_TIMEOUT)
    except process.ProcessError as error:
        raise PackageError(
            "the package lists cannot be updated",
            hint="check the network and the machine's apt sources, or run apt-get update by hand",
            detail=error.detail,
        ) from error


def candidate_or_none(name: str) -> tuple[str, str, str] | None:
    """(name, version, architecture) of the package that apt would install, None when it does not know it."""
    answer = process.run(("apt-cache", "show", "--no-all-versions", name), timeout=QUERY_TIMEOUT, ok=(0, 100))
    found = dict(re.findall(r"^(Package|Version|Architecture): (\S+)$", answer.stdout.decode(), re.MULTILINE))
    return (found["Package"], found["Version"], found["Architecture"]) if len(found) == 3 else None


def candidate(name: str) -> tuple[str, str, str]:
    """Like `candidate_or_none`, but raises PackageError when apt does not know the package."""
    found = candidate_or_none(name)
    if found is None:
        raise PackageError(f"apt does not know the package {name}", hint="run apt-get update and try again")
    return found


def simulate(wanted: Sequence[str], status: Path) -> list[tuple[str, str, str]]:
    """(name, version, architecture) of `wanted` and all they depend on, on a machine with nothing installed."""
    answer = process.run((*_installer(status), "--simulate", "install", *wanted), timeout=QUERY_TIMEOUT)
    return sorted(INSTALLED.findall(answer.stdout.decode()))


def resolve(wanted: Sequence[str], progress: Progress) -> list[tuple[str, str, str]]:
    """Like `simulate`, with the package lists updated once when apt does not know a package.

    Raises PackageError when that did not help.
    """
    status = cache_dir("status") / "empty"
    status.write_bytes(b"")
    with contextlib.suppress(process.ProcessError):
        return simulate(wanted, status)
    update(progress)
    try:
        return simulate(wanted, status)
    except process.ProcessError as error:
        raise PackageError(
            f"apt does not know how to install {' '.join(wanted)}",
            hint="the machine needs Debian 12 or newer and its main archive among the apt sources",
            detail=error.detail,
        ) from error


def _installer(status: Path) -> tuple[str, ...]:
    """apt-get for a machine with nothing installed: `status` is an empty list of packages."""
    return ("apt-get", *QUIET, "-o", f"Dir::State::status={status}", "--no-install-recommends", "--yes")


def filename(name: str, version: str, architecture: str) -> str:
    """The name under which apt stores a package: the epoch's colon is written as %3a."""
    return f"{name}_{version.replace(':', '%3a')}_{architecture}.deb"


def download_closure(wanted: Sequence[str], cache: Path, progress: Progress) -> list[tuple[Package, Path]]:
    """`wanted` and all they depend on, as .deb files in `cache`, where other versions of them are removed.

    Packages that are there already are not downloaded again. Raises PackageError when one cannot be had.
    """
    found = resolve(wanted, progress)
    files = {filename(*entry): entry for entry in found}
    missing = [entry for file, entry in files.items() if not (cache / file).exists()]
    if missing:
        progress(f"downloading {len(missing)} packages")
        fetch([f"{name}={version}" for name, version, _ in missing], cache)
    prune(cache, set(files))
    return [
        (Package(name, version, hash_file(cache / file)), cache / file) for file, (name, version, _) in files.items()
    ]


def fetch(wanted: Sequence[str], cache: Path) -> None:
    """Download the packages `wanted` (`name` or `name=version`), and only them, into `cache`."""
    try:
        process.run(("apt-get", *QUIET, "download", *wanted), timeout=DOWNLOAD_TIMEOUT, cwd=str(cache))
    except process.ProcessError as error:
        raise PackageError(
            f"{wanted[0] if len(wanted) == 1 else f'{len(wanted)} packages'} cannot be downloaded",
            hint="check the network, then run apt-get update and try again",
            detail=error.detail,
        ) from error


def prune(cache: Path, keep: set[str]) -> None:
    """Remove older and newer versions of the packages whose files are in `keep`; others stay for who uses them."""
    kept = {file.partition("_")[0] for file in keep}
    for path in cache.glob("*.deb"):
        if path.name not in keep and path.name.partition("_")[0] in kept:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def contents(deb: Path) -> Iterator[tarfile.TarFile]:
    """The files of a package as a stream: read each member before going on to the next.

    Raises PackageError when the package is damaged.
    """
    child = process.spawn(("dpkg-deb", "--fsys-tarfile", str(deb)), stdout=-1)
    assert child.stdout is not None
    stream: IO[bytes] = child.stdout
    try:
        with tarfile.open(fileobj=stream, mode="r|") as tar:
            yield tar
        while stream.read(1 << 20):  # dpkg-deb reports damage only to a reader that stays to the end
            pass
        if child.wait(timeout=QUERY_TIMEOUT):
            raise _damaged(deb)
    except (tarfile.TarError, EOFError) as error:
        raise _damaged(deb) from error
    finally:
        child.kill()
        child.wait()
        stream.close()


def _damaged(deb: Path) -> PackageError:
    return PackageError(f"the package {deb.name} cannot be read", hint=f"remove {deb} and try again")
