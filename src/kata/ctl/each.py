"""The same thing for several containers: try all, print the name of each done, report each failure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from kata.ctl.errors import EXIT_FAILED, show
from kata.errors import KataError
from kata.sandbox.reconcile import reconcile

if TYPE_CHECKING:
    from kata.sandbox.store import Store


def for_each(store: Store, wanted: Sequence[str], action: Callable[[str], None]) -> int:
    """Exit code 0 when all went well, else 1."""
    reconcile(store)
    code = 0
    for name in wanted:
        try:
            action(name)
            print(name, flush=True)
        except KataError as error:
            show(error)
            code = EXIT_FAILED
    return code
