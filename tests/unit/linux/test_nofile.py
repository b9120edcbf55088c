"""The limit of open files: raised where it may be, refused with a way out where it may not."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable

import pytest

from kata.errors import KataError
from kata.linux.nofile import NEEDED, require_files


def in_child(action: Callable[[], None]) -> int:
    """The exit code of a process of its own: limits that were lowered stay so."""
    pid = os.fork()
    if pid == 0:
        try:
            action()
            os._exit(0)
        except KataError as error:
            os._exit(7 if "LimitNOFILE" in error.hint and f"takes {NEEDED}" in error.what else 8)
        finally:
            os._exit(9)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize(
    ("soft", "hard", "code"),
    [(NEEDED, NEEDED, 0), (NEEDED - 1, NEEDED - 1, 7), (20, NEEDED, 0), (20, 30, 7), (3, 3, 7)],
)
def test_limits(soft: int, hard: int, code: int) -> None:
    def act() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        require_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= NEEDED

    assert in_child(act) == code
