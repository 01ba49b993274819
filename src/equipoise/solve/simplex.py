"""Gram matrix -> the shortest convex combination of rows, optionally with a least weight a task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equipoise.solve.active import definite, nonnegative
from equipoise.solve.solution import Array, Solution, Status, read

_STATIONARY = 1e-12  # squared length of a convex combination of unit rows that counts as 0 in float64


def min_norm(gram: Any, lower: Sequence[float] | Tensor | None = None) -> Solution:
    """Return the weights w with sum w = 1 and w_t >= lower_t that minimise `w'Mw`.

    With s on the simplex and r = 1 - sum lower, w = lower + r s: the least norm over the rows
    `r g_t + sum_i lower_i g_i`. In unit rows, x_t = |g_t| w_t, the least norm over `b'x = 1`, b_t = 1/|g_t|, is that
    over x >= 0 of `1/2 x'(C + bb')x - b'x` up to a factor, and this has a minimum whether or not 0 is in the hull.

    Args:
        gram: [T, T] symmetric, positive semi-definite; a tensor, an array or nested lists.
        lower: [T] least weights >= 0 with a sum <= 1; default 0.

    Returns:
        Solution: weights in the dtype and on the device of `gram`. `residual`: how far `(Mw)_t = w'Mw` is missed where
        w_t > lower_t and `(Mw)_t >= w'Mw` elsewhere, relative to |g_t| sum_s w_s |g_s|. `stationary` where the rows
        reach 0 (the weights are exact there too). Where several weights reach the minimum, one of them.

    Raises:
        ValueError: as `balance` does; `lower` of another length, below 0, not finite or with a sum above 1.

    Example:
        >>> min_norm([[1.0, 0.0], [0.0, 4.0]]).weights.numpy().round(12).tolist()   # orthogonal: w_t ~ 1/|g_t|^2
        [0.8, 0.2]

    Source: the problem is Desideri, 2012; lower bounds as in PE-LTR, RecSys 2019.
    """
    matrix, dtype, device = read(gram)
    t = len(matrix)
    least = np.zeros(t) if lower is None else _least(lower, t)
    rest = max(1.0 - float(least.sum()), 0.0)
    scaled = matrix / max(float(matrix.diagonal().max()), np.finfo(float).tiny)
    if lower is not None:
        mix = rest * np.eye(t) + least[None, :]
        scaled = mix @ scaled @ mix.T
    s, steps, done = hull(scaled)
    w = least + rest * s
    norms = np.sqrt(np.maximum(scaled.diagonal(), 0.0))
    whole = float(s @ norms)
    squared = float(s @ scaled @ s)
    residual = 0.0
    if whole > 0.0:
        gap = scaled @ s - squared
        short = -gap[norms > 0.0] / norms[norms > 0.0] / whole
        residual = max(0.0, float(short.max(initial=0.0)), float(np.max(s * np.abs(gap))) / whole**2)
    status = Status.SOLVED if done else Status.NOT_CONVERGED
    if done and squared <= _STATIONARY * whole**2:
        status = Status.STATIONARY
    return Solution(torch.as_tensor(w).to(device, dtype), residual, steps, status)


def hull(m: Array) -> tuple[Array, int, bool]:
    """Return s on the simplex that minimises s'Ms, the steps, and whether the active set came to an end."""
    norms = np.sqrt(np.maximum(m.diagonal(), 0.0))
    if not norms.all():
        return (norms == 0.0) / float((norms == 0.0).sum()), 0, True
    c = np.clip(m / norms[:, None] / norms[None, :], -1.0, 1.0)
    np.fill_diagonal(c, 1.0)
    b = norms.min() / norms
    x, steps, done = nonnegative(definite(c) + np.outer(b, b), b)
    s = x * b
    return s / s.sum(), steps, done


def _least(lower: Sequence[float] | Tensor, t: int) -> Array:
    least = np.asarray(torch.as_tensor(lower, dtype=torch.float64).cpu().numpy())
    if least.shape != (t,):
        raise ValueError(f"lower must hold one number for each of the {t} tasks, got shape {least.shape}")
    if not np.isfinite(least).all() or (least < 0.0).any() or least.sum() > 1.0 + 1e-12:
        raise ValueError(f"lower must be numbers >= 0 with a sum <= 1, got {least.tolist()}")
    return least
