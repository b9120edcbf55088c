"""Doing something in a thread of its own: what belongs to a thread (namespaces, the current folder) ends with it.

Called by whoever changes such a thing for one action; setns(2) and unshare(2) are for the calling thread.
"""

from __future__ import annotations

import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    T = TypeVar("T")


def apart(function: Callable[[], T], name: str) -> T:
    """What `function` returns or raises, called in a new thread. It must not wait for anything."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(function())
        except BaseException as error:  # noqa: BLE001 - it belongs to the thread that called
            errors.append(error)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
