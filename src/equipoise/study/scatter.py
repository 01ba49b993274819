"""Points of two values as inline SVG, some of them ringed and joined as a front."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import NamedTuple

from equipoise.study.plot import ticks

LEFT, PLOT, HEIGHT, TOP, BOTTOM, RIGHT = 60, 380, 260, 24, 44, 20
"""Sizes in SVG units: space left of the plot, its width and height, space above, below and right."""


class Dot(NamedTuple):
    """A point, its name (shown on hovering) and whether it is on the front."""

    x: float
    y: float
    name: str
    on_front: bool


def scatter(title: str, x_name: str, y_name: str, dots: Sequence[Dot]) -> str:
    """Return an SVG figure; the front is larger, filled and joined from left to right, other points are rings."""
    caption = f"<figcaption>{html.escape(title)}</figcaption>"
    if not dots:
        return f"<figure>{caption}<p>nothing was recorded for this plot</p></figure>"
    x0, x1 = _range([dot.x for dot in dots])
    y0, y1 = _range([dot.y for dot in dots])
    right, bottom = LEFT + PLOT, TOP + HEIGHT

    def px(x: float) -> float:
        return LEFT + (x - x0) / (x1 - x0) * PLOT

    def py(y: float) -> float:
        return bottom - (y - y0) / (y1 - y0) * HEIGHT

    parts = [
        f'<svg viewBox="0 0 {right + RIGHT} {bottom + BOTTOM}" role="img" aria-label="{html.escape(title)}">'
    ]
    for value in ticks(y0, y1):
        at = f"{py(value):.1f}"
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{at}" y2="{at}"/>')
        parts.append(
            f'<text class="tick" x="{LEFT - 6}" y="{py(value) + 4:.1f}" text-anchor="end">{value:g}</text>'
        )
    for value in ticks(x0, x1, 5):
        at = f"{px(value):.1f}"
        parts.append(f'<line class="grid" x1="{at}" x2="{at}" y1="{TOP}" y2="{bottom}"/>')
        parts.append(f'<text class="tick" x="{at}" y="{bottom + 16}" text-anchor="middle">{value:g}</text>')
    parts.append(
        f'<text class="tick" x="{LEFT + PLOT / 2}" y="{bottom + 36}" text-anchor="middle">{html.escape(x_name)}</text>'
    )
    parts.append(f'<text class="tick" x="4" y="{TOP - 10}">{html.escape(y_name)}</text>')
    joined = sorted((dot.x, dot.y) for dot in dots if dot.on_front)
    if len(joined) > 1:
        path = " ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in joined)
        parts.append(f'<polyline class="c0" stroke-dasharray="5 3" points="{path}"/>')
    for dot in sorted(dots, key=lambda d: d.on_front):
        look = 'r="5"' if dot.on_front else 'r="3.5" style="fill: none; stroke: var(--ink)"'
        parts.append(
            f'<circle cx="{px(dot.x):.1f}" cy="{py(dot.y):.1f}" {look}><title>{html.escape(dot.name)}</title></circle>'
        )
    return f"<figure>{caption}{''.join(parts)}</svg></figure>"


def _range(values: Sequence[float]) -> tuple[float, float]:
    pad = (max(values) - min(values)) * 0.06 or abs(values[0]) * 0.05 or 0.5
    return min(values) - pad, max(values) + pad
