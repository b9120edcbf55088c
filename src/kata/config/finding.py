"""One problem of a configuration, and the list in which they are gathered, so that a user hears of all at once."""

from __future__ import annotations

from typing import NamedTuple

from kata.config.errors import AnnotationError, ConfigError, InvalidConfigError

LONGEST = 200
"""Characters of a name that are shown; ours have 80 at most."""
TOLD = 100
"""How many problems one error tells of."""
ANNOTATION = "annotation"
"""What stands in `where` for things that came from a pod and from no file."""


class Finding(NamedTuple):
    """What is wrong with one key. `severity` is "error" or "warning"; `where` is `FILE:LINE`, `FILE` or empty."""

    severity: str
    key: str
    why: str
    suggestion: str = ""
    where: str = ""

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        advice = f"; {self.suggestion}" if self.suggestion else ""
        return f"{place}{self.severity}: {self.key}: {self.why}{advice}"


class Findings:
    """Gathers what is found. Errors do not stop the search; `raise_errors` does."""

    def __init__(self) -> None:
        self.all: list[Finding] = []

    def error(self, key: str, why: str, suggestion: str = "", where: str = "") -> None:
        """Something that makes the configuration unusable."""
        self.all.append(Finding("error", _printable(key), why, suggestion, where))

    def warn(self, key: str, why: str, suggestion: str = "", where: str = "") -> None:
        """Something that a user should know."""
        self.all.append(Finding("warning", _printable(key), why, suggestion, where))

    @property
    def errors(self) -> tuple[Finding, ...]:
        """What makes it unusable."""
        return tuple(found for found in self.all if found.severity == "error")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """What did not make it unusable."""
        return tuple(found for found in self.all if found.severity == "warning")

    def raise_errors(self) -> None:
        """Raise AnnotationError when an annotation is at fault, else InvalidConfigError; nothing without errors."""
        if self.errors:
            raise _error_of(self.errors)


def _printable(key: str) -> str:
    """A name as it came, on one line and of sensible length: names of keys and annotations may be anything."""
    text = "".join(char if char.isprintable() else "?" for char in key[:LONGEST])
    return text if len(key) <= LONGEST else f"{text}…"


def _error_of(errors: tuple[Finding, ...]) -> ConfigError:
    first, rest = errors[0], [str(found) for found in errors[1:TOLD]]
    if len(errors) > TOLD:
        rest.append(f"and {len(errors) - TOLD} more")
    from_pod = any(found.where == ANNOTATION for found in errors)
    place = f" ({first.where})" if first.where and first.where != ANNOTATION else ""
    kind = AnnotationError if from_pod else InvalidConfigError
    return kind(
        f"{'annotation ' if first.where == ANNOTATION else ''}{first.key}: {first.why}{place}",
        hint=first.suggestion,
        detail="\n".join(rest),
        findings=errors,
    )
