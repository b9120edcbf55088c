"""A sandbox is given up when it is lost, and not a moment before."""

from __future__ import annotations

import threading

from kata.log import Logger
from kata.sandbox import health
from kata.sandbox.errors import GuestError


class Sandbox:
    """Its agent answers as the list says (True: an answer), and its VMM ends with the list."""

    def __init__(self, *answers: bool) -> None:
        self._answers = list(answers)
        self.asked = 0
        self.timeouts: set[float] = set()

    @property
    def agent(self) -> Sandbox:
        return self

    def wait_end(self, timeout: float | None) -> bool:
        assert timeout == 0.5
        return not self._answers

    def check(self, timeout: float) -> None:
        self.asked += 1
        self.timeouts.add(timeout)
        if not self._answers.pop(0):
            raise GuestError("no answer")


def watch(sandbox: Sandbox) -> str:
    return health.watch(sandbox, 7.0, Logger(2), period=0.5)


def test_the_end_of_the_vmm() -> None:
    sandbox = Sandbox(True, True)
    assert watch(sandbox) == "the VMM has ended"
    assert (sandbox.asked, sandbox.timeouts) == (2, {7.0})


def test_answers_that_do_not_come_once_or_twice_are_asked_for_again() -> None:
    sandbox = Sandbox(False, True, False, False, True, False, False)
    assert watch(sandbox) == "the VMM has ended"
    assert sandbox.asked == 7


def test_an_agent_that_answers_no_more() -> None:
    sandbox = Sandbox(True, False, False, False, True)
    assert watch(sandbox) == "the guest's agent answers no more"
    assert sandbox.asked == 4


def test_a_sandbox_that_ends_while_its_agent_is_asked() -> None:
    ended = threading.Event()

    class Ending(Sandbox):
        """Ends during the first question."""

        def wait_end(self, timeout: float | None) -> bool:
            return ended.wait(0)

        def check(self, timeout: float) -> None:
            ended.set()
            raise GuestError("the connection broke")

    assert watch(Ending()) == "the VMM has ended"
