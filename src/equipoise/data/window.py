"""Spans of time as text: 7d, 12h, 30m, 45s."""

from __future__ import annotations

import re

UNITS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000}


def span(text: str) -> int:
    """Return the milliseconds, > 0, of a number with a unit: d, h, m or s.

    Raises:
        ValueError: another text, 0.

    Example:
        >>> span("7d"), span("1.5h")
        (604800000, 5400000)
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([dhms])", text.strip())
    length = round(float(found[1]) * UNITS[found[2]]) if found else 0
    if length < 1:
        raise ValueError(f"window must be a number > 0 with d, h, m or s, such as 7d or 12h, got {text!r}")
    return length
