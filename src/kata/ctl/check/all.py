"""All checks of `kata check`, in the order in which they are shown."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from kata import paths
from kata.ctl.check import host, programs
from kata.ctl.check.finding import Finding, fail, ok, warn
from kata.errors import KataError

NO_VSOCK = "not needed: the agent is reached by a virtio-serial port instead"
NO_VHOST_NET = "not needed: networks go through QEMU"
NO_TUN = "needed for pod networks (later); user-mode networks do without"


def findings(*, probe: bool) -> Iterator[Finding]:
    """Look at one thing after the other. With `probe`, hardware virtualisation is tried by booting a kernel."""
    yield host.rights()
    yield accelerator(probe=probe)
    yield host.memory()
    yield host.disk("data", paths.data_dir())
    yield host.disk("state", paths.state_dir(), need_mib=64)
    yield host.cgroups()
    yield host.filesystem("overlay", "only tests on this host use it")
    yield host.filesystem("erofs", "only tests on this host use it; guests have their own")
    yield host.device("tun", Path("/dev/net/tun"), NO_TUN)
    yield host.device("vhost-vsock", Path("/dev/vhost-vsock"), NO_VSOCK)
    yield host.device("vhost-net", Path("/dev/vhost-net"), NO_VHOST_NET)
    yield host.open_files()
    yield from (programs.check(program) for program in programs.needed())
    yield assets()


def accelerator(*, probe: bool) -> Finding:
    """What runs guests' CPUs here, and why."""
    from kata.hypervisor.qemu.probe import choose_accelerator

    kernel = paths.assets_dir() / "vmlinuz"
    if not Path("/dev/kvm").exists():
        return warn(
            "accelerator", "tcg: there is no /dev/kvm", "containers run, with emulated CPUs, several times slower"
        )
    if not probe:
        return warn("accelerator", "not tried (--no-probe)", "kata check tries it")
    if not kernel.exists():
        return warn("accelerator", "not tried: there is no guest kernel yet", "kata setup, then kata check again")
    try:
        choice = choose_accelerator(str(kernel))
    except KataError as error:
        return fail("accelerator", error.what, error.hint)
    if choice.accelerator == "kvm":
        return ok("accelerator", f"kvm: {choice.reason}")
    return warn("accelerator", f"tcg: {choice.reason}", "containers run, with emulated CPUs, several times slower")


def assets() -> Finding:
    """Guest kernel and image."""
    from kata.kernel.asset import read_manifest

    folder = paths.assets_dir()
    for name in ("vmlinuz", "kata-containers.img"):
        if not (folder / name).is_file():
            return warn("guest", f"{folder / name} is not there yet", "kata setup makes it, and so does the first run")
    kernel = read_manifest(folder / "vmlinuz")
    size = sum(path.stat().st_size for path in folder.iterdir() if path.suffix != ".json")
    release = kernel.release if kernel else "of unknown origin"
    return ok("guest", f"kernel {release}, {size / 2**20:.1f} MiB in all")
