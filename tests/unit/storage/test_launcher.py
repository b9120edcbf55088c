"""The script that becomes virtiofsd, where it must not."""

from __future__ import annotations

import os
import subprocess

from kata.storage.share import LAUNCHER, PACKAGES, PYTHON


def test_no_daemon_for_an_owner_that_has_ended() -> None:
    """Whoever dies before the launcher has asked to die with him would leave a daemon that waits for ever."""
    status, status_fd = os.pipe()
    argv = [PYTHON, "-IS", str(LAUNCHER), str(PACKAGES), str(status_fd), "1", "0", "/", "/bin/true"]
    try:
        done = subprocess.run(argv, pass_fds=(status_fd,), capture_output=True, check=False, timeout=60)
        os.close(status_fd)
        assert (done.returncode, os.read(status, 100)) == (1, b"the process that wanted the share has ended")
    finally:
        os.close(status)
