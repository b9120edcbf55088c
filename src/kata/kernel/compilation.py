"""The tuned guest kernel: built from Debian's source with our configuration fragments, everything built in.

Called by `kata kernel build`. It needs no initrd, is half the size of Debian's and starts in a fraction of the
time, but takes about ten minutes on two cores: nothing builds it unasked.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from kata.kernel import asset, config, packages, source
from kata.kernel.asset import Manifest, Package
from kata.kernel.debian import INITRD, KERNEL
from kata.kernel.errors import ConfigError, KernelError, ToolError
from kata.kernel.packages import Progress
from kata.linux import process

SOURCES = ("linux-source-6.12", "linux-source")
TOOLS = {
    "bc": "bc",
    "bison": "bison",
    "flex": "flex",
    "gcc": "gcc",
    "ld": "binutils",
    "make": "make",
    "perl": "perl",
    "zstd": "zstd",
}
HEADERS = {"gelf.h": "libelf-dev", "openssl/opensslv.h": "libssl-dev"}
HEADER_FOLDERS = (Path("/usr/include"), Path("/usr/include/x86_64-linux-gnu"))
BUILD_TIMEOUT = 7200.0
CONFIGURE_TIMEOUT = 300.0
BUILT = "arch/x86/boot/bzImage"

FIXED = {
    "KBUILD_BUILD_TIMESTAMP": "Thu Jan  1 00:00:00 UTC 1970",
    "KBUILD_BUILD_USER": "kata",
    "KBUILD_BUILD_HOST": "kata",
    "KBUILD_BUILD_VERSION": "1",
}
"""What would differ from build to build (Documentation/kbuild/reproducible-builds.rst)."""


def build(output: Path, progress: Progress, *, jobs: int | None = None, fragments: Sequence[str] = ()) -> Manifest:
    """Build a kernel and put it into `output` in the place of any other; an initrd there is removed, as this
    kernel has its drivers inside. `fragments` are names of ours or paths; all of ours when there are none.

    Raises ToolError with the line to install what is missing, ConfigError when Kconfig dropped an option,
    KernelError when the compiler gives up.
    """
    check_tools()
    options = config.join(config.choose(fragments))
    with asset.locked(output), asset.workspace(output, "build") as folder:
        package, deb = _download(progress)
        progress("unpacking the kernel source")
        tree = source.unpack(deb, folder)
        progress("configuring")
        configure(tree, options)
        progress("compiling; about ten minutes on two cores")
        _make(tree, ("bzImage",), BUILD_TIMEOUT, jobs or os.cpu_count() or 1)
        return _publish(tree, folder, output, package, options)


def check_tools() -> None:
    """Raise ToolError, with the apt-get line, for all programs and headers that are missing."""
    missing = {package for tool, package in TOOLS.items() if shutil.which(tool, path=process.PATH) is None}
    missing |= {
        package
        for header, package in HEADERS.items()
        if not any((folder / header).exists() for folder in HEADER_FOLDERS)
    }
    if missing:
        raise ToolError(
            f"a kernel build needs {', '.join(sorted(missing))}",
            hint=f"apt-get install --no-install-recommends {' '.join(sorted(missing))} libc6-dev",
        )


def _download(progress: Progress) -> tuple[Package, Path]:
    cache = packages.cache_dir("source")
    for name in SOURCES:
        found = packages.candidate_or_none(name)
        if found is not None:
            path = cache / packages.filename(*found)
            if not path.exists():
                progress(f"downloading {name} {found[1]}")
                packages.fetch([name], cache)
            packages.prune(cache, {path.name})
            return Package(found[0], found[1], asset.hash_file(path)), path
    raise KernelError("apt knows no package with kernel sources", hint="run apt-get update and try again")


def configure(tree: Path, options: dict[str, str]) -> None:
    """Write the .config of `tree`: the options asked for, what they need, and nothing else.

    Raises ConfigError with every option that came out otherwise.
    """
    wanted = tree / "kata.config"
    wanted.write_text(config.render(options))
    _make(tree, ("allnoconfig",), CONFIGURE_TIMEOUT, 1, {"KCONFIG_ALLCONFIG": str(wanted)})
    lost = config.dropped(options, config.parse((tree / ".config").read_text()))
    if lost:
        raise ConfigError(
            f"{len(lost)} options are not what the fragments ask for, {lost[0].option} first",
            hint="name what they depend on in the fragment, or take them out",
            detail="\n".join(f"{entry.option}: asked {entry.asked}, is {entry.found}" for entry in lost),
        )


def _make(tree: Path, targets: Sequence[str], timeout: float, jobs: int, extra: dict[str, str] | None = None) -> None:
    try:
        process.run(
            ("nice", "-n", "10", "make", "-s", f"-j{jobs}", "ARCH=x86_64", *targets),
            timeout=timeout,
            cwd=str(tree),
            env={**FIXED, **(extra or {})},
        )
    except process.ProcessError as error:
        raise KernelError(
            f"the kernel's make {targets[0]} failed",
            hint="look for a missing program or a full disk in what it wrote",
            detail=error.detail,
        ) from error


def _publish(tree: Path, folder: Path, output: Path, package: Package, options: dict[str, str]) -> Manifest:
    built = folder / KERNEL
    shutil.copyfile(tree / BUILT, built)
    release = (tree / "include/config/kernel.release").read_text().strip()
    manifest = Manifest(
        name=KERNEL,
        sha256=asset.hash_file(built),
        size=built.stat().st_size,
        inputs=hashlib.sha256(f"{package}{config.render(options)}".encode()).hexdigest(),
        packages=(package,),
        release=release,
        options=tuple(f"{name}={value}" for name, value in sorted(options.items())),
    )
    asset.publish(built, output / KERNEL, manifest)
    for stale in (output / INITRD, asset.manifest_path(output / INITRD)):
        stale.unlink(missing_ok=True)
    return manifest
