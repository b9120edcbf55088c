"""What has to be undone when a container goes, last thing first. What fails is kept, so that a second try is one."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import ParamSpec

    P = ParamSpec("P")


class Teardown:
    """A stack of calls. Not an ExitStack, which forgets a call before it knows whether that worked."""

    def __init__(self) -> None:
        self._calls: list[Callable[[], object]] = []

    def callback(self, function: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Have `close` call this, before what was given earlier."""
        self._calls.append(lambda: function(*args, **kwargs))

    def close(self) -> None:
        """Make all calls. The first error is raised at the end; calls that failed are made again next time."""
        errors: list[Exception] = []
        failed: list[Callable[[], object]] = []
        while self._calls:
            call = self._calls.pop()
            try:
                call()
            except Exception as error:  # noqa: BLE001 - raised below
                errors.append(error)
                failed.append(call)
        self._calls = failed[::-1]
        if errors:
            raise errors[0]
