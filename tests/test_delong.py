"""Placement values and DeLong's variances against pairs, scikit-learn, the paper's own data and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from equipoise.study.delong import (
    Placements,
    auc_variance,
    delong,
    few_groups,
    influence,
    placements,
    task_covariance,
)

# DeLong, DeLong, Clarke-Pearson (1988): patients with ovarian cancer and bowel obstruction, complete cases; albumin, total
# protein, Krebs-Goplerud score (a low score is good), benefit of surgery. As printed in the SAS/STAT User's Guide, "The
# LOGISTIC Procedure", example "Comparing Receiver Operating Characteristic Curves", whose output holds the figures of the test.
OVARIAN = """
3.0 5.8 10 0   3.2 6.3  5 1   3.9 6.8  3 1   2.8 4.8  6 0   3.2 5.8  3 1   0.9 4.0  5 0   2.5 5.7  8 0   1.6 5.6  5 1
3.8 5.7  5 1   3.7 6.7  6 1   3.2 5.4  4 1   3.8 6.6  6 1   4.1 6.6  5 1   3.6 5.7  5 1   4.3 7.0  4 1   3.6 6.7  4 0
2.3 4.4  6 1   4.2 7.6  4 0   4.0 6.6  6 0   3.5 5.8  6 1   3.8 6.8  7 1   3.0 4.7  8 0   4.5 7.4  5 1   3.7 7.4  5 1
3.1 6.6  6 1   4.1 8.2  6 1   4.3 7.0  5 1   4.3 6.5  4 1   3.2 5.1  5 1   2.6 4.7  6 1   3.3 6.8  6 0   1.7 4.0  7 0
3.7 6.1  5 1   3.3 6.3  7 1   4.2 7.7  6 1   3.5 6.2  5 1   2.9 5.7  9 0   2.1 4.8  7 1   2.8 6.2  8 0   4.0 7.0  7 1
3.3 5.7  6 1   3.7 6.9  5 1   3.6 6.6  5 1
"""


def drawn(seed=0, num=300, levels=15, rate=0.3):
    """Labels and two tied, correlated scores that know something of them."""
    g = np.random.default_rng(seed)
    y = g.random(num) < rate
    base = g.normal(size=num) + y
    return y, np.round((base + g.normal(size=num)) * levels) / levels, np.round(base * levels) / levels


def by_pairs(y, s):
    """V10 and V01 by the P x N table of comparisons."""
    wins = (s[y][:, None] > s[~y]) + 0.5 * (s[y][:, None] == s[~y])
    return wins.mean(1), wins.mean(0)


@pytest.mark.parametrize("levels", [1, 4, 1000])
def test_placements_equal_the_table_of_pairs(levels):
    y, s, _ = drawn(levels=levels)
    found, (v10, v01) = placements(y, s), by_pairs(y, s)
    np.testing.assert_allclose(found.positives, v10, atol=1e-14)
    np.testing.assert_allclose(found.negatives, v01, atol=1e-14)
    # the mean over positives and over negatives are one AUC
    assert found.auc == pytest.approx(roc_auc_score(y, s), abs=1e-14)
    assert found.negatives.mean() == pytest.approx(found.auc, abs=1e-14)


def test_published_example_of_delong():
    rows = np.array(OVARIAN.split(), float).reshape(-1, 4)
    y = rows[:, 3]
    tests = {"albumin": rows[:, 0], "kg": 10 - rows[:, 2], "protein": rows[:, 1]}
    found = {name: placements(y, s) for name, s in tests.items()}
    printed = {"albumin": (0.7366, 0.0927), "kg": (0.7258, 0.1028), "protein": (0.6478, 0.1000)}
    for name, (area, se) in printed.items():
        assert round(found[name].auc, 4) == area
        assert round(auc_variance(y, found[name]) ** 0.5, 4) == se
    for name, difference, se, p in [
        ("albumin", 0.0108, 0.0953, 0.9102),
        ("protein", -0.0780, 0.1046, 0.4561),
    ]:
        d, variance = delong(y, found[name], found["kg"])
        assert round(d, 4) == difference
        assert round(variance**0.5, 4) == se
        assert round(float(stats.chi2.sf(d * d / variance, 1)), 4) == p
    # the joint test of both contrasts needs the covariance of the differences
    contrasts = [found["albumin"], found["protein"]]
    covariance = task_covariance([influence(y, each, found["kg"]) for each in contrasts])
    d = np.array([each.auc - found["kg"].auc for each in contrasts])
    statistic = float(d @ np.linalg.solve(covariance, d))
    assert round(statistic, 4) == 2.5340
    assert round(float(stats.chi2.sf(statistic, 2)), 4) == 0.2817


def test_variance_equals_the_papers_formula():
    y, a, b = drawn(3)
    d, variance = delong(y, placements(y, a), placements(y, b))
    table = [np.stack(each) for each in zip(by_pairs(y, a), by_pairs(y, b), strict=True)]
    s = np.cov(table[0]) / y.sum() + np.cov(table[1]) / (~y).sum()
    assert variance == pytest.approx(s[0, 0] + s[1, 1] - 2 * s[0, 1], rel=1e-12)
    assert d == pytest.approx(roc_auc_score(y, a) - roc_auc_score(y, b), abs=1e-14)


@pytest.mark.parametrize("seed", range(5))
def test_symmetries(seed):
    y, a, b = drawn(seed)
    pa, pb = placements(y, a), placements(y, b)
    d, variance = delong(y, pa, pb)
    assert delong(y, pb, pa) == (-d, variance)
    # rows in another order, a monotone change of the scores
    order = np.random.default_rng(seed).permutation(len(y))
    moved = delong(y[order], placements(y[order], np.exp(a[order])), placements(y[order], 3 * b[order] - 1))
    assert moved == pytest.approx((d, variance), abs=1e-14)
    # classes exchanged and scores turned around
    turned = delong(~y, placements(~y, -a), placements(~y, -b))
    assert turned == pytest.approx((d, variance), abs=1e-14)
    assert delong(y, pa, pa) == (0.0, 0.0)


def test_constant_scores_are_half_and_without_variance():
    y = np.array([1, 0, 1, 0])
    found = placements(y, np.zeros(4))
    assert found.auc == 0.5
    assert auc_variance(y, found) == 0.0


def test_seed_average_is_the_mean_of_placements():
    y, a, b = drawn(7)
    both = placements(y, np.stack([a, b]))
    pa, pb = placements(y, a), placements(y, b)
    np.testing.assert_allclose(both.positives, (pa.positives + pb.positives) / 2, atol=1e-14)
    np.testing.assert_allclose(both.negatives, (pa.negatives + pb.negatives) / 2, atol=1e-14)


def test_variances_are_those_of_fresh_test_samples():
    g = np.random.default_rng(0)
    found, told = [], []
    for _ in range(1500):
        # the second task's positives are some of the first's negatives as well: a row counts in both
        z = g.normal(size=400)
        y, v = z + g.normal(size=400) > 0.8, z + g.normal(size=400) < -0.5
        a = z + g.normal(size=400)
        pa, pv = placements(y, a), placements(v, -a)
        found.append([pa.auc, pv.auc])
        told.append(task_covariance([influence(y, pa), influence(v, pv)]))
    # the relative standard error of a variance of 1500 draws is sqrt(2 / 1500) = .037
    np.testing.assert_allclose(np.mean(told, 0), np.cov(np.transpose(found)), rtol=0.12)


def test_group_variance_counts_copied_rows_once():
    y, a, b = drawn(2)
    rows = influence(y, placements(y, a), placements(y, b))
    single = task_covariance([rows], np.arange(len(y)))[0, 0]
    assert single == pytest.approx(float((rows**2).sum()), rel=1e-12)
    # every row four times: rows taken as independent tell a quarter of the variance, groups tell all of it
    y4, a4, b4 = np.tile(y, 4), np.tile(a, 4), np.tile(b, 4)
    copied = influence(y4, placements(y4, a4), placements(y4, b4))
    assert task_covariance([copied], np.tile(np.arange(len(y)), 4))[0, 0] == pytest.approx(single, rel=0.02)
    assert task_covariance([copied])[0, 0] == pytest.approx(single / 4, rel=0.02)


def test_few_groups_take_their_factor():
    """Two groups of six rows whose influences sum to +-.3: the mean of two draws has variance (.3 - -.3)^2 / 2 / 2, in units of half the sum."""
    rows = np.array([0.1, 0.3, -0.1, -0.2, 0.0, -0.1])
    groups = [0, 0, 0, 1, 1, 1]
    assert few_groups(groups) == pytest.approx(2 * 5 / 6)
    none = task_covariance([rows, np.zeros(6)], groups)
    # a row whose influence is 0 counts for nothing: five rows
    assert none[0, 0] == pytest.approx((0.3**2 + 0.3**2) * 2 * 4 / 5) and (none[1] == 0).all()
    with pytest.raises(ValueError, match="at least 2 among a task's rows, got 1"):
        task_covariance([rows], np.zeros(6))


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([0, 0, 0], [1.0, 2.0, 3.0], "both classes, got 0 positives of 3"),
        ([1, 1], [1.0, 2.0], "both classes"),
        ([0, 2], [1.0, 2.0], "0 and 1"),
        ([[0, 1]], [[1.0, 2.0]], "1-d"),
        ([0, 1], [1.0, np.nan], "NaN, got 1 of 2"),
        ([0, 1], [1.0, 2.0, 3.0], "N = 2"),
        ([0, 1], np.zeros((2, 2, 2)), "shape"),
    ],
)
def test_bad_rows_are_refused(labels, scores, message):
    with pytest.raises(ValueError, match=message):
        placements(labels, scores)


def test_what_does_not_fit_is_refused():
    y, a, _ = drawn()
    found = placements(y, a)
    with pytest.raises(ValueError, match="same rows"):
        influence(y, found, placements(y[:100], a[:100]))
    with pytest.raises(ValueError, match="those of the placements"):
        influence(y[:100], found)
    with pytest.raises(ValueError, match="two rows of each class"):
        influence([1, 0, 0], Placements(np.ones(1), np.ones(2)))
    with pytest.raises(ValueError, match="lengths \\[3, 2\\]"):
        task_covariance([np.zeros(3), np.zeros(2)])
    with pytest.raises(ValueError, match="same rows, got lengths \\[\\]"):
        task_covariance([])
    with pytest.raises(ValueError, match="groups must be as long"):
        task_covariance([np.zeros(3)], [1, 2])
