"""The test-sample variance when rows come in groups (users, searches): whole groups are drawn with replacement."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from equipoise.metrics import auc_by_group
from equipoise.study.delong import binary_rows

Array = np.ndarray[Any, Any]

STATISTICS = ("auc", "gauc")
LEAST_DEFINED = 0.9
"""A replicate may hold no positive; where more than a tenth do, the variance of the rest means nothing and is refused."""


class Bootstrap(NamedTuple):
    """What the resamples say.

    Attributes:
        difference: mean over seeds of statistic(a) - statistic(b) on the rows as they are.
        variance: of the defined replicates, n - 1. Of few groups it is too small by `delong.few_groups`.
        replicates: float64 [num] the same difference on each resample; NaN where a class was missing.
        num_undefined: how many are NaN.
    """

    difference: float
    variance: float
    replicates: Array
    num_undefined: int


def bootstrap_groups(
    labels: ArrayLike,
    scores_a: ArrayLike,
    scores_b: ArrayLike,
    groups: ArrayLike,
    *,
    statistic: str = "auc",
    num: int = 1000,
    seed: int,
    known: ArrayLike | None = None,
) -> Bootstrap:
    """Return the variance over test groups of the seed-mean difference between two models.

    One resample draws G of the G groups with replacement; a group drawn k times counts k times with all its rows. The
    resamples depend on the groups, `num` and `seed` alone: two tasks (or two pairs of methods) on the same
    rows are resampled alike, and `replicate_covariance` finds their covariance.

    Args:
        labels: [N] of 0 and 1. scores_a, scores_b: [S, N] (or [N]), a row a seed; the numbers of seeds may differ.
        groups: [N], any type that sorts. `np.arange(N)` resamples rows.
        statistic: "auc", or "gauc" (impression-weighted mean of the AUC within groups with both classes).
        num: resamples. The variance's own relative error is about sqrt(2 / num): .045 for 1000.
        known: bool [N] or None: rows whose label is known; the others count for nothing but their groups are drawn all the
            same.

    Raises:
        ValueError: shapes do not fit, fewer than two groups, one class only, no group with both classes (gauc), or more
            than a tenth of the replicates lack a class.

    Example:
        >>> y, good, bad = [1, 0, 1, 0], [0.9, 0.1, 0.8, 0.2], [0.9, 0.1, 0.2, 0.8]
        >>> found = bootstrap_groups(y, good, bad, ["a", "a", "b", "b"], num=500, seed=0)
        >>> found.difference, sorted(set(found.replicates.tolist()))   # twice a, a and b, twice b
        (0.25, [0.0, 0.25, 1.0])

    Cost: N log N once a seed and side, then O(N) a seed, side and replicate for auc, O(G) a replicate for gauc.

    Source: Field and Welsh, JRSS B 69, 2007 (the cluster bootstrap).
    """
    if statistic not in STATISTICS:
        raise ValueError(f"statistic must be one of {', '.join(STATISTICS)}, got {statistic!r}")
    if num < 2:
        raise ValueError(f"num must be at least 2, got {num}; 1000 is the default")
    y, a = binary_rows(labels, scores_a)
    _, b = binary_rows(labels, scores_b)
    codes = np.asarray(groups)
    there = np.ones(len(y), bool) if known is None else np.asarray(known, bool)
    if codes.shape != y.shape or there.shape != y.shape:
        raise ValueError(
            f"groups and known must be as long as labels ({len(y)}), got shapes {codes.shape} and {there.shape}"
        )
    codes = np.unique(codes, return_inverse=True)[1]
    num_groups = int(codes.max()) + 1 if len(codes) else 0
    if num_groups < 2:
        raise ValueError(f"groups must be at least 2, got {num_groups}; use DeLong's variance over rows")
    y, codes, a, b = y[there], codes[there], a[:, there], b[:, there]
    if y.all() or not y.any():
        raise ValueError(
            f"labels must hold both classes, got {int(y.sum())} positives of {len(y)} rows; leave the task out"
        )
    measure = _Auc(y, a, b, codes) if statistic == "auc" else _Gauc(y, a, b, codes, num_groups)
    rng = np.random.default_rng(seed)
    replicates = np.empty(num)
    for r in range(num):
        drawn = np.bincount(rng.integers(num_groups, size=num_groups), minlength=num_groups)
        replicates[r] = measure(drawn.astype(np.float64))
    defined = replicates[~np.isnan(replicates)]
    if len(defined) < max(2.0, LEAST_DEFINED * num):
        raise ValueError(
            f"{num - len(defined)} of {num} resamples hold no {statistic}: a class lies in too few of the {num_groups} groups; "
            "leave the task out"
        )
    return Bootstrap(
        difference=measure(np.ones(num_groups)),
        variance=float(defined.var(ddof=1)),
        replicates=replicates,
        num_undefined=num - len(defined),
    )


def replicate_covariance(replicates: ArrayLike) -> Array:
    """Return [T, T] the covariance of T tasks' differences over common resamples; resamples undefined for a task are left out.

    Args:
        replicates: [T, R], of `bootstrap_groups` calls with the same groups, num and seed.
    """
    values = np.atleast_2d(np.asarray(replicates, np.float64))
    values = values[:, ~np.isnan(values).any(0)]
    if values.shape[1] < 2:
        raise ValueError(f"replicates must share two defined resamples, got {values.shape[1]}")
    return np.atleast_2d(np.cov(values))


class _Auc:
    """Group counts [G] -> seed-mean difference of AUC. Scores are sorted once; a call is one histogram a seed and side.

    Along the sorted distinct scores of the positives ("levels", L of them) a negative lies between two levels or on one:
    2L + 1 slots, odd ones on a level. With the negatives' weights added up by slot, a level's positives beat cum[2l] and
    tie with slot 2l + 1.
    """

    def __init__(self, y: Array, a: Array, b: Array, codes: Array) -> None:
        self.of_positive, self.of_negative = codes[y], codes[~y]
        self.sides = [
            (sign / len(scores), *_slots(row[y], row[~y]))
            for sign, scores in ((1.0, a), (-1.0, b))
            for row in scores
        ]

    def __call__(self, drawn: Array) -> float:
        positive, negative = drawn[self.of_positive], drawn[self.of_negative]
        pairs = positive.sum() * negative.sum()
        if not pairs > 0:
            return float("nan")
        total = 0.0
        for factor, level, slot, num_levels in self.sides:
            cum = np.cumsum(np.bincount(slot, negative, 2 * num_levels + 1))
            wins = (cum[:-1:2] + cum[1::2]) / 2
            total += factor * float(np.bincount(level, positive, num_levels) @ wins)
        return total / float(pairs)


def _slots(positive: Array, negative: Array) -> tuple[Array, Array, int]:
    levels, level = np.unique(positive, return_inverse=True)
    slot = np.searchsorted(levels, negative, "left") + np.searchsorted(levels, negative, "right")
    return level, slot, len(levels)


class _Gauc:
    """Group counts [G] -> seed-mean difference of GAUC, by each group's own value and rows."""

    def __init__(self, y: Array, a: Array, b: Array, codes: Array, num_groups: int) -> None:
        difference = np.zeros(num_groups)
        for sign, scores in ((1.0, a), (-1.0, b)):
            for row in scores:
                found = auc_by_group(y, row, codes)
                difference[found.groups] += sign / len(scores) * found.values
        rows = np.zeros(num_groups)
        rows[found.groups] = found.rows
        eligible = (rows > 0) & ~np.isnan(difference)
        if not eligible.any():
            raise ValueError("no group holds both classes: gauc is not defined; use statistic='auc'")
        self.rows = np.where(eligible, rows, 0.0)
        self.sums = np.where(eligible, rows * difference, 0.0)

    def __call__(self, drawn: Array) -> float:
        rows = float(drawn @ self.rows)
        return float(drawn @ self.sums) / rows if rows > 0 else float("nan")
