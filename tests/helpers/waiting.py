"""Requests to a guest that are under way, for agents that tests make up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Later(Generic[T]):
    """What `AgentClient` gives back for a request: calling it waits, which is what `wait` does here."""

    def __init__(self, wait: Callable[[], T], cancel: Callable[[], None] = lambda: None) -> None:
        self._wait = wait
        self._cancel = cancel

    def __call__(self) -> T:
        return self._wait()

    def cancel(self) -> None:
        self._cancel()


def now(value: T) -> Later[T]:
    """An answer that is there already."""
    return Later(lambda: value)
