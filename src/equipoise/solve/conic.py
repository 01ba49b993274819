"""Gram matrix and cosine -> the direction within a cone around the mean row that helps the worst-off task most."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from equipoise.solve.active import definite, nonnegative
from equipoise.solve.simplex import hull
from equipoise.solve.solution import Array, Solution, Status, read

_MAX_STEPS = 200
_STATIONARY = (
    1e-6  # length, in units of the longest row, under which a gain or a convex combination counts as 0
)


def conic(gram: Any, cosine: float) -> Solution:
    """Return the weights of d that maximises `min_t <g_t, d>` over `<g_0, d> >= cosine |g_0| |d|`, `|d| = |g_0|`.

    g_0 is the mean row. The hull's point nearest to 0 points along d if it lies in the cone. Else d lies on the cone's
    rim, d / |g_0| = cosine e_0 + sine u with u a unit vector across e_0 = g_0 / |g_0|: for a gain v of all tasks the
    shortest such u is a nonnegative quadratic program, and v grows until that u has length 1.

    Args:
        gram: [T, T] symmetric, positive semi-definite; a tensor, an array or nested lists.
        cosine: of the cone's half-angle, in (0, 1].

    Returns:
        Solution: weights of d (they need not be positive), in the dtype and on the device of `gram`. `residual`: how far
        d misses the rim or the length, relative. No direction in the cone helps every task: `stationary`, and weights
        1/T (d = g_0); so too where g_0 is 0.

    Raises:
        ValueError: as `balance` does; a cosine that is not in (0, 1].

    Example:
        >>> conic([[1.0, 0.0], [0.0, 1.0]], 0.5).weights.tolist()   # alike: the mean itself
        [0.5, 0.5]

    Source: the objective of Hassanpour et al., arXiv 2502.00217. They move task weights by one step of gradient descent
    a training step; this solves each step to the end.
    """
    if not 0.0 < cosine <= 1.0:
        raise ValueError(f"cosine must lie in (0, 1], got {cosine!r}; 0.5 lets the step turn by 60 degrees")
    matrix, dtype, device = read(gram)
    t = len(matrix)
    size = float(np.sqrt(matrix.diagonal().max())) if t else 0.0
    weights, residual, steps, status = np.full(t, 1.0 / t), 0.0, 0, Status.SOLVED
    if size > 0.0:
        m = definite(matrix / size**2)
        length = math.sqrt(max(float(m.mean()), 0.0))
        if length <= _STATIONARY:
            status = Status.STATIONARY
        elif cosine < 1.0 or t > 1:
            found, steps, status = _best(m, length, cosine)
            if status is not Status.STATIONARY:
                weights = found * (length / _length(m, found))
                along = float(m.mean(1) @ weights) / length**2  # cosine with g_0
                residual = max(cosine - along, 0.0)
                if residual > 1e-6:
                    status = Status.NOT_CONVERGED
        elif float((m @ weights).min()) <= 0.0:
            status = Status.STATIONARY
    return Solution(torch.as_tensor(weights).to(device, dtype), residual, steps, status)


def _best(m: Array, length: float, cosine: float) -> tuple[Array, int, Status]:
    """Return (weights of d up to its length, steps, status) for M of rows of length 1 at most."""
    t = len(m)
    sine = math.sqrt(1.0 - cosine**2)
    nearest, steps, _ = hull(m)
    short = _length(m, nearest)
    inside = float(m.mean(1) @ nearest) / length  # <g_w, e_0>
    if short > _STATIONARY and inside >= cosine * short:
        return nearest, steps, Status.SOLVED
    along = m.mean(1) / length  # <g_t, e_0>
    across = m - np.outer(along, along)
    norms = np.sqrt(np.maximum(across.diagonal(), 0.0))
    there = norms > 1e-7 * np.sqrt(
        m.diagonal()
    )  # the others lie along e_0 up to rounding: no u changes their gain
    most = cosine * along + sine * np.where(there, norms, 0.0)
    low, high = cosine * float(along.min()), float(most.min())
    x = np.zeros(t)
    if sine > 0.0 and there.any() and high > low:
        d = norms[there]
        c = np.clip(across[np.ix_(there, there)] / d[:, None] / d[None, :], -1.0, 1.0)
        np.fill_diagonal(c, 1.0)
        c = definite(c)
        for step in range(_MAX_STEPS):
            v = (low + high) / 2.0
            wanted = (v - cosine * along[there]) / (sine * d)
            z, _, done = nonnegative(c, wanted)
            here = _length(c, z)
            met = float((wanted - c @ z).max()) <= 1e-12 * (
                1.0 + float(z.sum())
            )  # no u at all reaches some v
            fits = done and met and here <= 1.0 + 1e-14
            if fits:
                x[there] = z / d
                low = v
            else:
                high = v
            steps += 1
            if (fits and here >= 1.0 - 1e-13) or high - low <= 1e-15 * max(abs(high), abs(low), 1e-3):
                break
            if step == _MAX_STEPS - 1:
                return x, steps, Status.NOT_CONVERGED
    # d = cosine e_0 + sine sum_t x_t (g_t - <g_t, e_0> e_0)
    weights = sine * x + (cosine - sine * float(x @ along)) / (length * t)
    if low <= _STATIONARY * length:
        return weights, steps, Status.STATIONARY
    return weights, steps, Status.SOLVED


def _length(m: Array, x: Array) -> float:
    return math.sqrt(max(float(x @ m @ x), 0.0))
