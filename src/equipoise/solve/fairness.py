"""Gram matrix and alpha -> the weights with M w = w^(-1/alpha), by damped Newton in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from equipoise.solve.equation import balance
from equipoise.solve.simplex import hull
from equipoise.solve.solution import DAMPING, Array, Solution, Status, read

_MAX_STEPS = 500
_STATIONARY = 1e-12  # as in equation.py


def fair(gram: Any, alpha: float) -> Solution:
    """Return the weights w > 0 with `M w = w^(-1/alpha)`; alpha = 1 is the balance equation.

    The minimiser of the strictly convex `1/2 w'Mw - sum_t phi(w_t)`, phi' = w^(-1/alpha). With C of unit diagonal and
    w = x / |u|: `C x = a x^(-p)`, p = 1/alpha, a = |u|^(p - 1), by Newton steps relative to x that are halved while the
    slope along them has turned by more than half.

    An alpha far from 1 raises lengths and near-opposition to high powers: with rows over 24 orders, or a pair opposite
    to 1e-4 and alpha < 1/2, float64 may not hold the solution, and the status says `not_converged`.

    Absent tasks, the stationary case and its damped weights are as in `balance`.

    Args:
        gram: [T, T] symmetric, positive semi-definite; a tensor, an array or nested lists.
        alpha: > 0; the larger, the nearer to equal gains for all tasks.

    Returns:
        Solution: weights in the dtype and on the device of `gram`; `residual` = max_t |w_t^p (M w)_t - 1|, present tasks.

    Raises:
        ValueError: as `balance` does; an alpha that is not a finite number > 0.

    Example:
        >>> [round(float(w), 12) for w in fair([[8.0, 0.0], [0.0, 1.0]], 0.5).weights]   # orthogonal: |u|^(-2 a/(a + 1))
        [0.5, 1.0]

    Source: Ban, Ji, ICML 2024, equation 4; the authors' code runs scipy's least squares on it.
    """
    if not np.isfinite(alpha) or alpha <= 0.0:
        raise ValueError(f"alpha must be a finite number > 0, got {alpha!r}")
    if alpha == 1.0:
        return balance(gram)
    matrix, dtype, device = read(gram)
    norms = np.sqrt(matrix.diagonal())
    present = norms > 0.0
    weights = np.zeros(len(norms))
    residual, steps, status, p = 0.0, 0, Status.STATIONARY, 1.0 / alpha
    if present.any():
        largest = float(norms.max())
        d = norms[present] / largest
        c = np.clip(
            matrix[np.ix_(present, present)] / norms[present][:, None] / norms[present][None, :], -1.0, 1.0
        )
        np.fill_diagonal(c, 1.0)
        tolerance = _STATIONARY
        if dtype != torch.float64:
            tolerance = max(4 * len(d) * torch.finfo(torch.float32).eps, torch.finfo(dtype).eps)
        nearest, _, _ = hull(c)  # Newton's matrix loses its digits before its iterates show this
        if nearest @ c @ nearest > tolerance:
            x, steps, status = _newton(c, d ** (p - 1.0), p, tolerance)
        if status is Status.STATIONARY:
            delta = DAMPING + max(0.0, -float(np.linalg.eigvalsh(c)[0]) - DAMPING / 2)
            x, steps, _ = _newton(c + delta * np.eye(len(d)), d ** (p - 1.0), p, 0.0)
        residual = float(np.max(np.abs((c @ x) * x**p / d ** (p - 1.0) - 1.0)))
        weights[present] = x / d * largest ** (-2.0 / (1.0 + p))
    return Solution(torch.as_tensor(weights).to(device, dtype), residual, steps, status)


def _newton(c: Array, a: Array, p: float, tolerance: float) -> tuple[Array, int, Status]:
    """Solve C x = a x^-p for x > 0; tolerance 0 never says stationary."""
    x = a ** (1.0 / (1.0 + p))
    x = x * (float(a @ x ** (1.0 - p)) / max(float(x @ c @ x), 1e-3 * float(x @ x))) ** (1.0 / (1.0 + p))
    best, worst = x, np.inf
    stuck = step = 0
    for step in range(_MAX_STEPS):
        cx = c @ x
        if x @ cx <= tolerance * x.sum() ** 2:
            return x, step, Status.STATIONARY
        pull = a * x ** (1.0 - p)  # x phi'
        gap = float(np.max(np.abs(x * cx / pull - 1.0)))
        if gap < worst * 0.9:
            best, worst, stuck = x, gap, 0
        else:
            stuck += gap < 1e-6  # rounding: no longer helps
        if gap <= 1e-14 * len(x) or stuck >= 3:
            break
        g = x * cx - pull
        root = np.sqrt(p * pull)
        # (X C X + p diag(pull)) e = -g in units of root, so that no eigenvalue is below 1
        try:
            e = (
                np.linalg.solve((x / root)[:, None] * c * (x / root)[None, :] + np.eye(len(x)), -g / root)
                / root
            )
        except np.linalg.LinAlgError:
            break  # the same, a little before 0 is reached
        slope = float(g @ e)
        reach = min(
            1.0, 0.9 / max(float(-e.min()), 1e-300), 9.0 / max(float(e.max()), 1e-300)
        )  # x stays positive
        while gap > 1e-3 and reach > 1e-12:
            y = x * (1.0 + reach * e)
            if float((c @ y - a * y**-p) @ (x * e)) <= -0.5 * slope:
                break
            reach /= 2.0
        if gap > 1e-3 and reach * float(np.abs(e).max()) < 1e-14:
            break  # rounding: no step is left
        x = x * (1.0 + reach * e)
    if worst > 1e-5:
        return x, step, Status.NOT_CONVERGED
    return best, step, Status.SOLVED
