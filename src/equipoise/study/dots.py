"""Marks of several kinds on one line a name, as inline SVG: told apart by shape, so that grey is enough."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

from equipoise.study.plot import ticks

ROW, LETTER, PLOT, TOP, BOTTOM, RIGHT = 18, 8.5, 260, 40, 44, 60
"""Sizes in SVG units: a row's height, a letter's width (of a phone's larger type), the plot's width, space above, below and right."""
MOST = 30
"""Rows drawn at most; the largest are."""


def dots(
    title: str, x_name: str, rows: Mapping[str, Mapping[str, float]], kinds: Sequence[str], low: float = 0.0
) -> str:
    """Return an SVG figure: a line a name, from `low` to the largest of its values, with a mark for each kind; largest first.

    Args:
        rows: {name: {kind: value >= low}}. kinds: in the order of the marks: disc, ring, square; the first is written out.
    """
    kept = {name: {k: v for k, v in of.items() if math.isfinite(v)} for name, of in rows.items()}
    kept = dict(sorted(((n, of) for n, of in kept.items() if of), key=lambda row: -max(row[1].values())))
    told = f"{title}: the {MOST} largest of {len(kept)}" if len(kept) > MOST else title
    caption = f"<figcaption>{html.escape(told)}</figcaption>"
    if not kept:
        return f"<figure>{caption}<p>nothing to show</p></figure>"
    shown = dict(list(kept.items())[:MOST])
    high = max(max(of.values()) for of in shown.values())
    high = high + (high - low) * 0.04 if high > low else low + 1.0
    left = 12 + LETTER * min(28, max(map(len, shown)))
    bottom = TOP + ROW * len(shown)

    def px(x: float) -> float:
        return left + (x - low) / (high - low) * PLOT

    parts = [
        f'<svg viewBox="0 0 {left + PLOT + RIGHT} {bottom + BOTTOM}" role="img" aria-label="{html.escape(told)}">'
    ]
    at = float(left)
    for number, kind in enumerate(kinds):
        parts.append(_mark(number, at, 18))
        parts.append(_text(at + 9, 22, kind, "start"))
        at += 32 + LETTER * len(kind)
    for value in ticks(low, high, 5):
        parts.append(
            f'<line class="grid" x1="{px(value):.1f}" x2="{px(value):.1f}" y1="{TOP}" y2="{bottom}"/>'
        )
        parts.append(_text(px(value), bottom + 16, f"{value:g}", "middle"))
    parts.append(_text(left + PLOT / 2, bottom + 36, x_name, "middle"))
    for number, (name, of) in enumerate(shown.items()):
        y = TOP + ROW * (number + 0.5)
        short = name if len(name) <= 28 else name[:27] + "\u2026"
        parts.append(_text(left - 8, y + 4, short, "end"))
        parts.append(f'<line class="stem" x1="{left}" x2="{px(max(of.values())):.1f}" y1="{y}" y2="{y}"/>')
        for index in reversed(range(len(kinds))):
            if kinds[index] in of:
                value = of[kinds[index]]
                parts.append(_mark(index, px(value), y, f"{name}, {kinds[index]}: {value:.4g}"))
        if (first := of.get(kinds[0])) is not None:
            parts.append(_text(px(max(of.values())) + 9, y + 4, f"{first:.3g}", "start"))
    return f"<figure>{caption}{''.join(parts)}</svg></figure>"


def _mark(number: int, x: float, y: float, name: str = "") -> str:
    title = f"<title>{html.escape(name)}</title>" if name else ""
    if number == 0:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4">{title}</circle>'
    if number == 1:
        return f'<circle class="ring" cx="{x:.1f}" cy="{y:.1f}" r="4">{title}</circle>'
    return f'<rect class="ring" x="{x - 3.5:.1f}" y="{y - 3.5:.1f}" width="7" height="7">{title}</rect>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text class="tick" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(text)}</text>'
