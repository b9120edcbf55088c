"""What the figures ought to be, and whether they are: one line each. Pure; nothing asserts them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from tools.bench.tables import Table, number

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tools.bench.report import Part, Report

Kind = Literal["ratio", "median", "fact"]


class Aim(NamedTuple):
    """`way` is a way's name or a fact's. `limit` is what it may be at most, or with `least` at least."""

    what: str
    part: str
    kind: Kind
    way: str
    limit: float
    unit: str = ""
    least: bool = False


AIMS = (
    Aim("`ctr run` against the floor", "start", "ratio", "ctr run, our shim", 1.3),
    Aim("`ctr run`, median", "start", "median", "ctr run, our shim", 1500, "ms"),
    Aim("ten at once: failures", "crowd", "fact", "failures of ten at once", 0),
    Aim("ten at once: processor time against ten floors", "crowd", "ratio", "ten at once, ctr run, our shim", 1.5),
    Aim(
        "private memory of a further sandbox, containerd",
        "density",
        "fact",
        "ctr: private, a further sandbox",
        30,
        "MiB",
    ),
    Aim(
        "private memory of a further sandbox, `kata run`",
        "density",
        "fact",
        "kata: private, a further sandbox",
        30,
        "MiB",
    ),
    Aim("a shim's share of memory (PSS)", "density", "fact", "ctr: shim, PSS", 5, "MiB"),
    Aim("`ctr task exec` against crun exec in the guest", "exec", "ratio", "ctr task exec", 2.0),
    Aim("`kata exec` against crun exec in the guest", "exec", "ratio", "kata exec", 2.0),
    Aim("output of `kata exec` against the port", "streams", "ratio", "kata exec", 0.8, "", True),
)


def table(report: Report) -> Table:
    """Every aim that the report has a figure for."""
    rows = []
    for aim in AIMS:
        part = report.parts.get(aim.part)
        figure = next(_figures(part, aim), None) if part is not None else None
        if figure is not None:
            sign = "≥" if aim.least else "≤"
            limit = f"{sign} {number(aim.limit)} {aim.unit}".strip()
            rows.append((aim.what, limit, f"{number(figure)} {aim.unit}".strip(), "yes" if met(aim, figure) else "no"))
    return Table("Aims", ("aim", "limit", "measured", "met"), tuple(rows))


def met(aim: Aim, figure: float) -> bool:
    """Whether a figure is what it ought to be."""
    return figure >= aim.limit if aim.least else figure <= aim.limit


def _figures(part: Part, aim: Aim) -> Iterator[float]:
    """The first is the one: parts have the comparison that counts first."""
    if aim.kind == "fact":
        yield from (fact.value for fact in part.facts if fact.name == aim.way)
    for comparison in part.comparisons:
        way = comparison.ways.get(aim.way)
        if way is not None:
            yield way.ratio if aim.kind == "ratio" else way.median
