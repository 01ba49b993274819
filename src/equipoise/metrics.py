"""Metrics of ranking models: pure numpy functions on labels, scores, groups and weights. Exact, ties count one half.

Every function takes `weights` [N] >= 0 of the rows (None: all 1): a row of weight 2 counts as two rows, one of weight 0 as
none, a pair as the product of its rows' weights. Nothing to measure (no rows, one class) gives NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

Array = np.ndarray[Any, Any]


def auc(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Return the area under the ROC curve, P(score of a positive > of a negative), ties 1/2; NaN for one class.

    Args:
        labels: [N] of 0 and 1. scores: [N] of any monotone score. weights: [N] or None.

    Example:
        >>> auc([0, 1, 0, 1], [0.1, 0.4, 0.4, 0.8])   # pairs: 1, 1, 1/2, 1
        0.875
    """
    y, s, w = _checked(labels, scores, weights, binary=True)
    if weights is not None:
        return _soft(w * y, w * (1.0 - y), s)
    if np.asarray(scores).dtype == np.float32:
        s = s.astype(np.float32)  # exact: they came so, and sort in half the time
    there = y == 1.0
    few, many = np.sort(s[there]), np.sort(s[~there])
    swapped = len(few) > len(many)
    if swapped:
        few, many = many, few
    if len(few) == 0:
        return math.nan
    # rank of each of the fewer among the others; sorted, so that the search stays in the cache
    below = np.searchsorted(many, few, "left").sum(dtype=np.int64) + np.searchsorted(many, few, "right").sum(
        dtype=np.int64
    )
    wins = float(below) / (2.0 * len(few) * len(many))
    return 1.0 - wins if swapped else wins


def soft_auc(p: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Return sum_ij p_i (1 - p_j) [s_i > s_j] / sum_ij p_i (1 - p_j), ties 1/2: the expected AUC over label draws.

    At scores = p it is the ceiling of any model. Pairs i = j count 1/2, a share that vanishes with N.

    Args:
        p: [N] true probabilities. scores: [N]. weights: [N] or None.
    """
    q, s, w = _checked(p, scores, weights)
    if ((q < 0) | (q > 1)).any():
        raise ValueError(f"p must lie in [0, 1], got {q.min():g} to {q.max():g}")
    return _soft(w * q, w * (1.0 - q), s)


class GroupAUC(NamedTuple):
    """AUC within groups.

    Attributes:
        weighted: mean over eligible groups weighted by their rows (impressions). macro: plain mean.
        row_share, group_share: share of rows and of groups that are eligible, i.e. have both classes.
        num_groups: eligible groups.
    """

    weighted: float
    macro: float
    row_share: float
    group_share: float
    num_groups: int


def group_auc(
    labels: ArrayLike, scores: ArrayLike, groups: ArrayLike, weights: ArrayLike | None = None
) -> GroupAUC:
    """Return AUC within groups, exact; NaN means when no group has both classes. O(N log N), no loop over groups.

    With weights a group counts by the sum of its rows' weights in `weighted` and `row_share`; rows of weight 0, and groups
    of such rows only, are not there at all.
    """
    found = auc_by_group(labels, scores, groups, weights)
    eligible = ~np.isnan(found.values)
    if not eligible.any():
        return GroupAUC(math.nan, math.nan, 0.0, 0.0, 0)
    each, rows = found.values[eligible], found.rows[eligible]
    return GroupAUC(
        weighted=float(np.average(each, weights=rows)),
        macro=float(each.mean()),
        row_share=float(rows.sum() / found.rows.sum()),
        group_share=float(eligible.mean()),
        num_groups=int(eligible.sum()),
    )


class AUCByGroup(NamedTuple):
    """AUC of each group.

    Attributes:
        groups: [G] sorted. values: float64 [G], NaN for a group of one class. rows: float64 [G], sum of its rows' weights.
    """

    groups: Array
    values: Array
    rows: Array


def auc_by_group(
    labels: ArrayLike, scores: ArrayLike, groups: ArrayLike, weights: ArrayLike | None = None
) -> AUCByGroup:
    """Return the AUC of every group that has a row of weight above 0. O(N log N), no loop over groups.

    Example:
        >>> auc_by_group([1, 0, 1, 0, 1], [0.9, 0.1, 0.2, 0.3, 0.5], ["a", "a", "b", "b", "c"]).values
        array([ 1.,  0., nan])
    """
    y, s, w, g = _grouped(labels, scores, groups, weights, binary=True)
    if not len(y):
        return AUCByGroup(g, np.empty(0), np.empty(0))
    order = np.lexsort((s, g))
    y, s, w, g = y[order], s[order], w[order], g[order]
    new_group = _changes(g)
    ties, firsts = np.flatnonzero(new_group | _changes(s)), np.flatnonzero(new_group)
    positive, negative = w * y, w * (1.0 - y)
    pos, neg = np.add.reduceat(positive, ties), np.add.reduceat(negative, ties)
    group_pos, group_neg = np.add.reduceat(positive, firsts), np.add.reduceat(negative, firsts)
    of_tie = np.cumsum(new_group)[ties] - 1
    before = _before(neg)
    below = before - before[np.searchsorted(ties, firsts)][of_tie]
    wins = np.bincount(of_tie, pos * (below + neg / 2), len(firsts))
    pairs = group_pos * group_neg
    values = np.divide(wins, pairs, out=np.full(len(pairs), math.nan), where=pairs > 0)
    return AUCByGroup(g[firsts], values, group_pos + group_neg)


def gauc(labels: ArrayLike, scores: ArrayLike, groups: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Return the impression-weighted mean of AUC within groups that have both classes (DIN's GAUC)."""
    return group_auc(labels, scores, groups, weights).weighted


def gauc_macro(
    labels: ArrayLike, scores: ArrayLike, groups: ArrayLike, weights: ArrayLike | None = None
) -> float:
    """Return the plain mean of AUC within groups that have both classes."""
    return group_auc(labels, scores, groups, weights).macro


def eligible_share(
    labels: ArrayLike, groups: ArrayLike, weights: ArrayLike | None = None
) -> tuple[float, float]:
    """Return the shares of rows and of groups that GAUC speaks of: those of groups with both classes; 0, 0 without rows.

    Example:
        >>> eligible_share([1, 0, 0, 1], ["a", "a", "a", "b"])   # group b has one class
        (0.75, 0.5)
    """
    found = group_auc(labels, np.zeros(np.shape(labels)), groups, weights)
    return found.row_share, found.group_share


def logloss(labels: ArrayLike, p: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Return the mean of -y log p - (1-y) log(1-p), in nats; p is cut at 1e-15 from 0 and 1 as scikit-learn did."""
    y, q, w = _checked(labels, p, weights, binary=True)
    q = np.clip(q, 1e-15, 1 - 1e-15)
    return _mean(-(y * np.log(q) + (1 - y) * np.log1p(-q)), w)


def normalised_entropy(labels: ArrayLike, p: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Return logloss over that of always predicting the mean label: 1 is no better than the rate; NaN for one class."""
    y, _, w = _checked(labels, p, weights, binary=True)
    rate = _mean(y, w)
    if not 0 < rate < 1:
        return math.nan
    return logloss(labels, p, weights) / -(rate * math.log(rate) + (1 - rate) * math.log(1 - rate))


def calibration(labels: ArrayLike, p: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Return sum of predictions / sum of labels: 1 is calibrated on average, 2 predicts twice too many; NaN for sum 0."""
    y, q, w = _checked(labels, p, weights)
    total = (w * y).sum()
    return float((w * q).sum() / total) if total != 0 else math.nan


def rmse(labels: ArrayLike, predictions: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Return the root of the mean squared error, in the label's units."""
    y, s, w = _checked(labels, predictions, weights)
    return math.sqrt(_mean((y - s) ** 2, w))


def mae(labels: ArrayLike, predictions: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Return the mean absolute error, in the label's units."""
    y, s, w = _checked(labels, predictions, weights)
    return _mean(np.abs(y - s), w)


def xauc(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Return the share of pairs with different labels that the scores order rightly, tied scores 1/2; NaN without pairs.

    Equals `auc` on binary labels. O(N log^2 N), by merge steps over the label order.

    Example:
        >>> round(xauc([1, 2, 3], [0.1, 0.3, 0.2]), 4)   # pairs 12 and 13 right, 23 wrong
        0.6667
    """
    return group_xauc(labels, scores, np.zeros(np.shape(labels), np.int8), weights)


def group_xauc(
    labels: ArrayLike, scores: ArrayLike, groups: ArrayLike, weights: ArrayLike | None = None
) -> float:
    """Return the row-weighted mean of `xauc` over groups with at least one pair of different labels; no loop over groups."""
    y, s, w, g = _grouped(labels, scores, groups, weights)
    if not len(y):
        return math.nan
    s = np.unique(s, return_inverse=True)[1].astype(np.int64)
    # ascending labels; within one label descending scores, so that pairs of equal labels are never counted as right
    order = np.lexsort((-s, y, g))
    y, s, w, g = y[order], s[order], w[order], g[order]
    group = np.cumsum(_changes(g)) - 1
    firsts = np.flatnonzero(_changes(g))
    rows = np.add.reduceat(w, firsts)
    of_label = _squares(group, y, w)
    pairs = (rows**2 - of_label) / 2
    right = np.add.reduceat(_ascents(s, w, firsts[group]), firsts)
    by_score = np.lexsort((s, group))
    tied = (_squares(group, s[by_score], w[by_score]) - _squares(group, y, w, s)) / 2
    eligible = np.maximum.reduceat(y, firsts) > np.minimum.reduceat(y, firsts)
    if not eligible.any():
        return math.nan
    each = (right + tied / 2)[eligible] / pairs[eligible]
    return float(np.average(each, weights=rows[eligible]))


def group_rmse(
    labels: ArrayLike, predictions: ArrayLike, groups: ArrayLike, weights: ArrayLike | None = None
) -> float:
    """Return the mean over groups of each group's `rmse`, every group once: that of a typical user, in the label's units.

    Example:
        >>> group_rmse([1, 2, 3, 9], [1, 2, 3, 5], ["a", "a", "a", "b"])   # 0 and 4; over rows it is 2
        2.0
    """
    return float(np.sqrt(_group_means(labels, predictions, groups, weights, np.square)).mean())


def group_mae(
    labels: ArrayLike, predictions: ArrayLike, groups: ArrayLike, weights: ArrayLike | None = None
) -> float:
    """Return the mean over groups of each group's `mae`, every group once. (Weighted by rows it would be `mae` itself.)"""
    return float(_group_means(labels, predictions, groups, weights, np.abs).mean())


def _group_means(
    labels: ArrayLike,
    predictions: ArrayLike,
    groups: ArrayLike,
    weights: ArrayLike | None,
    of: Callable[[Array], Array],
) -> Array:
    """Return [G] the weighted mean of `of(label - prediction)` a group; [NaN] without rows."""
    y, s, w, g = _grouped(labels, predictions, groups, weights)
    if not len(y):
        return np.array([math.nan])
    at = np.unique(g, return_inverse=True)[1]
    return np.bincount(at, w * of(y - s)) / np.bincount(at, w)


def _ascents(values: Array, weights: Array, first: Array) -> Array:
    """Return [N] whose sum over a group is sum w_i w_j over its pairs i < j with values[i] < values[j].

    Bottom-up merging of halves within each group, all groups at once: log2(longest group) vectorised levels.

    Args:
        values: int64 [N] >= 0, group after group. weights: [N]. first: int64 [N], where the row's group begins.
    """
    local, span = np.arange(len(values)) - first, int(values.max()) + 1
    wins, width = np.zeros(len(values)), 1
    while width <= local.max():
        begin = first + local // (2 * width) * (
            2 * width
        )  # of the row's block, two halves that are each sorted
        left = local // width % 2 == 0
        key = begin * span + values
        smaller = np.searchsorted(key[left], key[~left])
        others = (np.cumsum(left) - left)[begin[~left]]  # left halves of the blocks before
        sums = _before(weights[left], total=True)
        wins[~left] += weights[~left] * (sums[smaller] - sums[others])
        order = np.argsort(key, kind="stable")  # finds the sorted halves and merges them
        values, weights = values[order], weights[order]
        width *= 2
    return wins


def _squares(group: Array, values: Array, weights: Array, second: Array | None = None) -> Array:
    """Return [G]: sum over a group's runs of equal values (and equal second values) of the run's summed weight, squared."""
    new = _changes(group) | _changes(values)
    if second is not None:
        new |= _changes(second)
    runs = np.flatnonzero(new)
    return np.bincount(group[runs], np.add.reduceat(weights, runs) ** 2)


def _soft(positive: Array, negative: Array, scores: Array) -> float:
    """Return sum_ij positive_i negative_j ([s_i > s_j] + [s_i = s_j]/2) / (sum positive * sum negative)."""
    total = positive.sum() * negative.sum()
    if not total > 0:
        return math.nan
    order = np.argsort(scores)
    starts = np.flatnonzero(_changes(scores[order]))
    pos = np.add.reduceat(positive[order], starts)
    neg = np.add.reduceat(negative[order], starts)
    return float((pos * (_before(neg) + neg / 2)).sum() / total)


def _changes(ordered: Array) -> Array:
    """Return bool [N], True where a value differs from the one before it, and at the first."""
    return np.concatenate([np.ones(min(1, len(ordered)), bool), ordered[1:] != ordered[:-1]])


def _before(values: Array, total: bool = False) -> Array:
    """Return [N] the sum of all values before each; with `total` [N + 1], the sum of all at the end."""
    return np.concatenate([[0.0], np.cumsum(values if total else values[:-1])])


def _mean(values: Array, weights: Array) -> float:
    total = weights.sum()
    return float((weights * values).sum() / total) if total > 0 else math.nan


def _checked(
    labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None, binary: bool = False
) -> tuple[Array, Array, Array]:
    """Return labels, scores and weights (ones for None) as float64 [N]; ValueError for what does not fit."""
    y, s = np.asarray(labels, np.float64), np.asarray(scores, np.float64)
    if y.shape != s.shape or y.ndim != 1:
        raise ValueError(
            f"labels and scores must be 1-d and equally long, got shapes {y.shape} and {s.shape}"
        )
    if np.isnan(s).any():
        raise ValueError(f"scores must not be NaN, got {int(np.isnan(s).sum())} of {len(s)}")
    if binary and ((y != 0) & (y != 1)).any():
        raise ValueError("labels must be 0 or 1; mask missing labels before")
    if np.isnan(y).any():
        raise ValueError(
            f"labels must not be NaN, got {int(np.isnan(y).sum())} of {len(y)}; mask them before"
        )
    w = np.ones_like(y) if weights is None else np.asarray(weights, np.float64)
    if w.shape != y.shape:
        raise ValueError(f"weights must be as long as labels, got shapes {w.shape} and {y.shape}")
    if not (np.isfinite(w) & (w >= 0)).all():
        raise ValueError(f"weights must be finite and >= 0, got {w.min():g} to {w.max():g}")
    return y, s, w


def _grouped(
    labels: ArrayLike, scores: ArrayLike, groups: ArrayLike, weights: ArrayLike | None, binary: bool = False
) -> tuple[Array, Array, Array, Array]:
    """Return labels, scores, weights and groups of the rows whose weight is not 0."""
    y, s, w = _checked(labels, scores, weights, binary)
    g = np.asarray(groups)
    if g.shape != y.shape:
        raise ValueError(f"groups must be as long as labels, got shapes {g.shape} and {y.shape}")
    there = w > 0
    return (y, s, w, g) if there.all() else (y[there], s[there], w[there], g[there])
