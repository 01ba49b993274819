"""Metrics against scikit-learn, brute force over pairs, and cases written out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn import metrics as sk

from equipoise import metrics


def pairs_right(labels, scores, weights=None):
    """Share of pairs with different labels that are ordered rightly, ties 1/2, over all pairs."""
    w = np.ones(len(labels)) if weights is None else weights
    right = total = 0.0
    for i in range(len(labels)):
        for j in range(len(labels)):
            if labels[i] > labels[j]:
                total += w[i] * w[j]
                found = 1.0 if scores[i] > scores[j] else 0.5 if scores[i] == scores[j] else 0.0
                right += w[i] * w[j] * found
    return right / total if total else math.nan


@pytest.mark.parametrize("levels", [2, 7, 10**6])
def test_auc_equals_scikit_learn_with_ties(levels):
    g = np.random.default_rng(levels)
    labels, scores = (g.random(500) < 0.2).astype(int), g.integers(0, levels, 500) / levels
    assert metrics.auc(labels, scores) == pytest.approx(sk.roc_auc_score(labels, scores), abs=1e-12)
    assert metrics.xauc(labels, scores) == pytest.approx(sk.roc_auc_score(labels, scores), abs=1e-12)


def test_auc_of_one_class_is_nan_and_bad_input_is_refused():
    assert math.isnan(metrics.auc([1, 1], [0.1, 0.2]))
    with pytest.raises(ValueError, match="0 or 1"):
        metrics.auc([0, 2], [0.1, 0.2])
    with pytest.raises(ValueError, match="NaN"):
        metrics.auc([0, 1], [0.1, math.nan])
    with pytest.raises(ValueError, match="equally long"):
        metrics.auc([0, 1], [0.1])


@pytest.mark.parametrize("seed", range(4))
def test_xauc_counts_pairs(seed):
    g = np.random.default_rng(seed)
    labels, scores = g.integers(0, 12, 61).astype(float), g.integers(0, 9, 61).astype(float)
    assert metrics.xauc(labels, scores) == pytest.approx(pairs_right(labels, scores), abs=1e-12)
    assert math.isnan(metrics.xauc([3.0, 3.0], [1.0, 2.0]))


def test_group_auc_by_hand():
    # group a: 1 positive over 1 negative -> 1; group b: positive .2 against .1 and .3 -> 1/2; group c has one class
    labels = [1, 0, 1, 0, 0, 1]
    scores = [0.9, 0.1, 0.2, 0.1, 0.3, 0.5]
    groups = ["a", "a", "b", "b", "b", "c"]
    found = metrics.group_auc(labels, scores, groups)
    assert found.weighted == pytest.approx((2 * 1 + 3 * 0.5) / 5)
    assert found.macro == pytest.approx(0.75)
    assert (found.row_share, found.group_share, found.num_groups) == (
        pytest.approx(5 / 6),
        pytest.approx(2 / 3),
        2,
    )
    assert metrics.gauc(labels, scores, groups) == found.weighted
    assert metrics.gauc_macro(labels, scores, groups) == found.macro
    assert math.isnan(metrics.gauc([1, 1], [0.1, 0.2], [0, 0]))


def test_group_auc_equals_a_loop_over_groups():
    g = np.random.default_rng(0)
    labels, scores, groups = (g.random(400) < 0.3) * 1, g.integers(0, 20, 400), g.integers(0, 40, 400)
    each = [
        (sum(groups == k), pairs_right(labels[groups == k], scores[groups == k])) for k in np.unique(groups)
    ]
    each = [(n, v) for n, v in each if not math.isnan(v)]
    wanted = sum(n * v for n, v in each) / sum(n for n, _ in each)
    assert metrics.gauc(labels, scores, groups) == pytest.approx(wanted, abs=1e-12)
    assert metrics.group_xauc(labels, scores, groups) == pytest.approx(wanted, abs=1e-12)


def test_errors_within_groups_equal_a_loop_over_groups():
    g = np.random.default_rng(0)
    labels, predicted, groups = g.random(400), g.random(400), g.integers(0, 40, 400)
    apart = [(labels[groups == k], predicted[groups == k]) for k in np.unique(groups)]
    assert metrics.group_rmse(labels, predicted, groups) == pytest.approx(
        np.mean([metrics.rmse(*a) for a in apart])
    )
    assert metrics.group_mae(labels, predicted, groups) == pytest.approx(
        np.mean([metrics.mae(*a) for a in apart])
    )
    assert math.isnan(metrics.group_rmse([], [], [])) and math.isnan(metrics.group_mae([], [], []))


def test_soft_auc_is_the_sum_over_pairs():
    g = np.random.default_rng(1)
    p, s = g.random(40), g.integers(0, 9, 40)
    above = (s[:, None] > s[None, :]) + 0.5 * (s[:, None] == s[None, :])
    weight = p[:, None] * (1 - p[None, :])
    assert metrics.soft_auc(p, s) == pytest.approx((weight * above).sum() / weight.sum(), abs=1e-12)
    assert metrics.soft_auc(p, p) >= metrics.soft_auc(p, s)


def test_probability_metrics():
    g = np.random.default_rng(2)
    y, p = (g.random(300) < 0.1) * 1, g.random(300)
    assert metrics.logloss(y, p) == pytest.approx(sk.log_loss(y, p))
    assert metrics.normalised_entropy(y, np.full(300, y.mean())) == pytest.approx(1.0)
    assert metrics.calibration([1, 0, 1, 0], [0.5, 0.5, 1.0, 1.0]) == 1.5
    assert math.isfinite(metrics.logloss([0, 1], [1.0, 0.0]))
    assert math.isnan(metrics.normalised_entropy([1, 1], [0.5, 0.5]))
    assert math.isnan(metrics.calibration([0, 0], [0.5, 0.5]))
    assert metrics.rmse(y, p) == pytest.approx(sk.root_mean_squared_error(y, p))
    assert metrics.mae(y, p) == pytest.approx(sk.mean_absolute_error(y, p))
