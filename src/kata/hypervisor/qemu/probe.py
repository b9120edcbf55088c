"""Does KVM really work here? Found out by booting the guest's kernel under it, and remembered.

/dev/kvm is a claim: there are hosts on which it opens and makes vCPUs, and QEMU then fails an assertion or the
guest's kernel stops with an emulation failure. So the kernel alone is booted, with no root file system: one
that works reaches "unable to mount root", panics, and resets, which -no-reboot turns into QEMU's clean exit.
The answer holds for this boot of the host, this kernel file and this QEMU binary.
"""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import msgspec

from kata.hypervisor.errors import SpecError
from kata.hypervisor.qemu.command_line import CPU, SANDBOX
from kata.hypervisor.qemu.console import clean_lines
from kata.hypervisor.qemu.privileges import KVM_DEVICE, drop_privileges
from kata.linux.process import PATH, ProcessError, run, spawn
from kata.paths import cache_dir

BINARY = "qemu-system-x86_64"
TIME_LIMIT = 10.0
OUTPUT_MAX = 1 << 20
BANNER = "Linux version "
KERNEL_PARAMS = "console=ttyS0 panic=-1 reboot=t"
KVM_ERROR = re.compile(r"emulation failure|KVM internal error[^\n]*|KVM: entry failed[^\n]*")
"""What QEMU says when the guest cannot go on; it then waits for ever, so there is no reason to wait with it."""


class AcceleratorChoice(msgspec.Struct, frozen=True):
    """`kvm` or `tcg`, one sentence that says why, and whether it was remembered from before."""

    accelerator: str
    reason: str
    cached: bool


class _Outcome(msgspec.Struct, frozen=True):
    """What a trial boot did: its exit status (None when it was ended by us) and both outputs."""

    returncode: int | None
    console: str
    errors: str


def choose_accelerator(
    kernel: str, *, binary: str = BINARY, device: str = KVM_DEVICE, time_limit: float = TIME_LIMIT
) -> AcceleratorChoice:
    """Which accelerator to use for the guest kernel at `kernel`. Takes up to `time_limit` seconds the first time.

    Raises SpecError when there is no such kernel, ProcessError when QEMU is not installed.
    """
    if not os.path.exists(device):
        return AcceleratorChoice("tcg", f"this host has no {device}", cached=False)
    identity = _identity(kernel, binary)
    cache = cache_dir() / f"accelerator-{identity['kernel'].replace(':', '-')}.json"
    known = _read_cache(cache, identity)
    if known is not None:
        return known
    choice = judge(_try_kvm(kernel, binary, time_limit), time_limit)
    _write_cache(cache, identity, choice, binary)
    return choice


def judge(outcome: _Outcome, time_limit: float = TIME_LIMIT) -> AcceleratorChoice:
    """What a trial boot's outcome means. Pure."""
    if outcome.returncode == 0 and BANNER in outcome.console:
        return AcceleratorChoice("kvm", "the guest kernel boots under KVM", cached=False)
    error = KVM_ERROR.search(outcome.errors)
    lines = clean_lines(outcome.errors)
    if error:
        found = f"QEMU reports: {error.group()}"
    elif outcome.returncode is None:
        found = f"the guest kernel did not come to its end within {time_limit:.0f} s"
    elif outcome.returncode != 0 and lines:
        found = f"QEMU stops with: {lines[-1]}"
    elif outcome.returncode != 0:
        found = f"QEMU ends with status {outcome.returncode}"
    else:
        found = "QEMU ended before the guest kernel said anything"
    return AcceleratorChoice("tcg", f"{KVM_DEVICE} is there but does not work: {found}", cached=False)


def _try_kvm(kernel: str, binary: str, time_limit: float) -> _Outcome:
    argv = [
        *drop_privileges(None, None, accelerator="kvm", bind_low_ports=False),
        *(binary, "-nodefaults", "-no-user-config", "-nographic", "-no-reboot", "-sandbox", SANDBOX),
        *("-machine", "q35", "-accel", "kvm", "-cpu", CPU["kvm"], "-m", "size=256M"),
        *("-kernel", kernel, "-append", KERNEL_PARAMS, "-serial", "stdio"),
    ]
    if shutil.which(binary, path=PATH) is None:
        argv = [binary]  # so that the error names QEMU and its package, not setpriv
    process = spawn(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        return _watch(process, time.monotonic() + time_limit)
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def _watch(process: subprocess.Popen[bytes], deadline: float) -> _Outcome:
    assert process.stdout is not None
    assert process.stderr is not None
    console, errors = bytearray(), bytearray()
    buffers = {process.stdout.fileno(): console, process.stderr.fileno(): errors}
    poll = select.poll()
    for fd in buffers:
        poll.register(fd, select.POLLIN)
    open_fds = set(buffers)
    while open_fds and (left := deadline - time.monotonic()) > 0:
        for fd, _ in poll.poll(left * 1000):
            chunk = os.read(fd, 65536)
            buffers[fd] += chunk
            if not chunk or len(buffers[fd]) > OUTPUT_MAX:
                poll.unregister(fd)
                open_fds.discard(fd)
        if KVM_ERROR.search(errors.decode("utf-8", "replace")):
            break
    returncode = None if open_fds else _wait_until(process, deadline)
    return _Outcome(returncode, console.decode("utf-8", "replace"), errors.decode("utf-8", "replace"))


def _wait_until(process: subprocess.Popen[bytes], deadline: float) -> int | None:
    try:
        return process.wait(max(0.1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return None


def _identity(kernel: str, binary: str) -> dict[str, str]:
    """What an answer depends on. A QEMU of another version is another file, so its version need not be asked."""
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    where = shutil.which(binary, path=PATH) or binary
    return {"boot_id": boot_id, "kernel": _file_identity(kernel), "qemu": _file_identity(where)}


def _file_identity(path: str) -> str:
    try:
        status = os.stat(path)
    except OSError as error:
        if os.path.basename(path) == BINARY:
            return "missing"  # starting it raises with the package to install
        raise SpecError(
            f"the guest kernel {path} cannot be read: {error.strerror}", hint="run `kata setup` to get one"
        ) from error
    return f"{status.st_dev:x}:{status.st_ino:x}:{status.st_size:x}:{status.st_mtime_ns:x}"


def _read_cache(path: Path, identity: dict[str, str]) -> AcceleratorChoice | None:
    try:
        record = json.loads(path.read_bytes())
        if record["identity"] != identity or record["accelerator"] not in ("kvm", "tcg"):
            return None
        return AcceleratorChoice(record["accelerator"], str(record["reason"]), cached=True)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None  # missing or damaged: probe again


def _write_cache(path: Path, identity: dict[str, str], choice: AcceleratorChoice, binary: str) -> None:
    record = {
        "identity": identity,
        "accelerator": choice.accelerator,
        "reason": choice.reason,
        "qemu_version": _version(binary),
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f"{path.name}.", delete=False) as file:
            json.dump(record, file)
        Path(file.name).rename(path)
    except OSError:
        pass  # a cache that cannot be written costs time, not the answer


def _version(binary: str) -> str:
    try:
        return run([binary, "--version"], timeout=10).stdout.decode("utf-8", "replace").partition("\n")[0]
    except ProcessError:
        return ""
