"""Estimates -> win, loss, tie or undecided, with Holm's correction for many contrasts."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from equipoise.study.estimate import Estimate

MARGIN = 0.002
"""AUCs this near are called equal: one standard deviation over seeds of plain training on KuaiRand's clicks (docs/results.md)."""
MIN_POSITIVES = 200
"""Tasks with fewer test positives are printed grey and enter no count: at so many an AUC of .75 has a standard error of .02, one of .95 of .01."""
MIN_GROUPS = 500
"""GAUC over fewer groups with both classes is grey: a group's AUC spreads by about .3, so GAUC has a standard error above .01."""

VERDICTS = ("win", "loss", "tie", "undecided")


def holm(p_values: ArrayLike) -> list[float]:
    """Return Holm's adjusted p-values, in the order given.

    Reject those below alpha, and the chance of any false rejection is at most alpha. Sorted upwards, the k-th of m is max over j <= k of min(1, (m - j + 1) p_j), whatever the dependence.

    Example:
        >>> holm([0.01, 0.04, 0.03])   # 3 * .01, then 2 * .03, then max(.06, 1 * .04)
        [0.03, 0.06, 0.06]

    Raises:
        ValueError: a p-value is not in [0, 1]; leave grey cells out before.

    Source: Holm, Scandinavian Journal of Statistics 6, 1979.
    """
    p = np.asarray(p_values, np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"p_values must be 1-d and in [0, 1], got {p.tolist()}; leave grey cells out")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return [float(value) for value in adjusted]


def decide(
    found: Estimate, *, margin: float = MARGIN, p_value: float | None = None, alpha: float = 0.05
) -> str:
    """Return "tie", "win", "loss" or "undecided", in this order of precedence.

    Tie: the interval lies strictly inside +-margin. Win, loss: p < alpha, two-sided, by the sign of the mean. Else
    undecided. A difference may be both significant and inside the margin; it is a tie, because the margin says what is worth
    having: 3e-4 found with 40 seeds is real, and no reason to switch. The order can only lower the number of wins, so the error
    rate of wins holds for any margin; with margin 0 there are no ties.

    Args:
        found: its interval is used as it is: a tie is not corrected for the number of contrasts. Each tie is false with
            chance at most (1 - confidence) / 2.
        margin: >= 0, in the metric's units.
        p_value: the adjusted one of `holm`; None for the estimate's own (the one primary contrast).
        alpha: in (0, 1).

    Example:
        >>> from equipoise.study.estimate import estimate
        >>> decide(estimate([0.004, 0.005, 0.006], 1e-8))
        'win'

    Raises:
        ValueError: margin, p_value or alpha out of range.
    """
    p = found.p_value if p_value is None else p_value
    if not margin >= 0:
        raise ValueError(f"margin must be >= 0, got {margin}")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie strictly between 0 and 1, got {alpha}")
    if not 0 <= p <= 1:
        raise ValueError(f"p_value must lie in [0, 1], got {p}")
    if -margin < found.interval[0] and found.interval[1] < margin:
        return "tie"
    if p < alpha:
        return "win" if found.mean > 0 else "loss"
    return "undecided"
