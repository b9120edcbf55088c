"""Signals that `kata run` and `kata exec` get while a process runs: they are the process's.

From the moment that there is a process they are blocked, and a thread takes them from the kernel one by one. So none is
lost or ends the command before it can be passed on; and a handler that asks a service could come in the middle of
another question of the same thread, and wait for itself.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from typing import TYPE_CHECKING

from kata.errors import KataError

if TYPE_CHECKING:
    from collections.abc import Callable

    from kata.supervisor.client import Control

FORWARDED = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
)


def hold() -> None:
    """From now on no signal that is to be passed on comes before `Forwarder` takes it. For the main thread.

    Those that are ignored stay so, as nohup(1) wants it. Raises what a signal that has come already raises.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _wanted())


class Forwarder:
    """The thread that passes them on, from `start` to the end of this program."""

    def __init__(self, control: Control, exec_id: str, resized: Callable[[], tuple[int, int]] | None) -> None:
        """`resized` gives rows and columns of our terminal, which the process's follows; None without one."""
        self._control = control
        self._exec_id = exec_id
        self._resized = resized

    def start(self) -> None:
        """Hold signals, if nobody did; pass on those that have come and will come, and the terminal's size now."""
        wanted = _wanted()
        if self._resized is not None:
            wanted.add(signal.SIGWINCH)
        signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
        self._resize()
        threading.Thread(target=self._pass_on, args=(wanted,), name="signals", daemon=True).start()

    def _pass_on(self, wanted: set[signal.Signals]) -> None:
        while True:
            number = signal.sigwait(wanted)
            if number == signal.SIGWINCH:
                self._resize()
                continue
            with contextlib.suppress(KataError):  # it has ended, and whoever waits for it hears that
                self._control.signal(number, self._exec_id)

    def _resize(self) -> None:
        if self._resized is not None:
            rows, columns = self._resized()
            with contextlib.suppress(KataError):
                self._control.resize(rows, columns, self._exec_id)


def _wanted() -> set[signal.Signals]:
    return {number for number in FORWARDED if signal.getsignal(number) is not signal.SIG_IGN}
