"""A flag is seen by whoever waits, and may be set by a signal handler at any moment."""

from __future__ import annotations

import signal
import threading

from kata.linux.flag import Flag


def test_it_is_set_for_good() -> None:
    flag = Flag()
    assert not flag.is_set()
    assert not flag.wait(0.01)
    flag.set()
    flag.set()
    assert flag.is_set()
    assert flag.wait()
    assert flag.wait(0.0)


def test_other_threads_wake_up() -> None:
    flag = Flag()
    waiting = threading.Thread(target=flag.wait)
    waiting.start()
    flag.set()
    waiting.join(10.0)
    assert not waiting.is_alive()


def test_a_signal_may_come_at_any_moment_of_waiting() -> None:
    """A timer fires between all sorts of steps; with threading.Event this hangs within some hundred rounds."""
    before, descriptor = signal.getsignal(signal.SIGALRM), signal.set_wakeup_fd(-1)
    try:
        for number in range(3000):
            flag = Flag()
            flag.set_on(signal.SIGALRM)
            signal.setitimer(signal.ITIMER_REAL, 1e-6 * (1 + number % 60))
            assert flag.wait(30.0)
            signal.set_wakeup_fd(-1)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        signal.set_wakeup_fd(descriptor)


def test_other_signals_do_not_set_it() -> None:
    before, descriptor = signal.getsignal(signal.SIGALRM), signal.set_wakeup_fd(-1)
    flag = Flag()
    try:
        flag.set_on(signal.SIGALRM)
        signal.signal(signal.SIGALRM, lambda *_: None)
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        assert not flag.wait(0.2)
        flag.set()
        assert flag.wait(0.0)
    finally:
        signal.signal(signal.SIGALRM, before)
        signal.set_wakeup_fd(descriptor)
