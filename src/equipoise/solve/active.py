"""The nonnegative quadratic program that the simplex and the dual cone come down to, by an exact active set."""

from __future__ import annotations

import numpy as np

from equipoise.solve.solution import Array

_EPS = float(np.finfo(np.float64).eps)


def nonnegative(c: Array, b: Array) -> tuple[Array, int, bool]:
    """Return x >= 0 [T] that minimises `1/2 x'Cx - b'x`, the number of steps, and whether it came to an end.

    Lawson and Hanson's active set on the Gram matrix: the entry with the steepest descent joins the passive set P,
    C_PP z = b_P is solved, and entries that would turn negative leave. An entry whose row depends on those of P, up to
    rounding, takes the place of one of them.

    Args:
        c: [T, T] positive semi-definite with a diagonal of order 1.
        b: [T] for which the program has a minimum; any b in the range of C.

    Source: Lawson, Hanson, Solving Least Squares Problems, 1974, chapter 23.
    """
    t = len(b)
    x = np.zeros(t)
    passive: list[int] = []
    refused: set[int] = set()
    for step in range(20 * t + 20):
        g = b - c @ x
        rounding = 8 * _EPS * (np.abs(b) + np.abs(c) @ x)
        open_ = [j for j in range(t) if j not in passive and j not in refused and g[j] > rounding[j]]
        if not open_:
            return x, step, True
        j = max(open_, key=lambda i: g[i] / np.sqrt(c[i, i]))
        z = _solve(c, b, [*passive, j])
        if z is None and g[j] > 1e-12 * (abs(b[j]) + float(np.abs(c[j]) @ x)):
            passive = _swap(c, x, passive, j)
            z = _solve(c, b, passive) if j in passive else None
        elif z is not None and z[-1] > 0.0:
            passive.append(j)
        else:
            z = None
        if z is None:
            refused.add(j)
            continue
        while z is not None and (z <= 0.0).any():
            held = x[passive]
            falling = np.flatnonzero(z <= 0.0)
            ratios = held[falling] / np.maximum(held[falling] - z[falling], np.finfo(float).tiny)
            moved = held + float(ratios.min()) * (z - held)
            moved[falling[ratios <= ratios.min() * (1.0 + 4 * _EPS)]] = 0.0
            x[passive] = np.maximum(moved, 0.0)
            passive = [i for i in passive if x[i] > 0.0]
            z = _solve(c, b, passive) if passive else np.zeros(0)
        if z is None:
            return x, step, False
        x[:] = 0.0
        x[passive] = z
        refused.clear()
    return x, step, False


def _swap(c: Array, x: Array, passive: list[int], j: int) -> list[int]:
    """Let j, whose row depends on those of P, take the place of the entry of P that reaches 0 first; writes to `x`.

    The quadratic term is flat along that line and j's slope is down, so without such an entry there is no minimum: P
    then stays.
    """
    along = -np.linalg.solve(c[np.ix_(passive, passive)], c[passive, j]) if passive else np.zeros(0)
    falling = np.flatnonzero(along < -_EPS)
    if not len(falling):
        return passive
    ratios = x[passive][falling] / -along[falling]
    reach = float(ratios.min())
    x[passive] = np.maximum(x[passive] + reach * along, 0.0)
    x[j] = reach
    x[passive[falling[int(ratios.argmin())]]] = 0.0
    return [i for i in passive if x[i] > 0.0] + [j]


def definite(c: Array) -> Array:
    """Return C, with what an eigenvalue has below 0 beyond float64's rounding (float32 products) put on its diagonal."""
    lowest = float(np.linalg.eigvalsh(c)[0])
    return (
        c if lowest >= -16 * len(c) * _EPS * float(c.diagonal().max()) else c - 1.01 * lowest * np.eye(len(c))
    )


def _solve(c: Array, b: Array, chosen: list[int]) -> Array | None:
    """Return C_PP^-1 b_P with one step of refinement; None where the last row depends on the others."""
    block, right = c[np.ix_(chosen, chosen)], b[chosen]
    try:
        pivot = float(np.linalg.cholesky(block)[-1, -1]) ** 2
    except np.linalg.LinAlgError:
        return None
    if pivot <= 16 * len(chosen) * _EPS * block[-1, -1]:
        return None
    z = np.linalg.solve(block, right)
    return np.asarray(z + np.linalg.solve(block, right - block @ z))
