"""Prometheus's text format 0.0.4: families of ours as text, and the guest's text made harmless. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from kata.management.durations import BUCKETS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from kata.management.durations import Durations

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
GUEST_LIMIT = 1 << 20
"""Characters that a guest may say; a big one says 60 thousand."""

NAME = r"(?:kata_agent|kata_guest|process)_[a-z0-9_]{1,100}"
LABEL = r'[a-z_]{1,50}="(?:[^"\\\x00-\x1f\x7f-\x9f]|\\["\\n]){0,400}"'
VALUE = r"[-+]?(?:[0-9]{1,40}(?:\.[0-9]{0,40})?(?:[eE][-+]?[0-9]{1,4})?|Inf)|NaN"
COMMENT = re.compile(rf"# (?:HELP ({NAME}) [^\x00-\x1f\x7f-\x9f]{{0,400}}|TYPE ({NAME}) (?:counter|gauge|untyped))")
SAMPLE = re.compile(rf"({NAME})(?:\{{((?:{LABEL}(?:,{LABEL}){{0,9}})?)\}})? (?:{VALUE})")
LABELS = re.compile(LABEL)


class Sample(NamedTuple):
    """One value with its labels. `suffix` is of a histogram's parts."""

    value: float
    labels: tuple[tuple[str, str], ...] = ()
    suffix: str = ""


class Family(NamedTuple):
    """All samples of one name."""

    name: str
    help: str
    samples: Sequence[Sample]
    type: str = "gauge"


def text_of(families: Iterable[Family]) -> str:
    """Families as text; those without a sample are left out."""
    return "".join("\n".join(_lines(family)) + "\n" for family in families if family.samples)


def histogram(name: str, help_text: str, durations: Durations) -> Family:
    """Durations of calls as a family with the label `action`; counts add up, as the format wants it."""
    samples = []
    for action, counts, total in durations.snapshot():
        labels, sum_so_far = (("action", action),), 0
        for end, count in zip((*map(str, BUCKETS), "+Inf"), counts, strict=True):
            sum_so_far += count
            samples.append(Sample(sum_so_far, (*labels, ("le", end)), "_bucket"))
        samples += [Sample(total, labels, "_sum"), Sample(sum_so_far, labels, "_count")]
    return Family(name, help_text, samples, "histogram")


def of_guest(text: str) -> str:
    """The lines of a guest's text that are what a guest may say of itself.

    A guest could otherwise speak for the host, or break the whole answer. What the agent says of its process goes by
    the name of kata_agent_process, as upstream has it.
    """
    seen: set[str] = set()
    return "".join(_harmless(line, seen) for line in text[:GUEST_LIMIT].split("\n"))


def _harmless(line: str, seen: set[str]) -> str:
    """The line, or nothing. Twice the same makes a whole text wrong, and so does a comment after what it is about."""
    comment, sample = COMMENT.fullmatch(line), SAMPLE.fullmatch(line)
    if comment:
        said = comment[1] or comment[2]
    elif sample:
        said = sample[1]
    else:
        return ""
    name = f"kata_agent_{said}" if said.startswith("process_") else said
    if sample:
        labels = sorted(LABELS.findall(sample[2] or ""))
        if len({label.partition("=")[0] for label in labels}) < len(labels):
            return ""
        key = f"{name}{{{','.join(labels)}}}"
    else:
        key = line[: len("# TYPE ")] + name
    if key in seen or (comment and name in seen):
        return ""
    seen |= {key, name} if sample else {key}
    return f"{line.replace(said, name, 1)}\n"


def _lines(family: Family) -> Iterator[str]:
    yield f"# HELP {family.name} {_escape(family.help)}"
    yield f"# TYPE {family.name} {family.type}"
    for sample in family.samples:
        labels = ",".join(f'{name}="{_escape(value, quote=True)}"' for name, value in sample.labels)
        yield f"{family.name}{sample.suffix}{f'{{{labels}}}' if labels else ''} {_number(sample.value)}"


def _escape(text: str, *, quote: bool = False) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quote else text


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
