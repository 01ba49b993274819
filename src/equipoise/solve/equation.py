"""M -> Solution: the balance equation M w = 1/w, by damped Newton in float64. Small systems, on the CPU."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from equipoise.solve.solution import DAMPING, Solution, Status, read

_MAX_STEPS = 100
_FULL_STEP_BELOW = 0.25  # Newton decrement under which full steps converge quadratically (self-concordance)
_SCALINGS = 3  # steps x <- sqrt(x / Cx), each row on its own, while Cx is well above 0: together they spare a Newton step
_STATIONARY = 1e-12  # squared length of a convex combination of unit rows that counts as 0 in float64


def balance(gram: Any) -> Solution:
    """Return the weights w > 0 with `M w = 1/w`, the minimiser of `1/2 w'Mw - sum_t log w_t`.

    M is scaled to unit diagonal, C = D^-1/2 M D^-1/2, and `x (C x) = 1` is solved by Newton steps in log x, whose
    matrix X C X + I has no eigenvalue below 1: damped by 1 / (1 + decrement) until the decrement is under 1/4, full
    after. T = 1 and T = 2 have closed forms: w = 1/|u|, and w_t = 1 / (|u_t| sqrt(1 + cos)).

    A task with M_tt = 0 is absent: its weight is exactly 0 and the others are solved without it. When 0 lies in the
    convex hull of the rows there is no solution: the iterates then hold a convex combination of unit rows with squared
    length <= 1e-12 (float32 input: 4 T eps; half precision: its eps), the status is `stationary`, and the weights are
    those of M + delta diag(M), delta = `DAMPING` = 1e-3. (Where rounding has left C with an eigenvalue below -delta/2,
    delta grows by what is beyond it, so that weights stay positive.) All rows 0: weights 0, `stationary`.

    Args:
        gram: [T, T] symmetric, positive semi-definite; a tensor, an array or nested lists.

    Returns:
        Solution: unscaled weights in the dtype and on the device of `gram` (float64 unless it is a floating tensor).
        `residual` is max_t |w_t (M w)_t - 1| over present tasks, of M itself, also when stationary. `steps` is 0 for the closed forms.

    Raises:
        ValueError: not real numbers [T, T] with T >= 1, NaN or Inf, not symmetric beyond rounding, a negative diagonal,
            |M_ij| > sqrt(M_ii M_jj) beyond rounding.

    Example:
        >>> balance([[4.0, 0.0], [0.0, 9.0]]).weights.tolist()   # orthogonal: 1/|u_t|
        [0.5, 0.3333333333333333]

    Source: PUB, arXiv 2410.05806, whose released script runs a sequence of convex programs for this.
    """
    matrix, dtype, device = read(gram)
    norms = np.sqrt(matrix.diagonal())
    present = np.flatnonzero(norms)
    weights = np.zeros(len(norms))
    residual, steps, status = 0.0, 0, Status.STATIONARY
    if len(present):
        every = len(present) == len(norms)
        d = norms if every else norms[present]
        c = (matrix if every else matrix[np.ix_(present, present)]) / (d * d[:, None])
        np.minimum(np.maximum(c, -1.0, out=c), 1.0, out=c)
        c.flat[:: len(d) + 1] = 1.0
        tolerance = _STATIONARY
        if dtype != torch.float64:
            tolerance = max(4 * len(d) * torch.finfo(torch.float32).eps, torch.finfo(dtype).eps)
        x, steps, status = _unit(c, tolerance)
        if status is Status.STATIONARY:
            lowest = float(np.linalg.eigvalsh(c)[0])
            delta = DAMPING + max(0.0, -lowest - DAMPING / 2)
            x, steps, _ = _unit(c + delta * np.eye(len(d)), 0.0)
        residual = float(np.abs(x * (c @ x) - 1.0).max())
        weights[present] = x / d
    return Solution(torch.as_tensor(weights).to(device, dtype), residual, steps, status)


def _unit(c: np.ndarray[Any, Any], tolerance: float) -> tuple[np.ndarray[Any, Any], int, Status]:
    """Solve x (C x) = 1 for a matrix of equal diagonal (1, or 1 + delta); tolerance 0 never says stationary."""
    t = len(c)
    if t == 1:
        return np.array([1.0 / np.sqrt(c[0, 0])]), 0, Status.SOLVED
    if t == 2:
        half = c[0, 0] + c[0, 1]
        if half / 2.0 <= tolerance:
            return np.ones(2), 0, Status.STATIONARY
        return np.full(2, 1.0 / np.sqrt(half)), 0, Status.SOLVED
    # dot products in place of sums and maxima: at this size numpy's reductions cost more than the arithmetic
    ones = np.ones(t)
    x = np.full(t, 1.0 / math.sqrt(max(float(ones @ c @ ones) / t, 1.0 / t)))
    for _ in range(_SCALINGS):
        cx = c @ x
        if cx.min() <= 1e-3 * x.min():
            break
        x = np.sqrt(x / cx)
    last, rounding = math.inf, (1e-13 * t) ** 2
    for step in range(_MAX_STEPS):
        cx = c @ x
        g = ones - x * cx
        if float(x @ cx) <= tolerance * float(x @ ones) ** 2:
            return x, step, Status.STATIONARY
        near = float(g @ g) <= rounding
        if near and step > 2:
            break
        hessian = c * x * x[:, None]
        hessian.flat[:: t + 1] += 1.0
        direction = np.linalg.solve(hessian, g)
        decrement = math.sqrt(max(float(g @ direction), 0.0))
        full = decrement < _FULL_STEP_BELOW
        if full and (near or decrement >= last):
            break  # solved, or rounding: a full step no longer helps
        x = x + x * direction * (1.0 if full else 1.0 / (1.0 + decrement))
        last = decrement if full else math.inf
    worst = float(np.abs(x * (c @ x) - 1.0).max())
    return x, step, Status.SOLVED if worst <= 1e-5 else Status.NOT_CONVERGED
