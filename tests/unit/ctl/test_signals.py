"""What signals become while a process runs. Each in a process of its own: they are the whole process's."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import os, queue, signal
from kata.ctl.signals import FORWARDED, Forwarder, hold
from kata.errors import KataError

class Control:
    def __init__(self):
        self.told = queue.Queue()
    def signal(self, number, exec_id):
        self.told.put((signal.Signals(number).name, exec_id))
        if number == signal.SIGUSR1:
            raise KataError("it has ended")
    def resize(self, rows, columns, exec_id):
        self.told.put((rows, columns, exec_id))

for number in FORWARDED:  # a script in the background, or nohup, has some of them ignored
    signal.signal(number, signal.SIG_DFL)
control = Control()
def told(count):
    print(*(control.told.get(timeout=20) for _ in range(count)))
"""
HELD = """
hold()
os.kill(os.getpid(), signal.SIGTERM)
Forwarder(control, "e", None).start()
told(1)
"""
AFTER_A_FAILURE = """
Forwarder(control, "", None).start()
os.kill(os.getpid(), signal.SIGUSR1)
told(1)
os.kill(os.getpid(), signal.SIGINT)
told(1)
"""
IGNORED = """
signal.signal(signal.SIGHUP, signal.SIG_IGN)
Forwarder(control, "", None).start()
os.kill(os.getpid(), signal.SIGHUP)
os.kill(os.getpid(), signal.SIGQUIT)
told(1)
"""
SIZES = """
sizes = [(24, 80), (30, 100)]
Forwarder(control, "t", lambda: sizes.pop(0)).start()
told(1)
os.kill(os.getpid(), signal.SIGWINCH)
told(1)
"""


@pytest.mark.parametrize(
    ("script", "said"),
    [
        pytest.param(HELD, "('SIGTERM', 'e')\n", id="one that came before anybody could pass it on"),
        pytest.param(AFTER_A_FAILURE, "('SIGUSR1', '')\n('SIGINT', '')\n", id="after one that could not be passed on"),
        pytest.param(IGNORED, "('SIGQUIT', '')\n", id="an ignored one stays so"),
        pytest.param(SIZES, "(24, 80, 't')\n(30, 100, 't')\n", id="sizes of the terminal"),
    ],
)
def test_signals_are_the_process_s(script: str, said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-c", PROGRAM + script], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.returncode) == (said, 0), done.stderr
