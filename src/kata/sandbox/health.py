"""Notices that a sandbox is lost: its VMM has ended, or its agent answers no more.

Run by the process that holds a sandbox, in a thread of its own. One question that is not answered says little (a busy
host, a guest under load), so it is asked again before anything is given up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from kata.errors import KataError

if TYPE_CHECKING:
    from kata.log import Logger

PERIOD = 10.0
"""Seconds between one answer and the next question."""
MISSES = 3
"""Questions in a row without an answer after which the agent counts as lost."""


class CheckedAgent(Protocol):
    """A guest's agent, as far as it is asked whether it is there."""

    def check(self, timeout: float) -> None:
        """Raises KataError when it does not answer in time."""


class Watched(Protocol):
    """A sandbox that may be lost."""

    @property
    def agent(self) -> CheckedAgent:
        """Its agent. Raises KataError when the sandbox has ended."""

    def wait_end(self, timeout: float | None) -> bool:
        """Wait until its VMM has ended, at most `timeout` seconds; whether it has."""


def watch(sandbox: Watched, timeout: float, log: Logger, *, period: float = PERIOD) -> str:
    """Block until the sandbox is lost, or was stopped; what happened. An answer may take `timeout` seconds."""
    misses = 0
    while not sandbox.wait_end(period):
        try:
            sandbox.agent.check(timeout)
            misses = 0
        except KataError as error:
            misses += 1
            log.warn("the agent did not answer a health check", error=error, misses=misses)
            if misses == MISSES:
                return "the guest's agent answers no more"
    return "the VMM has ended"
