"""The AUC's test-sample variance by DeLong's placement values: one AUC, a paired difference, several tasks at once.

Words: a *placement value* of a positive (V10) is the share of negatives that score below it, of a negative (V01) the share of
positives that score above it, ties 1/2. The mean of either is the AUC. The rows are the random sample here, the
trained models are held fixed; what seeds add is `estimate`'s other part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

Array = np.ndarray[Any, Any]


class Placements(NamedTuple):
    """Placement values of one task's test rows.

    Attributes:
        positives: float64 [P], V10 of each positive, rows in order. negatives: float64 [M], V01 of each negative.
    """

    positives: Array
    negatives: Array

    @property
    def auc(self) -> float:
        """The area under the ROC curve, mean of V10 (and of V01)."""
        return float(self.positives.mean())


def placements(labels: ArrayLike, scores: ArrayLike) -> Placements:
    """Return the placement values of every row, ties 1/2; with [S, N] scores their mean over the S seeds. O(S N log N).

    V10_i = sum_j ([s_i > s_j] + [s_i = s_j] / 2) / M over negatives j; V01_j = sum_i (the same) / P over positives i.

    Args:
        labels: [N] of 0 and 1 (or bool). scores: [N], or [S, N] one row a seed, of any monotone score.

    Example:
        >>> placements([0, 1, 0, 1], [0.1, 0.4, 0.4, 0.8]).positives   # .4 is above one negative and tied with one
        array([0.75, 1.  ])

    Raises:
        ValueError: shapes do not fit, a label is not 0 or 1, a score is NaN, or one class is missing.

    Source: DeLong, DeLong, Clarke-Pearson, Biometrics 44, 1988, equation 2 and below; by ranks as in Sun and Xu, IEEE Signal
    Processing Letters 21, 2014. The mean over seeds is ours: DeLong's estimator is linear in the placement values up to its
    variance.
    """
    y, s = binary_rows(labels, scores)
    if y.all() or not y.any():
        raise ValueError(
            f"labels must hold both classes, got {int(y.sum())} positives of {len(y)} rows; leave the task out"
        )
    above, below = np.zeros(int(y.sum())), np.zeros(len(y) - int(y.sum()))
    for row in s:
        positive, negative = row[y], row[~y]
        above += _share_below(negative, positive)
        below += 1.0 - _share_below(positive, negative)
    return Placements(above / len(s), below / len(s))


def influence(labels: ArrayLike, a: Placements, b: Placements | None = None) -> Array:
    """Return [N] each row's share in the error of AUC(a), or of AUC(a) - AUC(b): its squares sum to DeLong's variance.

    A positive has (V10 - AUC) / sqrt(P (P - 1)), a negative (V01 - AUC) / sqrt(M (M - 1)). Sums over a group's rows give a
    variance for whole groups (Obuchowski 1997), products of two tasks' values the covariance of the tasks.

    Args:
        labels: [N] of 0 and 1, those that the placements were made of. a, b: of `placements`.

    Raises:
        ValueError: labels do not fit the placements, or a class has fewer than two rows.
    """
    y = _flags(labels)
    positives, negatives = a
    if b is not None:
        if b.positives.shape != a.positives.shape or b.negatives.shape != a.negatives.shape:
            raise ValueError(
                "both placements must be of the same rows, got "
                f"{len(a.positives)} and {len(b.positives)} positives, {len(a.negatives)} and {len(b.negatives)} negatives"
            )
        positives, negatives = positives - b.positives, negatives - b.negatives
    if len(positives) != y.sum() or len(negatives) != (~y).sum():
        raise ValueError(
            f"labels must be those of the placements: {len(positives)} positives and {len(negatives)} negatives, "
            f"got {int(y.sum())} and {int((~y).sum())}"
        )
    p, m = len(positives), len(negatives)
    if min(p, m) < 2:
        raise ValueError(
            f"a variance needs two rows of each class, got {p} positives and {m} negatives; leave the task out"
        )
    out = np.empty(len(y))
    out[y] = (positives - positives.mean()) / np.sqrt(p * (p - 1.0))
    out[~y] = (negatives - negatives.mean()) / np.sqrt(m * (m - 1.0))
    return out


def auc_variance(labels: ArrayLike, a: Placements) -> float:
    """Return DeLong's variance of one AUC: var(V10) / P + var(V01) / M, variances with n - 1."""
    return float((influence(labels, a) ** 2).sum())


def delong(labels: ArrayLike, a: Placements, b: Placements) -> tuple[float, float]:
    """Return (AUC(a) - AUC(b), its variance over test rows); both models scored the same rows.

    Args:
        labels: [N]. a, b: placements, of one seed each or averaged over seeds.

    Example:
        >>> y, a, b = [1, 1, 0, 0], [0.9, 0.6, 0.5, 0.1], [0.9, 0.2, 0.5, 0.1]
        >>> d, variance = delong(y, placements(y, a), placements(y, b))   # V10 differ by 0 and 1/2, V01 by 1/2 and 0
        >>> d, round(variance, 9)
        (0.25, 0.125)

    Source: DeLong et al. 1988, equation 6 for the contrast (1, -1).
    """
    return a.auc - b.auc, float((influence(labels, a, b) ** 2).sum())


def task_covariance(influences: Sequence[Array], groups: ArrayLike | None = None) -> Array:
    """Return [T, T] the covariance over test rows of T tasks' AUCs or differences, by the products of their influences.

    The tasks share rows, not classes: a row may be a positive of one and a negative of the other. On the diagonal is DeLong's
    variance.
    With groups, whole groups are the sample: influences are summed within a group first, and the variance of a task with G
    groups takes the factor of `few_groups`, a covariance that of both tasks, by the root.

    Args:
        influences: T arrays [N] of `influence` over the same N rows; 0 where a task's label is missing.
        groups: [N] or None.

    Raises:
        ValueError: lengths differ, or all of a task's rows are of one group, which tells no variance.

    Source: DeLong et al. 1988, equations 4-6, for one label; by influence functions for several; for groups Obuchowski,
    Biometrics 53, 1997.
    """
    if not len(influences) or len({len(each) for each in influences}) != 1:
        raise ValueError(
            f"influences must be over the same rows, got lengths {[len(each) for each in influences]}; "
            "put 0 where a label is missing"
        )
    rows = np.asarray(influences, np.float64)
    if groups is not None:
        codes = np.unique(np.asarray(groups), return_inverse=True)[1]
        if codes.shape != rows.shape[1:]:
            raise ValueError(
                f"groups must be as long as the influences, got {len(codes)} and {rows.shape[1]}"
            )
        factors = [few_groups(codes[each != 0]) if each.any() else 1.0 for each in rows]
        rows = np.stack([f**0.5 * np.bincount(codes, each) for f, each in zip(factors, rows, strict=True)])
    return np.asarray(rows @ rows.T)


def few_groups(groups: ArrayLike) -> float:
    """Return G / (G - 1) * (N - 1) / N of N rows in G groups: what sums of squares over few groups fall short by.

    The second part is in the influences already, so that with one row a group nothing changes.

    Raises:
        ValueError: one group only.
    """
    codes = np.asarray(groups)
    num, rows = len(np.unique(codes)), len(codes)
    if num < 2:
        raise ValueError(
            f"groups must be at least 2 among a task's rows, got {num}; leave groups out to take rows as independent"
        )
    return num / (num - 1) * (rows - 1) / rows


def binary_rows(labels: ArrayLike, scores: ArrayLike) -> tuple[Array, Array]:
    """Return labels as bool [N] and scores as float64 [S, N]; ValueError for what does not fit."""
    y, s = _flags(labels), np.atleast_2d(np.asarray(scores, np.float64))
    if s.ndim != 2 or s.shape[1] != len(y) or not len(s):
        raise ValueError(
            f"scores must be [N] or [S, N] with N = {len(y)} as labels, got shape {np.shape(scores)}"
        )
    if np.isnan(s).any():
        raise ValueError(f"scores must not be NaN, got {int(np.isnan(s).sum())} of {s.size}")
    return y, s


def _flags(labels: ArrayLike) -> Array:
    y = np.asarray(labels)
    if y.ndim != 1 or ((y != 0) & (y != 1)).any():
        raise ValueError(
            f"labels must be 1-d, of 0 and 1, got shape {y.shape} and values {np.unique(y)[:5]}; mask missing labels before"
        )
    return y.astype(bool)


def _share_below(others: Array, values: Array) -> Array:
    """Return for each value the share of the others below it, ties 1/2."""
    others = np.sort(others)
    # counts are whole numbers below 2^53, so their sum is exact
    return (np.searchsorted(others, values, "left") + np.searchsorted(others, values, "right")) / (
        2.0 * len(others)
    )
