"""Student's t, estimates, Holm and verdicts against scipy and by hand."""

from __future__ import annotations

import doctest
import importlib
import math

import numpy as np
import pytest
from scipy import stats

from equipoise.study import student
from equipoise.study.decide import MARGIN, VERDICTS, decide, holm
from equipoise.study.estimate import estimate, mean_over_tasks
from equipoise.study.power import power


@pytest.mark.parametrize("name", ["student", "delong", "bootstrap", "choice", "estimate", "decide", "power"])
def test_the_examples_of_the_docstrings_hold(name):
    found = doctest.testmod(importlib.import_module(f"equipoise.study.{name}"))
    assert found.failed == 0
    assert found.attempted


DF = [0.5, 1, 1.5, 2, 4.7, 9, 39, 41, 1e3, 9.9e4, 1e5, 1e7, math.inf]


@pytest.mark.parametrize("df", DF)
def test_student_equals_scipy(df):
    for t in (0.0, 1e-3, 0.1, 0.5, 1, 2, 3, 5, 8, 30):
        wanted = float(stats.t.sf(t, df))
        assert student.tail(t, df) == pytest.approx(wanted, rel=1e-11, abs=1e-20)
        # scipy's own rounding in 1 - wanted reaches 1e-13 at many degrees of freedom
        assert student.tail(-t, df) == pytest.approx(1 - wanted, abs=1e-12)
    for p in (0.5, 0.6, 0.8, 0.9, 0.975, 0.9975, 0.9999, 1 - 1e-6):
        wanted = float(stats.t.ppf(p, df))
        assert student.quantile(p, df) == pytest.approx(wanted, rel=1e-10, abs=1e-12)
        assert student.quantile(1 - p, df) == pytest.approx(-wanted, rel=1e-9, abs=1e-12)
        assert student.tail(student.quantile(p, df), df) == pytest.approx(1 - p, rel=1e-9)


def test_student_refuses():
    for t, df in [(1.0, 0.0), (1.0, -1.0), (1.0, math.nan), (math.nan, 3.0)]:
        with pytest.raises(ValueError, match="df must be above 0"):
            student.tail(t, df)
    for p in (0.0, 1.0, math.nan):
        with pytest.raises(ValueError, match="strictly between 0 and 1"):
            student.quantile(p, 3.0)


def test_without_test_variance_it_is_the_paired_t_test():
    g = np.random.default_rng(0)
    a, b = g.normal(0.001, 0.002, 8), g.normal(0, 0.002, 8)
    found, wanted = estimate(a - b, 0.0), stats.ttest_rel(a, b)
    assert found.df == pytest.approx(7)
    assert found.p_value == pytest.approx(wanted.pvalue, rel=1e-10)
    assert found.p_greater == pytest.approx(stats.ttest_rel(a, b, alternative="greater").pvalue, rel=1e-10)
    assert found.interval == pytest.approx(tuple(wanted.confidence_interval()), rel=1e-9)
    assert found.se == found.seed_part == pytest.approx(stats.sem(a - b))
    assert (found.larger, found.test_part, found.num_seeds) == ("seeds", 0.0, 8)


def test_without_seed_variance_it_is_the_z_test():
    found = estimate([0.003] * 5, 1e-6)
    assert (found.df, found.larger, found.seed_part) == (math.inf, "test rows", 0.0)
    assert found.p_value == pytest.approx(2 * stats.norm.sf(3), rel=1e-10)
    half = stats.norm.ppf(0.975) * 1e-3
    assert found.interval == pytest.approx((0.003 - half, 0.003 + half), rel=1e-10)
    assert found.low() == pytest.approx(0.003 - stats.norm.ppf(0.95) * 1e-3, rel=1e-10)


def test_both_parts_by_hand():
    # s^2 / S = 1e-6 / 3, V = 1e-6: df = 2 * (4/3) / (1/3) = 8
    found = estimate([0.001, 0.003, 0.002], 1e-6, confidence=0.9)
    assert found.se**2 == pytest.approx(found.seed_part**2 + found.test_part**2) == pytest.approx(4e-6 / 3)
    assert found.df == pytest.approx(8)
    t = 0.002 / found.se
    assert found.p_value == pytest.approx(2 * stats.t.sf(t, 8), rel=1e-10)
    assert found.p_greater == pytest.approx(stats.t.sf(t, 8), rel=1e-10)
    assert found.interval[0] == pytest.approx(0.002 - stats.t.ppf(0.95, 8) * found.se)
    assert found.low(0.95) == pytest.approx(found.interval[0])  # one-sided 95 % is the end of two-sided 90 %


@pytest.mark.parametrize("seed", range(5))
def test_swapping_the_sides_swaps_everything(seed):
    d = np.random.default_rng(seed).normal(0.001, 0.002, 6)
    found, other = estimate(d, 1e-6), estimate(-d[::-1], 1e-6)
    assert other.mean == pytest.approx(-found.mean)
    assert other.interval == pytest.approx((-found.interval[1], -found.interval[0]))
    assert other.p_value == pytest.approx(found.p_value)
    assert other.p_greater == pytest.approx(1 - found.p_greater)
    swap = {"win": "loss", "loss": "win"}
    verdict = decide(found)
    assert decide(other) == swap.get(verdict, verdict)


def test_p_value_below_alpha_is_interval_without_zero():
    g = np.random.default_rng(1)
    for _ in range(200):
        found = estimate(g.normal(0.002, 0.002, 5), 1e-6 * g.random())
        assert (found.p_value < 0.05) == (found.interval[0] > 0 or found.interval[1] < 0)


def test_nothing_varies():
    found = estimate([0.0] * 4, 0.0)
    assert (found.mean, found.se, found.p_value, found.interval) == (0.0, 0.0, 1.0, (0.0, 0.0))
    assert found.low() == 0.0
    assert decide(found) == "tie"
    with pytest.raises(ValueError, match="nothing tells how sure"):
        estimate([0.1] * 3, 0.0)


def test_tuning_is_a_third_part():
    plain, found = (
        estimate([0.001, 0.003, 0.002], 1e-6),
        estimate([0.001, 0.003, 0.002], 4e-7, tuning_variance=6e-7),
    )
    assert (found.se, found.df, *found.interval) == pytest.approx((plain.se, plain.df, *plain.interval))
    assert (found.larger, plain.larger, plain.tuning_part) == ("tuning", "test rows", 0.0)
    assert found.tuning_part == pytest.approx(6e-7**0.5)
    both = mean_over_tasks([[0.001, 0.003, 0.002]], [[4e-7]], tuning_variance=6e-7)
    assert both == found


def coverage(num_seeds, ratio, num_comparisons=1):
    """Exact coverage of the interval where V_test is `ratio` times the seeds' part, by the integral of `power`."""
    alpha = 2 * power(0.0, num_seeds**0.5, num_seeds, ratio**0.5, num_comparisons=num_comparisons)
    return 1 - alpha


def test_a_test_variance_of_few_groups_has_degrees_of_freedom_too():
    d = [0.001, 0.003, 0.002]
    seeds = np.var(d, ddof=1) / 3
    found = estimate(d, 1e-6, test_df=4)
    c = seeds / (seeds + 1e-6)
    assert 1 / found.df == pytest.approx(c / 2 + (1 - c) / 4)
    assert estimate(d, 0.0, test_df=4).df == pytest.approx(2)
    assert estimate([0.002] * 3, 1e-6, test_df=4).df == pytest.approx(4)
    # luck in tuning counts as known, as it did
    both = estimate(d, 1e-6, tuning_variance=3e-6, test_df=4)
    assert 1 / both.df == pytest.approx((seeds / 2 + 1e-6 / 4) / (seeds + 4e-6))
    known, few = (estimate(d, 1e-6, test_df=df) for df in (np.inf, 1))
    assert known == estimate(d, 1e-6) and few.se == known.se and few.p_value > known.p_value
    assert mean_over_tasks([d, d], np.eye(2) * 1e-6, test_df=4).df == pytest.approx(
        estimate(d, 5e-7, test_df=4).df
    )
    with pytest.raises(ValueError, match="test_df must be above 0, got 0"):
        estimate(d, 1e-6, test_df=0)


@pytest.mark.parametrize("num_seeds", [5, 6, 10, 20])
def test_interval_covers_as_the_docs_claim(num_seeds):
    found = [coverage(num_seeds, ratio) for ratio in np.logspace(-3, 3, 25)]
    assert min(found) > 0.9499
    assert max(found) < (0.9604 if num_seeds == 5 else 0.96)
    if num_seeds >= 10:  # at Holm's levels, too
        for m in (10, 50):
            assert min(coverage(num_seeds, r, m) for r in (0, 0.02, 0.1, 0.5, 1, 5)) > 1 - 1.02 * 0.05 / m


@pytest.mark.parametrize(("alpha", "ratio", "wanted"), [(0.05, 0.25, 0.0584), (0.005, 0.1, 0.0111)])
def test_squared_shares_would_err_more_at_five_seeds(alpha, ratio, wanted):
    # Welch and Satterthwaite's degrees of freedom, integrated over the quantiles of s^2: the figures of docs/protocol.md
    s2 = stats.chi2.ppf((np.arange(4000) + 0.5) / 4000, 4) / 4
    for power_of_share, found in ((2, wanted), (1, None)):
        df = 4 * ((s2 + ratio) / s2) ** power_of_share
        t = stats.t.ppf(1 - alpha / 2, df) * np.sqrt((s2 + ratio) / (1 + ratio))
        error = float(2 * stats.norm.sf(t).mean())
        if found:
            assert error == pytest.approx(found, rel=0.01)
        else:  # ours, as `power` computes it
            mine = 2 * power(0.0, 5**0.5, 5, ratio**0.5, alpha=alpha)
            assert error == pytest.approx(mine, rel=0.01)
            assert mine < wanted


def test_mean_over_tasks_knows_what_tasks_share():
    g = np.random.default_rng(2)
    d = g.normal(size=(3, 6)) + g.normal(size=6)
    covariance = np.array([[4.0, 1, 0], [1, 2, -1], [0, -1, 3]])
    found = mean_over_tasks(d, covariance)
    assert found.test_part**2 == pytest.approx(9 / 9)  # 4 + 2 + 3 + 2 (1 + 0 - 1) over 3^2
    assert found == estimate(d.mean(0), found.test_part**2)._replace(test_part=found.test_part)
    single = mean_over_tasks(d[:1], covariance[:1, :1])
    assert single == estimate(d[0], 4.0)
    # tasks whose errors cancel
    assert mean_over_tasks(d[:2], [[0.1, -0.1], [-0.1, 0.1 - 1e-17]]).test_part == 0.0


def test_estimates_refuse():
    for d in ([0.1], [[0.1, 0.2]], []):
        with pytest.raises(ValueError, match="at least 2 seeds"):
            estimate(d, 0.1)
    with pytest.raises(ValueError, match="must be finite, got \\[nan\\]"):
        estimate([0.1, math.nan], 0.1)
    for variance in (-1e-9, math.nan, math.inf):
        with pytest.raises(ValueError, match="test_variance must be finite and >= 0"):
            estimate([0.1, 0.2], variance)
    with pytest.raises(ValueError, match="tuning_variance must be finite and >= 0"):
        estimate([0.1, 0.2], 0.1, tuning_variance=-1.0)
    with pytest.raises(ValueError, match="confidence"):
        estimate([0.1, 0.2], 0.1, confidence=1.0)
    with pytest.raises(ValueError, match="tasks by seeds"):
        mean_over_tasks([0.1, 0.2], np.eye(2))
    with pytest.raises(ValueError, match="\\[2, 2\\], got shape \\(3, 3\\)"):
        mean_over_tasks(np.ones((2, 3)), np.eye(3))
    with pytest.raises(ValueError, match="test_variance must be finite"):
        mean_over_tasks(np.ones((1, 3)), [[math.nan]])


def step_down(p, alpha):
    """Holm's own words: go up the sorted p-values while p <= alpha / (hypotheses left)."""
    rejected, left = [False] * len(p), len(p)
    for k in np.argsort(p, kind="stable"):
        if p[k] >= alpha / left:
            break
        rejected[k], left = True, left - 1
    return rejected


@pytest.mark.parametrize("seed", range(20))
def test_holm_is_the_step_down_procedure(seed):
    g = np.random.default_rng(seed)
    p = g.random(7) ** 3
    adjusted = holm(p)
    for alpha in (0.01, 0.05, 0.2):
        assert [value < alpha for value in adjusted] == step_down(p, alpha)
    assert all(value >= raw for value, raw in zip(adjusted, p, strict=True))
    order = g.permutation(7)
    assert holm(p[order]) == [adjusted[k] for k in order]


def test_holm_edges():
    assert holm([]) == []
    assert holm([0.02]) == [0.02]
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    for bad in ([0.1, math.nan], [1.5], [-0.1], [[0.1]]):
        with pytest.raises(ValueError, match="in \\[0, 1\\]"):
            holm(bad)


@pytest.mark.parametrize(
    ("mean", "se", "verdict"),
    [
        (0.005, 0.001, "win"),
        (-0.005, 0.001, "loss"),
        (0.0, 0.0005, "tie"),
        (0.001, 0.0003, "tie"),  # significant and inside the margin
        (0.0019, 0.0003, "win"),  # significant, reaches over the margin
        (-0.001, 0.0005, "tie"),  # the interval ends at -.00198
        (-0.001, 0.00052, "undecided"),  # and at -.00202
        (0.001, 0.00052, "undecided"),
        (0.001, 0.002, "undecided"),
    ],
)
def test_verdicts(mean, se, verdict):
    found = estimate([mean] * 4, se**2)
    assert decide(found) == verdict
    assert verdict in VERDICTS


def test_verdict_uses_the_adjusted_p_value_margin_and_alpha():
    found = estimate([0.005] * 4, 0.002**2)
    assert (found.p_value < 0.05, decide(found), decide(found, p_value=0.06)) == (True, "win", "undecided")
    assert decide(found, p_value=0.06, alpha=0.1) == "win"
    near = estimate([0.0] * 4, 0.0005**2)
    assert (decide(near), decide(near, margin=0.0005), decide(near, margin=0.0)) == (
        "tie",
        "undecided",
        "undecided",
    )
    assert MARGIN == 0.002
    for bad in ({"margin": -1.0}, {"margin": math.nan}, {"alpha": 0.0}, {"p_value": 1.1}):
        with pytest.raises(ValueError, match=f"{next(iter(bad))} must"):
            decide(found, **bad)
