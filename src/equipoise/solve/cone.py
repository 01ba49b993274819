"""Gram matrix and weights -> the nearest weights whose joint row opposes no row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equipoise.solve.active import definite, nonnegative
from equipoise.solve.solution import Solution, Status, read


def project(gram: Any, weights: Sequence[float] | Tensor) -> Solution:
    """Return the weights v of the projection of `U'x` on the dual cone of the rows: {d: <g_t, d> >= 0 for every t}.

    v minimises `v'Mv` over v >= x. In unit rows, y = |g| v, the step s = y - |g| x >= 0 minimises
    `1/2 s'Cs + (C |g| x)'s`.

    Args:
        gram: [T, T] symmetric, positive semi-definite, M = U U'; a tensor, an array or nested lists.
        weights: x [T], of the row that is projected; any sign.

    Returns:
        Solution: v in the dtype and on the device of `gram`; where several v give the same row, one of them. A zero
        row keeps its weight. `residual`: the largest of `-(Mv)_t` relative to |g_t| sum_s |v_s| |g_s| and
        `|(v - x)_t (Mv)_t|` relative to the square of that sum.

    Raises:
        ValueError: as `balance` does; `weights` of another length or not finite.

    Example:
        >>> project([[1.0, -0.5], [-0.5, 1.0]], [1.0, 0.0]).weights.tolist()   # g_1 + g_2 / 2 is at right angles to g_2
        [1.0, 0.5]

    Source: Quinton, Rey, arXiv 2406.16232, proposition 1.
    """
    matrix, dtype, device = read(gram)
    x = np.asarray(torch.as_tensor(weights, dtype=torch.float64).detach().cpu().numpy())
    if x.shape != (len(matrix),) or not np.isfinite(x).all():
        raise ValueError(f"weights must be {len(matrix)} finite numbers, one a row of gram, got {x.tolist()}")
    norms = np.sqrt(matrix.diagonal())
    there = norms > 0.0
    v = x.copy()
    residual, steps, done = 0.0, 0, True
    if there.any():
        d = norms[there]
        c = np.clip(matrix[np.ix_(there, there)] / d[:, None] / d[None, :], -1.0, 1.0)
        np.fill_diagonal(c, 1.0)
        c = definite(c)
        unit = x[there] * (d / d.max())
        largest = float(np.abs(unit).max())
        if largest > 0.0:
            unit = unit / largest
            s, steps, done = nonnegative(c, -(c @ unit))
            y, moved = unit.copy(), s > 0.0
            if moved.any():  # (C y)_P = 0 anew, so that x which s cancels leaves no rounding in y
                right = c[np.ix_(moved, ~moved)] @ unit[~moved]
                y[moved] = np.maximum(np.linalg.solve(c[np.ix_(moved, moved)], -right), unit[moved])
            whole = float(np.abs(y).sum())
            cy = c @ y
            residual = max(0.0, -float(cy.min()) / whole, float(np.max((y - unit) * np.abs(cy))) / whole**2)
            v[there] = np.where(moved, y * (largest * (d.max() / d)), x[there])
    status = Status.SOLVED if done else Status.NOT_CONVERGED
    return Solution(torch.as_tensor(v).to(device, dtype), residual, steps, status)
