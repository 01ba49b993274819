"""What a comparison can see before it is run: power and the smallest detectable difference, by an exact integral."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from equipoise.study import student

Array = np.ndarray[Any, Any]
NODES = 96
"""Gauss-Legendre nodes over the chi distribution of s; 48 give the same six digits of power."""


def power(
    effect: float,
    seed_sd: float,
    num_seeds: int,
    test_se: float,
    *,
    alpha: float = 0.05,
    num_comparisons: int = 1,
) -> float:
    """Return the chance that `estimate` finds a true difference significant with the right sign.

    The mean is normal with variance seed_sd^2 / S + test_se^2, independent of s^2, which is chi-squared on S - 1; so the
    power is one integral over s of a normal tail at the critical value that this s gives. No approximation besides V_test
    being known.

    Args:
        effect: the true difference; its sign does not matter. seed_sd: sd over seeds of the paired difference.
            num_seeds: S >= 2.
        test_se: square root of V_test. alpha: two-sided.
        num_comparisons: m of Holm: alpha / m, Holm's first and hardest step, a lower bound for its power.

    Example:
        >>> round(power(0.002, 0.002, 10, 0.0), 2)   # the one-sample t test: df 9, noncentrality 3.16
        0.8

    Raises:
        ValueError: an argument out of range, or both sources of noise 0.
    """
    crit, weights, total = _critical(seed_sd, num_seeds, test_se, alpha, num_comparisons)
    return _right_sign(abs(effect), crit, weights, total)


def detectable(
    seed_sd: float,
    num_seeds: int,
    test_se: float,
    *,
    power: float = 0.8,
    alpha: float = 0.05,
    num_comparisons: int = 1,
) -> float:
    """Return the smallest true difference that is found significant with the given power, in the metric's units.

    Args:
        as for the function `power`; power: in (alpha / 2, 1).

    Example:
        >>> round(detectable(0.002, 10, 0.0), 5)
        0.00199

    Raises:
        ValueError: an argument out of range, or both sources of noise 0.
    """
    crit, weights, total = _critical(seed_sd, num_seeds, test_se, alpha, num_comparisons)
    if not alpha / num_comparisons / 2 < power < 1:
        raise ValueError(
            f"power must lie between alpha / 2 = {alpha / num_comparisons / 2:g} and 1, got {power}"
        )
    low, high = 0.0, total
    while _right_sign(high, crit, weights, total) < power:
        low, high = high, 2 * high
    for _ in range(50):
        middle = (low + high) / 2
        if _right_sign(middle, crit, weights, total) < power:
            low = middle
        else:
            high = middle
    return high


def _right_sign(effect: float, crit: Array, weights: Array, total: float) -> float:
    tails = [0.5 * math.erfc((c - effect) / (total * math.sqrt(2))) for c in crit]
    return float(weights @ np.asarray(tails))


def _critical(
    seed_sd: float, num_seeds: int, test_se: float, alpha: float, num_comparisons: int
) -> tuple[Array, Array, float]:
    """Return critical means [K] at the nodes of s, the nodes' probabilities [K] and the mean's true standard error."""
    if num_seeds < 2:
        raise ValueError(f"num_seeds must be at least 2, got {num_seeds}")
    if not (0 <= seed_sd < math.inf and 0 <= test_se < math.inf and seed_sd + test_se > 0):
        raise ValueError(
            f"seed_sd and test_se must be finite, >= 0 and not both 0, got {seed_sd} and {test_se}"
        )
    if not 0 < alpha < 1 or num_comparisons < 1:
        raise ValueError(
            f"alpha must lie strictly between 0 and 1 and num_comparisons be at least 1, got {alpha} and {num_comparisons}"
        )
    f, level = num_seeds - 1, 1 - alpha / num_comparisons / 2
    x, w = np.polynomial.legendre.leggauss(NODES)
    # y = s sqrt(f) / sigma is chi on f; it lies within 9 of its mean, about sqrt(f), but for 1e-16
    low, high = max(0.0, math.sqrt(f) - 9.0), math.sqrt(f) + 9.0
    y = low + (x + 1) / 2 * (high - low)
    log = (f - 1) * np.log(y) - y * y / 2
    weights = w * np.exp(log - log.max())
    seeds, test = seed_sd**2 / num_seeds, test_se**2
    part = seeds * y * y / f
    with np.errstate(over="ignore", divide="ignore"):
        df = np.where(part > 0, f * (part + test) / np.where(part > 0, part, 1.0), np.inf)
    crit = np.array([student.quantile(level, d) for d in df]) * np.sqrt(part + test)
    return crit, weights / weights.sum(), math.sqrt(seeds + test)
