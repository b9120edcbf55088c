"""The one way in which the host side runs other programs.

An argv list (never a shell), an environment built from nothing, standard input from /dev/null, a deadline on
every wait, and one failure message with a hint. Long-lived children (QEMU, virtiofsd) are started with `spawn`;
programs that end by themselves are run with `run`.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
from collections.abc import Mapping, Sequence
from typing import IO

from kata.errors import KataError, advice
from kata.linux import startmark

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PASSED_ON = ("TERM", "SOURCE_DATE_EPOCH", "http_proxy", "https_proxy", "no_proxy", "TMPDIR")
"""The only variables of ours that a helper sees; everything else could change its behaviour unseen."""

APT_PACKAGES = {
    "crun": "crun",
    "cpio": "cpio",
    "debugfs": "e2fsprogs",
    "mkfs.erofs": "erofs-utils",
    "mkfs.ext4": "e2fsprogs",
    "qemu-system-x86_64": "qemu-system-x86",
    "nsenter": "util-linux",
    "prlimit": "util-linux",
    "setpriv": "util-linux",
    "skopeo": "skopeo",
    "umoci": "umoci",
    "zstd": "zstd",
}


class ProcessError(KataError):
    """A helper program is missing, failed, or ran out of time. `returncode` is None unless it ended by itself."""

    layer = "host"

    def __init__(self, what: str, *, hint: str = "", detail: str = "", returncode: int | None = None) -> None:
        super().__init__(what, hint=hint, detail=detail)
        self.returncode = returncode


def bare_environment() -> dict[str, str]:
    """All that a program gets which a guest may take over (a proxy's address may hold a password): a fixed PATH, the C
    locale, and whose it is."""
    env = {"PATH": PATH, "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"}
    with contextlib.suppress(OSError):
        env[startmark.VARIABLE] = startmark.mark()
    return env


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a helper: what `bare_environment` has, `PASSED_ON`, then `extra`."""
    env = {**bare_environment(), "HOME": "/root"}
    env.update({name: os.environ[name] for name in PASSED_ON if name in os.environ})
    env.update(extra or {})
    return env


def run(
    argv: Sequence[str],
    *,
    timeout: float,
    input: bytes | None = None,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    pass_fds: Sequence[int] = (),
    ok: Sequence[int] = (0,),
) -> subprocess.CompletedProcess[bytes]:
    """Run `argv` to its end within `timeout` seconds; both outputs are captured.

    Raises ProcessError when it cannot be started, ends with a code not in `ok`, or runs out of time (it is then
    killed with all of its group, so that nothing it started stays behind).
    """
    process = spawn(
        argv,
        stdin=subprocess.DEVNULL if input is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=env,
        cwd=cwd,
        pass_fds=pass_fds,
    )
    return finish(process, argv, timeout=timeout, input=input, ok=ok)


def finish(
    process: subprocess.Popen[bytes],
    argv: Sequence[str],
    *,
    timeout: float,
    input: bytes | None = None,
    ok: Sequence[int] = (0,),
) -> subprocess.CompletedProcess[bytes]:
    """Await the end of a program that `spawn` has started with pipes; as `run` from there on."""
    try:
        out, err = process.communicate(input, timeout=timeout)
    except subprocess.TimeoutExpired:
        _kill_group(process)
        raise ProcessError(
            f"{argv[0]} did not end within {timeout:.0f} s",
            hint="try again; if it stays like this, run it by hand",
            detail=f"command: {shlex.join(argv)}",
        ) from None
    except BaseException:
        _kill_group(process)
        raise
    if process.returncode not in ok:
        raise ProcessError(
            f"{argv[0]} failed with exit code {process.returncode}",
            detail=f"command: {shlex.join(argv)}\n{err.decode('utf-8', 'replace').strip()[-4000:]}",
            returncode=process.returncode,
        )
    return subprocess.CompletedProcess(list(argv), process.returncode, out, err)


def spawn(
    argv: Sequence[str],
    *,
    stdin: int | IO[bytes] = subprocess.DEVNULL,
    stdout: int | IO[bytes] = subprocess.DEVNULL,
    stderr: int | IO[bytes] = subprocess.DEVNULL,
    pass_fds: Sequence[int] = (),
    env: Mapping[str, str] | None = None,
    whole_env: bool = False,
    program: str | None = None,
    cwd: str | None = None,
) -> subprocess.Popen[bytes]:
    """Start `argv` in a session of its own and return at once; the caller owns the process.

    `whole_env`: `env` is all of its environment. `program` is what is executed when it is not argv[0].
    Raises ProcessError, with the Debian package to install as the hint, when the program cannot be started.
    """
    try:
        return subprocess.Popen(
            argv,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            pass_fds=pass_fds,
            env=dict(env or {}) if whole_env else environment(env),
            executable=program,
            cwd=cwd,
            start_new_session=True,
        )
    except FileNotFoundError:
        missing = program or argv[0]
        package = APT_PACKAGES.get(os.path.basename(missing))
        raise ProcessError(
            f"the program {missing} is not installed",
            hint=f"apt-get install {package}" if package else f"install {missing} and try again",
        ) from None
    except OSError as error:
        raise ProcessError(
            f"{program or argv[0]} cannot be started: {error.strerror}", hint=advice(error), detail=shlex.join(argv)
        ) from error


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            stream.close()
