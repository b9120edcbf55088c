"""The `kata` command as a user runs it: another process, its output and exit code, and what it leaves behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from kata import paths

ARGV = [sys.executable, "-I", "-m", "kata.ctl"]
TIMEOUT = 180


def kata(
    *words: str, stdin: bytes | None = None, check: bool = False, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run the command to its end; never with a terminal."""
    done = subprocess.run(
        [*ARGV, *words],
        input=stdin if stdin is not None else b"",
        capture_output=True,
        timeout=TIMEOUT,
        check=False,
        env={**os.environ, **(env or {})},
    )
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    if check:
        assert done.returncode == 0, f"{words}: {done.returncode}\n{done.stderr.decode()}"
    return done


def start(*words: str, **options: Any) -> subprocess.Popen[bytes]:
    """Start the command and leave it running; pipes unless `options` say otherwise."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen([*ARGV, *words], **pipes)


def ps(*words: str) -> list[dict[str, Any]]:
    """What `kata ps --json` says."""
    return [json.loads(line) for line in kata("ps", "--json", *words, check=True).stdout.splitlines()]


def vmm_pids() -> list[int]:
    """Every QEMU of a sandbox of ours."""
    return sorted(pid for pid, line in command_lines() if "qemu-system" in line and is_ours(pid, line))


def daemon_pids() -> list[int]:
    """Every virtiofsd, and helper for 9p, that serves a sandbox of ours."""
    return sorted(pid for pid, line in command_lines() if is_daemon(line))


def leftovers() -> list[str]:
    """What sandboxes have left on this host: processes, files, mounts. Empty is how it should be."""
    found = [f"process {pid}: {line[:80]}" for pid, line in command_lines() if is_ours(pid, line)]
    for folder in (paths.sandboxes_dir(), paths.vm_dir(), paths.state_dir() / "uids"):
        if folder.is_dir():
            found += [f"file {path}" for path in folder.iterdir() if not path.name.startswith(".")]
    state = os.fspath(paths.state_dir())
    found += [f"mount {line}" for line in Path("/proc/self/mountinfo").read_text().splitlines() if state in line]
    return found


def is_ours(pid: int, line: str) -> bool:
    """Whether it serves a sandbox of this checkout: QEMU has our kernel or image, virtiofsd the sandbox's folder."""
    if "qemu-system" in line:
        assets = os.fspath(paths.assets_dir())
        return "sandbox-" in line and (assets in line or any(path.startswith(assets) for path in _open_files(pid)))
    return is_daemon(line)


def is_daemon(line: str) -> bool:
    """Whether it is a virtiofsd, or helper for 9p, of a sandbox of ours."""
    return os.fspath(paths.vm_dir()) in line and ("virtiofsd" in line or "virtfs-proxy-helper" in line)


def command_lines() -> list[tuple[int, str]]:
    """Every process with its command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            except OSError:
                continue
            if line:
                found.append((int(entry.name), line))
    return found


def _open_files(pid: int) -> list[str]:
    try:
        return [os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return []  # it has just ended
