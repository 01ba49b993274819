"""Luck in tuning: how much the worth of the setting that one search chose would differ from search to search."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

Array = np.ndarray[Any, Any]


def choice_variance(
    scores: ArrayLike,
    noise_sd: ArrayLike,
    *,
    drawn: ArrayLike | None = None,
    of: tuple[ArrayLike, ArrayLike] | None = None,
    num: int = 2000,
    seed: int,
) -> float:
    """Return the variance of the true worth of a side's chosen setting, over repetitions of its search.

    Neither more seeds nor more test rows of the chosen settings show it: two copies of one method, tuned each for itself, truly
    differ by it. `estimate(..., tuning_variance=)` takes the sum over both sides. A parametric bootstrap: the settings'
    worths are the scores, pulled towards their mean until their variance is that of the scores less that of the noise; each
    repetition replaces the settings that were drawn at random by draws of a normal with their mean and sd, adds noise to
    all, and notes the worth of the best.

    It rests on a handful of settings, so it is a correction and no guarantee (docs/protocol.md counts what it leaves).
    It is near 0 where one setting is clearly best, and no more than a share of the noise where all are alike.

    Args:
        scores: [K] validation means of the settings tried, higher is better, in the test metric's units.
        noise_sd: of each score, a number or [K]: seed sd / sqrt(runs), with what is due to the validation rows where that
            is known.
        drawn: bool [K] or None: settings that another search would draw anew (random task weights), none or at least two;
            the others (the grid) it would try again.
        of: another measure of the same settings, (values [K], their noise as `noise_sd`), of whose worth the variance is returned while
            the choice goes by `scores`: one task's, where settings are chosen by the mean over tasks. Not with `drawn`.
        num: repetitions.

    Example:
        >>> choice_variance([0.70, 0.60, 0.50], 0.001, seed=0)   # always the first
        0.0

    Raises:
        ValueError: fewer than two settings, a value that is not finite, negative noise, or drawn of another length or with
            one setting only, or drawn and `of` both.
    """
    seen, noise = _checked(scores, noise_sd)
    again = np.zeros(len(seen), bool) if drawn is None else np.asarray(drawn, bool)
    if again.shape != seen.shape:
        raise ValueError(f"drawn must be [{len(seen)}], got shape {again.shape}")
    pool = np.flatnonzero(again)
    if len(pool) == 1:
        raise ValueError("drawn must mark no setting or at least two: one drawn setting tells no spread")
    if len(pool) and of is not None:
        raise ValueError("drawn and of cannot both be given: settings drawn anew have no second measure")
    worth = _worth(seen, noise)
    measured = worth if of is None else _worth(*_checked(*of))
    if measured.shape != worth.shape:
        raise ValueError(f"of must hold one value for each of the {len(worth)} settings, got {len(measured)}")
    rng = np.random.default_rng(seed)
    tried, noises = np.tile(worth, (num, 1)), np.tile(noise, (num, 1))
    if len(pool):
        # resampling the few that were drawn would understate how far the best of fresh ones varies
        spread = worth[pool].std(ddof=1)
        tried[:, pool] = worth[pool].mean() + spread * rng.normal(size=(num, len(pool)))
    best = (tried + noises * rng.normal(size=tried.shape)).argmax(1)
    found = tried[np.arange(num), best] if of is None else measured[best]
    return float(found.var(ddof=1))


def _checked(scores: ArrayLike, noise_sd: ArrayLike) -> tuple[Array, Array]:
    """Return scores and noise, [K] both; ValueError for what does not fit."""
    seen, noise = np.asarray(scores, np.float64), np.asarray(noise_sd, np.float64)
    if seen.ndim != 1 or len(seen) < 2:
        raise ValueError(f"scores must be [K] of at least 2 settings, got shape {seen.shape}")
    if noise.shape not in ((), seen.shape):
        raise ValueError(f"noise_sd must be a number or [{len(seen)}], got shape {noise.shape}")
    if not (np.isfinite(seen).all() and np.isfinite(noise).all() and (noise >= 0).all()):
        raise ValueError(
            "scores and noise_sd must be finite and noise_sd >= 0; leave settings that failed out"
        )
    return seen, np.broadcast_to(noise, seen.shape)


def _worth(seen: Array, noise: Array) -> Array:
    """Return the scores pulled towards their mean until their variance is theirs less the noise's."""
    total = float(seen.var(ddof=1))
    if total == 0:
        return seen
    # the square root keeps the worths' variance at the estimate; the posterior means' would be smaller once more
    shrink = np.sqrt(max(0.0, 1.0 - float((noise**2).mean()) / total))
    worth: Array = seen.mean() + shrink * (seen - seen.mean())
    return worth
