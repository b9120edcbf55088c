"""What others see of this process: its command line, which anybody on a host may read.

Called by processes that are forked and go on as something else.
"""

from __future__ import annotations

import contextlib
import os

ARG_START, ARG_END = 48 - 3, 49 - 3
"""Where /proc/self/stat says that the command line is in memory: fields 48 and 49 (proc(5)), counted from the third,
the first behind the name."""


def set_title(argv: list[str]) -> None:
    """Have others see this command line (ps, pgrep, /proc/<pid>/cmdline) instead of ours.

    The kernel shows the memory in which a program got its arguments; what does not fit there is cut off, and where this
    cannot be done (no /proc, no access) ours stays.
    """
    with contextlib.suppress(OSError, ValueError, IndexError):
        with open("/proc/self/stat", encoding="ascii", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
        start, end = int(fields[ARG_START]), int(fields[ARG_END])
        words = b"\0".join(word.encode(errors="surrogateescape") for word in argv)
        memory = os.open("/proc/self/mem", os.O_RDWR | os.O_CLOEXEC)
        try:
            # The last byte must be NUL, or the kernel takes the line to go on in the environment (fs/proc/base.c).
            os.pwrite(memory, words[: end - start - 1].ljust(end - start, b"\0"), start)
        finally:
            os.close(memory)
        with open("/proc/self/comm", "wb") as file:
            file.write(os.path.basename(argv[0]).encode(errors="surrogateescape")[:15])
