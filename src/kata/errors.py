"""The root of every error that may reach a user.

Each room has its own tree below `KataError`, drawn in that room's `errors.py`. An error says in which layer
something failed (config, host, VMM, guest, container), what failed, and what to do about it. Front ends map
errors to exit codes or RPC codes in one place only; nothing else may turn an exception into text for people.

    KataError
     +-- kata.linux.process.ProcessError ...... a helper program failed or is missing      (host)
     +-- kata.config.errors.ConfigError ....... configuration.toml or an annotation is wrong (config)
     +-- kata.hypervisor.errors.HypervisorError  the VMM failed                            (VMM)
     +-- kata.network.errors.NetworkError ..... a pod's network cannot be had              (config, host)
     +-- kata.images.errors.ImageError ........ an image cannot be found, read or unpacked (host)
     +-- kata.osbuilder.errors.BuildError ..... the guest image cannot be built            (host)
     +-- kata.kernel.errors.KernelError ....... the guest kernel cannot be had             (host)
     +-- kata.sandbox.errors.SandboxError ..... a sandbox or container cannot do as asked  (guest, container)
     +-- kata.management.errors.ManagementError  a sandbox's management socket            (host, guest)
     +-- kata.ctl.errors.UsageError ........... the command line or configuration is wrong (config)
     +-- kata.agentctl.errors ................. likewise, and what a script expected       (config, guest)

`kata.protocol.status.RpcError` is apart: it is what came over the wire, and rooms wrap it.
"""

from __future__ import annotations

import errno
import os

LAYERS = ("config", "host", "VMM", "guest", "container")
ROOM = ("the disk is full", "kata check shows how much room there is, and where; df -i shows inodes")
EXHAUSTED = {
    errno.ENOSPC: ROOM,
    errno.EDQUOT: ROOM,
    errno.EROFS: (
        "the file system is read-only",
        "mount it for writing (dmesg says why it is not), or set KATA_DATA_DIR and KATA_STATE_DIR to places that are",
    ),
    errno.EMFILE: ("this process may open no more files", "raise the limit: ulimit -n, or LimitNOFILE= of its unit"),
    errno.ENFILE: ("the host may open no more files", "raise the limit: sysctl fs.file-max"),
    errno.ENOMEM: ("there is no memory left", "free some, or raise the limit: ulimit -v, or MemoryMax= of its unit"),
    errno.EAGAIN: (
        "no more processes or threads may be started",
        "end some, or raise the limit: ulimit -u, TasksMax= of its unit, or sysctl kernel.threads-max",
    ),
}
"""What a host can have too little of, by the system's error: the sentence, and what to do about it."""


class KataError(Exception):
    """Something failed that a user has to hear about: `what` failed, in which `layer`, and a `hint` on what to do.

    `what` is one sentence without a final full stop. `hint` is one sentence, or empty where nothing can be done.
    `detail` is more text (a console's tail, a program's stderr), shown below the sentence.
    """

    layer: str = "host"

    def __init__(self, what: str, *, hint: str = "", detail: str = "", layer: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint
        self.detail = detail
        if layer:
            self.layer = layer


def unexpected(error: BaseException) -> KataError:
    """The sentence for an exception that no room has made one of its own of: the system's, or a fault of ours."""
    if isinstance(error, MemoryError) or "can't start new thread" in str(error):  # CPython's word for EAGAIN there
        error = OSError(errno.ENOMEM if isinstance(error, MemoryError) else errno.EAGAIN, str(error))
    if not isinstance(error, OSError):
        return KataError(
            f"an unexpected fault: {type(error).__name__}: {error}",
            hint="please report it, with what KATA_TRACEBACK=1 or the sandbox's runtime.log shows",
        )
    where = f" ({error.filename})" if error.filename else ""
    if error.errno in EXHAUSTED and not (error.errno == errno.EAGAIN and error.filename):  # a fork has no file
        return KataError(f"{EXHAUSTED[error.errno][0]}{where}", hint=EXHAUSTED[error.errno][1])
    what = f"the system refused: {error.strerror or error}{where}"
    if error.errno in (errno.EACCES, errno.EPERM) and os.geteuid() != 0:
        return KataError(what, hint="run this as root, or with sudo")
    return KataError(what, hint="KATA_TRACEBACK=1 shows where")


def advice(error: BaseException, otherwise: str = "") -> str:
    """What to do about an error of the system that says that the host has too little of something."""
    return EXHAUSTED[error.errno][1] if isinstance(error, OSError) and error.errno in EXHAUSTED else otherwise
