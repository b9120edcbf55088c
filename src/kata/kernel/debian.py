"""The default guest kernel: Debian's own package, taken apart without being installed.

Called by `kata kernel fetch` and by whoever makes sure that assets are there. Gives `vmlinuz` and, as Debian's
drivers are modules, the small `initrd.img` that loads them.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Literal, NamedTuple

from kata.kernel import asset, initrd, modules, packages
from kata.kernel.asset import Manifest, Package
from kata.kernel.errors import PackageError
from kata.kernel.packages import Progress

Flavour = Literal["generic", "cloud"]

META_PACKAGES = ("linux-image-6.12-{}amd64", "linux-image-{}amd64")
"""Where the newest kernel is found: Debian 12 keeps 6.12 beside its own 6.1, later releases have one."""
OLDEST = (6, 6)
"""erofs over virtio with all that the image uses; Debian 12's own 6.1 lacks a part."""

KERNEL = "vmlinuz"
INITRD = "initrd.img"
BUSYBOX = "busybox-static"


class Contents(NamedTuple):
    """What is taken out of a kernel package."""

    release: str
    vmlinuz: bytes
    modules: dict[str, bytes]
    built_in: tuple[str, ...]


def fetch(output: Path, progress: Progress, *, version: str | None = None, flavour: Flavour = "generic") -> Manifest:
    """Put Debian's kernel, its initrd and their manifests into `output`; returns the kernel's manifest.

    `version` is the start of a version (`6.12.117`), None the newest. Nothing is downloaded twice, and nothing
    is written when `output` holds that very package already. Raises KernelError.
    """
    with asset.locked(output):
        cache = packages.cache_dir("kernel")
        name = find(version, flavour, progress)
        kernel, kernel_deb = _download(name, cache, progress)
        busybox, busybox_deb = _download(BUSYBOX, cache, progress)
        for old in set(cache.glob("*.deb")) - {kernel_deb, busybox_deb}:  # 100 MB each, and never used again
            old.unlink(missing_ok=True)
        inputs = initrd.input_hash((kernel, busybox))
        present = current(output)
        if present is not None and present.inputs == inputs:
            progress(f"kernel {present.release} is there already")
            return present
        progress(f"unpacking {name}")
        contents = read(kernel_deb)
        return _publish(output, contents, kernel, busybox, _busybox_of(busybox_deb), inputs, progress)


def renew(output: Path, progress: Progress) -> Manifest:
    """Make the initrd in `output` anew, with the very kernel that is there as long as apt has it, else the newest.

    For an initrd that is whole but made by other lists than today's. Raises KernelError.
    """
    present = current(output)
    release = present.release if present is not None else ""
    flavour: Flavour = "cloud" if release.endswith("-cloud-amd64") else "generic"
    version = release.removesuffix("-amd64").removesuffix("-cloud")
    progress("the initrd is older than what it is made from")
    if version and _lookup(version, flavour) is None:
        version = ""
    return fetch(output, progress, version=version or None, flavour=flavour)


def current(output: Path) -> Manifest | None:
    """The manifest of the kernel in `output` when kernel and initrd are both whole, else None."""
    found = asset.read_manifest(output / KERNEL)
    return found if found is not None and asset.read_manifest(output / INITRD) is not None else None


def find(version: str | None, flavour: Flavour, progress: Progress) -> str:
    """The name of the kernel package to use; apt's lists are updated once when it is not known.

    Raises PackageError when there is none.
    """
    name = _lookup(version, flavour)
    if name is None:
        packages.update(progress)
        name = _lookup(version, flavour)
    if name is None:
        raise PackageError(
            f"apt knows no kernel package {version or '6.12'} for amd64",
            hint="the machine needs Debian 12 with its security archive, or newer; or run `kata kernel build`",
        )
    return name


def _lookup(version: str | None, flavour: Flavour) -> str | None:
    infix = "cloud-" if flavour == "cloud" else ""
    if version is None:
        known = [name for meta in META_PACKAGES for name in packages.dependencies_of(meta.format(infix))]
    else:
        known = packages.names(f"linux-image-{version}")
    # The version has to end where it says: 6.12.9 is not 6.12.90. Flavours have their names between - and -.
    start = f"{re.escape(version)}(?![0-9])" if version else ""
    fitting = re.compile(rf"linux-image-{start}[^-]*-{infix}amd64")
    usable = [name for name in known if fitting.fullmatch(name) and (_numbers(name) or (0,)) >= OLDEST]
    return max(usable, key=lambda name: _numbers(name) or (), default=None)


def _numbers(name: str) -> tuple[int, ...] | None:
    """The version in `linux-image-6.12.117+deb12-amd64`."""
    match = re.match(r"linux-image-(\d+)\.(\d+)\.(\d+)", name)
    return tuple(int(group) for group in match.groups()) if match else None


def _download(name: str, cache: Path, progress: Progress) -> tuple[Package, Path]:
    candidate = packages.candidate(name)
    path = cache / packages.filename(*candidate)
    if not path.exists():
        progress(f"downloading {name}")
        packages.fetch([name], cache)
    return Package(candidate[0], candidate[1], asset.hash_file(path)), path


def read(deb: Path) -> Contents:
    """Kernel, modules and the list of what is built in, from a kernel package."""
    wanted = {modules.canonical(name) for name in (*modules.AT_BOOT, *modules.ON_DEMAND)}
    release, vmlinuz, built_in = "", b"", ""
    code: dict[str, tuple[str, bytes]] = {}
    with packages.contents(deb) as tar:
        for member in tar:
            stream = tar.extractfile(member) if member.isreg() else None
            if stream is None:
                continue
            base = member.name.rpartition("/")[2]
            name = modules.name_of(member.name)
            if name is not None:
                code[name] = (member.name, stream.read())
            elif base.startswith("vmlinuz-"):
                release, vmlinuz = base.removeprefix("vmlinuz-"), stream.read()
            elif base == "modules.builtin":
                built_in = stream.read().decode()
    if not vmlinuz:
        raise PackageError(f"the package {deb.name} holds no kernel")
    inside = tuple(name for line in built_in.split() if (name := modules.name_of(line)) is not None)
    return Contents(release, vmlinuz, _unpacked(code, wanted), inside)


def _unpacked(packed: dict[str, tuple[str, bytes]], wanted: set[str]) -> dict[str, bytes]:
    """The modules in `wanted` and, round by round, those they need."""
    spelling = {modules.canonical(name): name for name in packed}
    done: dict[str, bytes] = {}
    while wanted:
        name = wanted.pop()
        if name not in spelling or spelling[name] in done:
            continue
        code = modules.decompress(*packed[spelling[name]])
        done[spelling[name]] = code
        wanted |= set(modules.needed_by(code))
    return done


def _busybox_of(deb: Path) -> bytes:
    with packages.contents(deb) as tar:
        for member in tar:
            if member.isreg() and member.name.endswith("bin/busybox"):
                stream = tar.extractfile(member)
                return stream.read() if stream is not None else b""
    raise PackageError(f"the package {deb.name} holds no busybox")


def _publish(
    output: Path,
    contents: Contents,
    kernel: Package,
    busybox: Package,
    shell: bytes,
    inputs: str,
    progress: Progress,
) -> Manifest:
    chosen = modules.select(contents.modules, contents.built_in)
    progress("building the initrd")
    archive = initrd.build(shell, chosen)
    first = _describe(INITRD, archive, inputs, (busybox, kernel), contents.release, chosen)
    second = _describe(KERNEL, contents.vmlinuz, inputs, (kernel,), contents.release, chosen)
    with asset.workspace(output, "kernel") as folder:
        for manifest, data in ((first, archive), (second, contents.vmlinuz)):
            (folder / manifest.name).write_bytes(data)
            asset.publish(folder / manifest.name, output / manifest.name, manifest)
    return second


def _describe(
    name: str, data: bytes, inputs: str, used: tuple[Package, ...], release: str, chosen: modules.Modules
) -> Manifest:
    on_demand = tuple(sorted(set(chosen.code) - set(chosen.at_boot)))
    return Manifest(
        name=name,
        sha256=hashlib.sha256(data).hexdigest(),
        size=len(data),
        inputs=inputs,
        packages=used,
        release=release,
        modules_at_boot=chosen.at_boot,
        modules_on_demand=on_demand,
        modules_built_in=chosen.built_in,
    )
