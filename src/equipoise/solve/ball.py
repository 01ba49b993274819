"""Gram matrix and radius -> the row within a ball around the mean that helps the worst-off task most."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from equipoise.solve.active import definite, nonnegative
from equipoise.solve.simplex import hull
from equipoise.solve.solution import Array, Solution, Status, read

_MAX_STEPS = 100
_STATIONARY = 1e-12  # squared length of a convex combination of unit rows that counts as 0 in float64


def conflict_averse(gram: Any, radius: float) -> Solution:
    """Return the weights of d that maximises `min_t <g_t, d>` over `|d - g_0| <= radius |g_0|`, g_0 the mean row.

    The nearest d to g_0 with <g_t, d> >= v for every t is g_0 + sum_t z_t g_t, z >= 0: a nonnegative quadratic program.
    Its distance grows with v, so that one dimension is left: the v where it is radius |g_0|. Between changes of z's
    support the squared distance is a quadratic function of v, whose root is taken.

    Args:
        gram: [T, T] symmetric, positive semi-definite; a tensor, an array or nested lists.
        radius: c >= 0 in units of |g_0|.

    Returns:
        Solution: 1/T + z, in the dtype and on the device of `gram`. `residual`: how far the distance misses radius |g_0|, and
        gains miss v (or exceed it where z_t > 0), relative.
        Where the ball has a d that opposes no task but none that helps every task (0 in the hull of the rows, or a
        zero row): weights 0, `stationary`. A mean of length 0 and radius 0 leave d = g_0.

    Raises:
        ValueError: as `balance` does; a radius that is negative or not finite.

    Example:
        >>> conflict_averse([[1.0, 0.0], [0.0, 1.0]], 0.5).weights.tolist()   # alike: (1 + c) g_0
        [0.75, 0.75]

    Source: Liu et al., NeurIPS 2021, equation 3 and algorithm 1, whose code minimises over w with SLSQP instead.
    """
    if not np.isfinite(radius) or radius < 0.0:
        raise ValueError(f"radius must be a finite number >= 0, got {radius!r}")
    matrix, dtype, device = read(gram)
    t = len(matrix)
    weights, residual, steps, status = np.full(t, 1.0 / t), 0.0, 0, Status.SOLVED
    norms = np.sqrt(matrix.diagonal() / max(float(matrix.diagonal().max()), np.finfo(float).tiny))
    there = norms > 0.0
    if radius > 0.0 and there.any():
        d = norms[there]
        whole = np.sqrt(matrix.diagonal())[there]
        c = np.clip(matrix[np.ix_(there, there)] / whole[:, None] / whole[None, :], -1.0, 1.0)
        np.fill_diagonal(c, 1.0)
        c = definite(c)
        length = _length(c, d / t)
        if length > 1e-9 * float(d.sum()) / t:
            nearest = hull(c)[0]
            bound = not there.all() or float(nearest @ c @ nearest) <= _STATIONARY
            gains, most = c @ d / t, (1.0 + radius) * length
            x, v, steps, status = _search(c, d, gains, radius * length, most, bound)
            if status is Status.STATIONARY:
                weights = np.zeros(t)
            else:
                weights[there] += x / d
                spare = c @ x + gains - v * (d.min() / d)  # of each task's gain over v, in unit rows
                missed = max(-float(spare.min()), float(np.max(np.minimum(x, np.abs(spare))))) / (
                    most + x.sum()
                )
                residual = max(abs(_length(c, x) / (radius * length) - 1.0), missed)
                status = Status.SOLVED if residual <= 1e-5 else Status.NOT_CONVERGED
    return Solution(torch.as_tensor(weights).to(device, dtype), residual, steps, status)


def _search(
    c: Array, d: Array, gains: Array, target: float, most: float, bound: bool
) -> tuple[Array, float, int, Status]:
    """Return x = |g| z with |sum_t x_t g_t / |g_t|| = target, v in units of the least length, steps, and status.

    Args:
        c: cosines.
        d: lengths |g_t|.
        gains: <g_t / |g_t|, g_0>.
        target: the distance.
        most: what no v exceeds in units of the least length.
        bound: whether v > 0 cannot be had.
    """
    b = d.min() / d
    low, high = float(np.min(gains / b)), most
    x = np.zeros(len(d))
    if low < 0.0:
        x, _, _ = nonnegative(c, -gains)
        low, high = (0.0, most) if _length(c, x) < target else (low, 0.0)
    if bound and high > 0.0:
        return x, 0.0, 1, Status.STATIONARY
    v = (low + high) / 2.0
    step = 0
    while step < _MAX_STEPS:
        step += 1
        x, _, _ = nonnegative(c, v * b - gains)
        here = _length(c, x)
        if abs(here / target - 1.0) <= 1e-13 or high - low <= 1e-14 * max(abs(high), abs(low)):
            break
        low, high = (v, high) if here < target else (low, v)
        guess = _root(c, b, gains, np.flatnonzero(x), target)
        v = guess if guess is not None and low < guess < high else (low + high) / 2.0
    return x, v, step, Status.SOLVED


def _root(c: Array, b: Array, gains: Array, support: np.ndarray[Any, Any], target: float) -> float | None:
    """Return the v whose distance is the target if x keeps this support: x = v q - r, the larger root."""
    if not len(support):
        return None
    right = np.stack([b[support], gains[support]], axis=1)
    q, r = np.linalg.solve(c[np.ix_(support, support)], right).T
    squared, mixed = float(q @ b[support]), float(r @ b[support])
    inner = mixed**2 - squared * (float(r @ gains[support]) - target**2)
    return (mixed + math.sqrt(inner)) / squared if inner >= 0.0 and squared > 0.0 else None


def _length(c: Array, x: Array) -> float:
    return math.sqrt(max(float(x @ c @ x), 0.0))
