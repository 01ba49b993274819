"""How far two samples of one feature are apart, and how far chance alone would put them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
BUCKETS = 10
"""Buckets of equal training share in the population stability index."""


def distance(old: Array, new: Array, ids: bool, generator: np.random.Generator) -> dict[str, Any]:
    """Return how far `new` is from `old`, in [0, 1]: the share of rows that would have to move.

    Ids: total variation sum |p - q| / 2 ("distance") and the Jensen-Shannon distance (root of the divergence in bits, "js").
    Numbers: Kolmogorov's max |F - G| ("distance") and the population stability index sum (q - p) ln(q / p) over
    deciles of `old` ("psi": below .1 little, above .25 much). "chance" is the distance that two samples of these sizes from
    one distribution have: of ids one seeded draw from both together (it is large for many rare ids), of numbers its mean.
    Rows of a session are not independent, so chance alone does a little more. An empty sample: all 0.

    Example:
        >>> found = distance(np.array([1, 1, 2, 2]), np.array([1, 2, 2, 2]), True, np.random.default_rng(0))
        >>> found["distance"]
        0.25
    """
    if not len(old) or not len(new):
        return {"distance": 0.0, "chance": 0.0, "js" if ids else "psi": 0.0}
    if ids:
        return _of_ids(old, new, generator)
    old, new = np.sort(old), np.sort(new)
    both = np.concatenate([old, new])
    ends = np.searchsorted(old, both, "right") / len(old) - np.searchsorted(new, both, "right") / len(new)
    # the mean of Kolmogorov's distribution is sqrt(pi / 2) ln 2 in units of sqrt(1/n + 1/m)
    chance = math.sqrt(math.pi / 2) * math.log(2) * math.sqrt(1 / len(old) + 1 / len(new))
    return {
        "distance": float(np.abs(ends).max()),
        "chance": min(1.0, chance),
        "psi": _stability(old, new),
    }


def _of_ids(old: Array, new: Array, generator: np.random.Generator) -> dict[str, Any]:
    values, codes = np.unique(np.concatenate([old, new]), return_inverse=True)
    p = np.bincount(codes[: len(old)], minlength=len(values)) / len(old)
    q = np.bincount(codes[len(old) :], minlength=len(values)) / len(new)
    shuffled = generator.permutation(codes)
    a = np.bincount(shuffled[: len(old)], minlength=len(values)) / len(old)
    b = np.bincount(shuffled[len(old) :], minlength=len(values)) / len(new)
    middle = (p + q) / 2
    bits = (_bits(p, middle) + _bits(q, middle)) / 2
    return {
        "distance": float(np.abs(p - q).sum() / 2),
        "chance": float(np.abs(a - b).sum() / 2),
        "js": math.sqrt(max(0.0, bits)),
    }


def _bits(p: Array, q: Array) -> float:
    there = p > 0
    return float((p[there] * np.log2(p[there] / q[there])).sum())


def _stability(old: Array, new: Array) -> float:
    """Return the population stability index of sorted samples; half a row is added to each bucket, so that none is empty."""
    edges = np.unique(np.quantile(old, np.arange(1, BUCKETS) / BUCKETS))
    p, q = (
        np.diff(np.concatenate([[0], np.searchsorted(v, edges, "right"), [len(v)]])) + 0.5 for v in (old, new)
    )
    p, q = p / p.sum(), q / q.sum()
    return float(((q - p) * np.log(q / p)).sum())
