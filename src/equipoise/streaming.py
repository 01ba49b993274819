"""AUC of a stream of scores: two histograms over the logit that add up over batches, workers and ranks."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from equipoise.metrics import Array


class StreamingAUC:
    """AUC from 65,536 bins over the logit, of any number of rows in 1 MiB. Pairs within a bin count one half.

    Bins are even on the logit, from -limit to limit, not on probabilities: where positives are one in a thousand nearly all
    probabilities fall into the first of 200 even bins. The error is under half the share of pairs that fall into one bin, about
    1e-7 for scores that spread over ten units of the logit.

    Args:
        bins: number of bins. limit: largest logit that is told apart, > 0.

    Raises:
        ValueError: bins < 2 or limit <= 0; at `update` labels other than 0 and 1, lengths that differ, NaN; at `merge` other bins.

    Example:
        >>> state = StreamingAUC()
        >>> state.update([0, 1], [-2.0, 1.0])
        >>> state.update([0, 1], [1.5, 3.0])
        >>> state.value()   # of four pairs one is wrong
        0.75
    """

    def __init__(self, bins: int = 65_536, limit: float = 30.0) -> None:
        if bins < 2 or not limit > 0:
            raise ValueError(f"bins must be >= 2 and limit > 0, got {bins} and {limit}")
        self.bins, self.limit = bins, limit
        self.positive: Array = np.zeros(bins)
        self.negative: Array = np.zeros(bins)

    def update(self, labels: ArrayLike, logits: ArrayLike, weights: ArrayLike | None = None) -> None:
        """Add rows: labels [N] of 0 and 1, logits [N] (of a probability p: log(p / (1 - p))), weights [N] >= 0 or None."""
        s = np.asarray(logits)
        s = s if s.dtype in (np.float32, np.float64) else s.astype(np.float64)
        y = np.asarray(labels)
        if y.shape != s.shape or y.ndim != 1:
            raise ValueError(f"labels and logits must be 1-d and equally long, got {y.shape} and {s.shape}")
        if s.size == 0:
            return
        at = s + s.dtype.type(self.limit)
        at *= s.dtype.type(self.bins / (2 * self.limit))
        if not np.isfinite(at.min()) and np.isnan(s).any():
            raise ValueError(f"logits must not be NaN, got {int(np.isnan(s).sum())} of {len(s)}")
        np.clip(at, 0, self.bins - 1, out=at)
        index = at.astype(np.int32)
        there = y.astype(bool)
        if y.dtype != bool and not np.array_equal(y, there):
            raise ValueError("labels must be 0 or 1; mask missing labels before")
        w = None if weights is None else np.asarray(weights, np.float64)
        if w is not None and w.shape != y.shape:
            raise ValueError(f"weights must be as long as labels, got {w.shape} and {y.shape}")
        whole = np.bincount(index, w, self.bins)
        of_positive = np.bincount(index[there], None if w is None else w[there], self.bins)
        self.positive += of_positive
        self.negative += whole - of_positive

    def merge(self, other: StreamingAUC) -> None:
        """Add another state's rows."""
        if (other.bins, other.limit) != (self.bins, self.limit):
            raise ValueError(
                f"states must have the same bins and limit, got {other.bins}, {other.limit} beside {self.bins}, {self.limit}"
            )
        self.positive += other.positive
        self.negative += other.negative

    def value(self) -> float:
        """Return the AUC of all rows so far; NaN for one class."""
        total = self.positive.sum() * self.negative.sum()
        if not total > 0:
            return math.nan
        before = np.cumsum(self.negative) - self.negative
        return float((self.positive * (before + self.negative / 2)).sum() / total)
