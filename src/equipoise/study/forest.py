"""Intervals side by side as inline SVG: a difference and its 95 % interval a row, the margin as a band."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import NamedTuple

from equipoise.study.plot import LETTER, ticks

ROW, LEFT, PLOT, RIGHT, TOP, BOTTOM = 22, 170, 330, 100, 12, 44
"""Sizes in SVG units: a row's height, least room for names, the plot's width, room for decisions, space above and below."""
MARKS = {"win": "&#9650;", "loss": "&#9660;", "tie": "=", "undecided": "?"}


class Bar(NamedTuple):
    """One row: its name, difference, interval and decision ("" for none)."""

    name: str
    difference: float
    low: float
    high: float
    decision: str


def forest(title: str, x_name: str, bars: Sequence[Bar], margin: float) -> str:
    """Return an SVG figure with one interval a row; the band is +-margin, the marks say win, loss, tie or undecided."""
    caption = f"<figcaption>{html.escape(title)}</figcaption>"
    if not bars:
        return f"<figure>{caption}<p>nothing to compare</p></figure>"
    low = min(-1.5 * margin, *(bar.low for bar in bars))
    high = max(1.5 * margin, *(bar.high for bar in bars))
    left = max(LEFT, 16 + LETTER * max(len(bar.name) for bar in bars))
    width, bottom = left + PLOT + RIGHT, TOP + ROW * len(bars)

    def px(x: float) -> float:
        return left + (x - low) / (high - low) * PLOT

    parts = [f'<svg viewBox="0 0 {width} {bottom + BOTTOM}" role="img" aria-label="{html.escape(title)}">']
    band = px(margin) - px(-margin)
    parts.append(
        f'<rect class="band" x="{px(-margin):.1f}" y="{TOP}" width="{band:.1f}" height="{bottom - TOP}"/>'
    )
    for value in ticks(low, high, 6):
        at = px(value)
        parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{bottom}"/>')
        parts.append(
            f'<text class="tick" x="{at:.1f}" y="{bottom + 16}" text-anchor="middle">{value:+g}</text>'
        )
    parts.append(f'<line class="axis" x1="{px(0):.1f}" x2="{px(0):.1f}" y1="{TOP}" y2="{bottom}"/>')
    for at, bar in enumerate(bars):
        y = TOP + ROW * (at + 0.5)
        parts.append(
            f'<text class="name" x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{html.escape(bar.name)}</text>'
        )
        parts.append(f'<polyline class="c0" points="{px(bar.low):.1f},{y:.1f} {px(bar.high):.1f},{y:.1f}"/>')
        parts.append(f'<circle cx="{px(bar.difference):.1f}" cy="{y:.1f}" r="4"/>')
        mark = f"{MARKS[bar.decision]} {bar.decision}" if bar.decision in MARKS else ""
        parts.append(f'<text class="name" x="{left + PLOT + 8}" y="{y + 4:.1f}">{mark}</text>')
    parts.append(
        f'<text class="tick" x="{left + PLOT / 2}" y="{bottom + 36}" text-anchor="middle">{html.escape(x_name)}</text>'
    )
    return f"<figure>{caption}{''.join(parts)}</svg></figure>"
