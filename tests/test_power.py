"""Power, detectable differences and luck in tuning against scipy and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from equipoise.study.choice import choice_variance
from equipoise.study.estimate import estimate
from equipoise.study.power import detectable, power


@pytest.mark.parametrize("num_seeds", [2, 5, 20])
def test_power_without_test_rows_is_the_noncentral_t(num_seeds):
    wanted = stats.nct.sf(stats.t.ppf(0.975, num_seeds - 1), num_seeds - 1, 1.5 * num_seeds**0.5)
    assert power(0.003, 0.002, num_seeds, 0.0) == pytest.approx(wanted, abs=1e-9)
    assert power(-0.003, 0.002, num_seeds, 0.0) == pytest.approx(wanted, abs=1e-9)


def test_power_without_seeds_noise_is_the_normal_one():
    wanted = stats.norm.sf(stats.norm.ppf(1 - 0.025 / 4) - 3)
    assert power(0.003, 0.0, 5, 0.001, num_comparisons=4) == pytest.approx(wanted, abs=1e-12)
    assert detectable(0.0, 5, 0.001) == pytest.approx(0.001 * (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)))


def test_power_is_met_by_the_real_estimates():
    g, hits = np.random.default_rng(3), 0
    for _ in range(4000):
        d = 0.003 + g.normal(0, 0.001) + g.normal(0, 0.002, 5)
        found = estimate(d, 1e-6)
        hits += found.p_value < 0.05 and found.mean > 0
    # standard error of a share of 4000 at .6: .008
    assert power(0.003, 0.002, 5, 0.001) == pytest.approx(hits / 4000, abs=0.03)


def test_detectable_inverts_power_and_falls_with_what_helps():
    x = detectable(0.002, 10, 0.001, num_comparisons=6)
    assert power(x, 0.002, 10, 0.001, num_comparisons=6) == pytest.approx(0.8, abs=1e-9)
    assert x > detectable(0.002, 10, 0.001) > detectable(0.002, 20, 0.001) > detectable(0.002, 20, 0.0)
    # more seeds do not help against the test rows
    assert detectable(0.002, 1000, 0.005) > 2.8 * 0.005
    assert detectable(0.002, 10, 0.001, power=0.95) > detectable(0.002, 10, 0.001, power=0.5)


def test_power_refuses():
    with pytest.raises(ValueError, match="num_seeds must be at least 2"):
        power(0.1, 0.1, 1, 0.1)
    for sd, se in [(0.0, 0.0), (-1.0, 2.0), (math.nan, 1.0), (1.0, math.inf)]:
        with pytest.raises(ValueError, match="not both 0"):
            power(0.1, sd, 5, se)
    for bad in ({"alpha": 1.0}, {"num_comparisons": 0}):
        with pytest.raises(ValueError, match="alpha must lie strictly between 0 and 1 and num_comparisons"):
            power(0.1, 0.1, 5, 0.1, **bad)
    for bad in (0.02, 1.0):
        with pytest.raises(ValueError, match="power must lie between"):
            detectable(0.1, 5, 0.1, power=bad)


def searches(luck, noise, num=4000):
    """The true worth of the setting chosen by repeated searches over the same grid, and the mean of what one search is told."""
    g = np.random.default_rng(0)
    worth, told = luck * np.array([-1.5, -0.5, 0.0, 0.4, 0.6]), []
    for k in range(200):
        told.append(choice_variance(worth + noise * g.normal(size=5), noise, num=200, seed=k))
    chosen = worth[(worth + noise * g.normal(size=(num, 5))).argmax(1)]
    return float(chosen.var()), float(np.mean(told))


@pytest.mark.parametrize("noise", [0.3, 1.0, 2.0])
def test_choice_variance_is_that_of_repeated_searches(noise):
    true, told = searches(1.0, noise)
    # five settings tell little: within a factor of 2 on average
    assert true / 2 < told < 2 * true


def test_choice_variance_of_settings_drawn_anew_is_that_of_their_best():
    g = np.random.default_rng(1)
    told = [choice_variance(g.normal(size=6), 0.0, drawn=[True] * 6, num=300, seed=k) for k in range(300)]
    # the best of six normal draws has variance .416 (David and Nagaraja, Order Statistics, table); s^2 of six is unbiased
    assert float(np.mean(told)) == pytest.approx(0.416, rel=0.15)


def test_choice_variance_of_another_measure_follows_the_choice():
    """Two settings that the mean cannot tell apart, and that differ in one task: it is a coin between their worths."""
    even = choice_variance([0.5, 0.5], 0.01, of=([0.4, 0.6], 0.0), seed=0)
    assert even == pytest.approx(0.01, rel=0.01)  # (.2 / 2)^2
    assert choice_variance([0.5, 0.9], 0.01, of=([0.4, 0.6], 0.0), seed=0) < 1e-20  # always the second
    assert choice_variance([0.5, 0.5], 0.01, of=([0.5, 0.5], 0.1), seed=0) == 0.0  # alike in the task, too
    assert (
        choice_variance([0.5, 0.5], 0.01, of=([0.4, 0.6], 0.2), seed=0) == 0.0
    )  # no more than the task's noise
    with pytest.raises(ValueError, match="cannot both be given"):
        choice_variance([0.5, 0.5], 0.01, of=([0.5, 0.5], 0.1), drawn=[True, True], seed=0)
    with pytest.raises(ValueError, match="one value for each of the 3 settings"):
        choice_variance([0.5, 0.5, 0.6], 0.01, of=([0.5, 0.5], 0.1), seed=0)


def test_choice_variance_edges():
    assert choice_variance([0.5, 0.5], 0.01, seed=0) == 0.0
    assert choice_variance([0.5, 0.75], 0.0, seed=0) == 0.0
    # a grid without noise chooses alike each time; settings drawn anew do not
    drawn = choice_variance([0.5, 0.6, 0.7], 0.0, drawn=[True] * 3, seed=0)
    assert drawn > 0
    assert drawn == choice_variance([0.5, 0.6, 0.7], [0.0] * 3, drawn=[True] * 3, seed=0)
    # the units carry through: ten times the scores, a hundred times the variance
    assert choice_variance([5.0, 6.0, 7.0], 1.0, seed=1) == pytest.approx(
        100 * choice_variance([0.5, 0.6, 0.7], 0.1, seed=1)
    )
    with pytest.raises(ValueError, match="at least 2 settings"):
        choice_variance([0.5], 0.1, seed=0)
    with pytest.raises(ValueError, match="a number or \\[2\\]"):
        choice_variance([0.5, 0.6], [0.1] * 3, seed=0)
    for scores, noise in [([0.5, math.nan], 0.1), ([0.5, 0.6], -0.1)]:
        with pytest.raises(ValueError, match="finite and noise_sd >= 0"):
            choice_variance(scores, noise, seed=0)
    with pytest.raises(ValueError, match="at least two: one drawn"):
        choice_variance([0.5, 0.6], 0.1, drawn=[True, False], seed=0)
    with pytest.raises(ValueError, match="drawn must be \\[2\\]"):
        choice_variance([0.5, 0.6], 0.1, drawn=[True], seed=0)
