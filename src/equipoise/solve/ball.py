"""Gram matrix and radius -> the row within a ball around the mean that helps the worst-off task most."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from equipoise.solve.simplex import hull
from equipoise.solve.solution import Array, Solution, Status, read

_MAX_STEPS = 100
_FARTHEST = 1e8  # c |g_0| / |g_w| beyond which |g_w| is 0 in float64


def conflict_averse(gram: Any, radius: float) -> Solution:
    """Return the weights of d that maximises `min_t <g_t, d>` over `|d - g_0| <= radius |g_0|`, g_0 the mean row.

    d = g_0 + mu g_w, where w on the simplex minimises |g_0 + mu g_w| and mu > 0 solves `mu |g_w| = radius |g_0|`: one
    dimension, monotone. Between changes of w's support mu^2 |g_w|^2 is a quadratic function of mu, whose root is taken.

    Args:
        gram: [T, T] symmetric, positive semi-definite; a tensor, an array or nested lists.
        radius: c >= 0 in units of |g_0|.

    Returns:
        Solution: 1/T + mu w, in the dtype and on the device of `gram`. `residual` is |mu |g_w| / (c |g_0|) - 1|.
        Where no d in the ball helps every task (c >= 1 and 0 in the hull of the rows, or a zero row): weights 0, `stationary`. A mean
        of length 0, one task or radius 0 leave d = g_0, or (1 + c) g_0 with one task.

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
    m = matrix / max(float(matrix.diagonal().max()), np.finfo(float).tiny)
    mean = np.full(t, 1.0 / t)
    length = float(np.sqrt(max(mean @ m @ mean, 0.0)))
    weights, residual, steps, status = mean, 0.0, 0, Status.SOLVED
    if radius > 0.0 and length > 1e-9 * float(np.sqrt(m.diagonal()).mean()):
        mu, w, steps, status = _search(m, mean, radius * length, radius)
        if status is Status.STATIONARY:
            weights = np.zeros(t)
        else:
            weights = mean + mu * w
            residual = abs(mu * _length(m, w) / (radius * length) - 1.0)
            status = Status.SOLVED if residual <= 1e-7 else Status.NOT_CONVERGED
    return Solution(torch.as_tensor(weights).to(device, dtype), residual, steps, status)


def _search(m: Array, mean: Array, target: float, radius: float) -> tuple[float, Array, int, Status]:
    """Return mu with mu |g_w(mu)| = target, w(mu), steps and status, from a bracket that always halves in log mu."""
    low, high, mu = 0.0, np.inf, radius
    w, step = mean, 0
    for step in range(1, _MAX_STEPS + 1):
        shifted = mu * np.eye(len(m)) + mean[None, :]
        w, _, done = hull(shifted @ m @ shifted.T)
        here = mu * _length(m, w)
        if not done:
            return mu, w, step, Status.NOT_CONVERGED
        if abs(here / target - 1.0) <= 1e-13 or high <= low * (1.0 + 1e-12):
            break
        low, high = (mu, high) if here < target else (low, mu)
        if low >= _FARTHEST:
            return mu, w, step, Status.STATIONARY
        guess = _root(m, mean, np.flatnonzero(w), target, mu)
        if guess is not None and low < guess < high:
            mu = guess
        elif low == 0.0 or high == np.inf:
            mu = mu * 8.0 if low > 0.0 else mu / 8.0
        else:
            mu = float(np.sqrt(low) * np.sqrt(high))
    return mu, w, step, Status.SOLVED


def _root(m: Array, mean: Array, support: np.ndarray[Any, Any], target: float, near: float) -> float | None:
    """Return the root nearest to `near` of |z(mu)| = target, z = mu w affine in mu while w keeps this support."""
    k = len(support)
    block = m[np.ix_(support, support)]
    system = np.zeros((k + 1, k + 1))
    system[:k, :k], system[:k, k], system[k, :k] = block, 1.0, 1.0
    right = np.zeros((k + 1, 2))
    right[:k, 0], right[k, 1] = -(m @ mean)[support], 1.0
    try:
        constant, slope = np.linalg.solve(system, right)[:k].T
    except np.linalg.LinAlgError:
        return None
    roots = np.roots(
        [slope @ block @ slope, 2 * constant @ block @ slope, constant @ block @ constant - target**2]
    )
    real = [float(r.real) for r in roots if abs(r.imag) <= 1e-9 * abs(r) and r.real > 0.0]
    if not real:
        return None
    return min(real, key=lambda r: abs(math.log(r / near)))


def _length(m: Array, w: Array) -> float:
    return math.sqrt(max(float(w @ m @ w), 0.0))
