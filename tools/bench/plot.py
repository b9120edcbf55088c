"""Ratios as bars, in SVG 1.1. Pure: the same report gives the same bytes. Called by `docs`.

A bar's length is the ratio to the base, on a scale of logarithms where some are a hundred times others.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from tools.bench.tables import number

if TYPE_CHECKING:
    from tools.bench.report import Comparison, Part

WIDTH, LABELS, FIGURES = 820, 270, 190
"""Pixels: of the picture, of the names on the left, of the figures on the right of the bars."""
ROW, BAR, TITLE, MARGIN = 22, 14, 30, 10
WIDE = 12.0
"""From this factor between the longest and the shortest bar on, the scale is one of logarithms."""
BASE, BETTER, WORSE = "#7a8899", "#3c8d5a", "#c2703d"
STYLE = "text{font:12px sans-serif;fill:#222222}.title{font-weight:bold}.figure{fill:#555555}"


def svg(part: Part) -> str:
    """A picture of all comparisons of a part; empty when there is none."""
    if not part.comparisons:
        return ""
    shapes: list[str] = []
    top = MARGIN
    for comparison in part.comparisons:
        shapes += _comparison(comparison, top)
        top += TITLE + ROW * len(comparison.ways) + MARGIN
    size = f'width="{WIDTH}" height="{top}" viewBox="0 0 {WIDTH} {top}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img"><style>{STYLE}</style>'
    ground = f'<rect width="{WIDTH}" height="{top}" fill="#ffffff"/>'
    return "\n".join([head, ground, *shapes, "</svg>"]) + "\n"


def lengths(ratios: list[float], room: float) -> list[float]:
    """How long each bar is, the longest as long as there is room."""
    present = [ratio for ratio in ratios if ratio > 0]
    if not present:
        return [0.0 for _ in ratios]
    highest, lowest = max(present), min(present)
    if highest / lowest < WIDE:
        return [room * ratio / highest for ratio in ratios]
    shortest = lowest / 2
    whole = math.log(highest / shortest)
    return [room * math.log(ratio / shortest) / whole if ratio > 0 else 0.0 for ratio in ratios]


def _comparison(found: Comparison, top: int) -> list[str]:
    ratios = [way.ratio for way in found.ways.values()]
    room = WIDTH - LABELS - FIGURES - 2 * MARGIN
    bars = lengths(ratios, room)
    scale = ", logarithmic" if _is_wide(ratios) else ""
    title = f"{found.title}: ratio to “{found.base}”{scale}; {found.better} is better"
    shapes = [f'<text class="title" x="{MARGIN}" y="{top + 16}">{escape(title)}</text>']
    for row, ((name, way), length) in enumerate(zip(found.ways.items(), bars, strict=True)):
        y = top + TITLE + row * ROW
        figure = f"{way.ratio:.2f}  ({number(way.median)} {found.unit})"
        shapes += [
            f'<text x="{LABELS}" y="{y + 11}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{LABELS + MARGIN}" y="{y}" width="{length:.1f}" height="{BAR}" fill="{_colour(found, name)}"/>',
            f'<text class="figure" x="{LABELS + MARGIN + length + 6:.1f}" y="{y + 11}">{escape(figure)}</text>',
        ]
    return shapes


def _is_wide(ratios: list[float]) -> bool:
    present = [ratio for ratio in ratios if ratio > 0]
    return bool(present) and max(present) / min(present) >= WIDE


def _colour(found: Comparison, name: str) -> str:
    if name == found.base:
        return BASE
    ratio = found.ways[name].ratio
    return BETTER if (ratio <= 1) == (found.better == "less") else WORSE
