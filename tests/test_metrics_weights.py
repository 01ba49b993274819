"""Metrics with sample weights and within groups: against scikit-learn, repeated rows, and loops over groups."""

from __future__ import annotations

import doctest
import math

import numpy as np
import pytest
from sklearn import metrics as sk
from test_metrics import pairs_right

from equipoise import metrics

ALL = {
    "auc": metrics.auc,
    "soft_auc": metrics.soft_auc,
    "xauc": metrics.xauc,
    "logloss": metrics.logloss,
    "normalised_entropy": metrics.normalised_entropy,
    "calibration": metrics.calibration,
    "rmse": metrics.rmse,
    "mae": metrics.mae,
}
IN_GROUPS = {
    "gauc": metrics.gauc,
    "gauc_macro": metrics.gauc_macro,
    "group_xauc": metrics.group_xauc,
    "group_rmse": metrics.group_rmse,
    "group_mae": metrics.group_mae,
}


def drawn(seed, n=300, levels=15):
    """Labels, scores in (0, 1) with ties, groups of about ten rows, whole weights from 0 to 3."""
    g = np.random.default_rng(seed)
    return (
        (g.random(n) < 0.3).astype(int),
        g.integers(1, levels, n) / levels,
        g.integers(0, n // 10, n),
        g.integers(0, 4, n).astype(float),
    )


def mean_over_groups(labels, scores, groups, weights):
    """The weighted mean over groups of `pairs_right`, and the shares of rows and groups that have one."""
    each = []
    for k in np.unique(groups[weights > 0]):
        at = groups == k
        each.append((weights[at].sum(), pairs_right(labels[at], scores[at], weights[at])))
    known = [(n, v) for n, v in each if not math.isnan(v)]
    rows = sum(n for n, _ in known)
    return sum(n * v for n, v in known) / rows, rows / sum(n for n, _ in each), len(known) / len(each)


@pytest.mark.parametrize("levels", [2, 9, 10**6])
def test_weighted_auc_is_scikit_learns(levels):
    labels, scores, _, _ = drawn(levels, n=500, levels=levels)
    weights = np.random.default_rng(levels).exponential(size=500)
    wanted = sk.roc_auc_score(labels, scores, sample_weight=weights)
    assert metrics.auc(labels, scores, weights) == pytest.approx(wanted, abs=1e-12)
    assert metrics.xauc(labels, scores, weights) == pytest.approx(wanted, abs=1e-12)


def test_the_other_weighted_metrics_are_scikit_learns():
    labels, p, _, weights = drawn(3)
    assert metrics.logloss(labels, p, weights) == pytest.approx(sk.log_loss(labels, p, sample_weight=weights))
    assert metrics.rmse(labels, p, weights) == pytest.approx(
        sk.root_mean_squared_error(labels, p, sample_weight=weights)
    )
    assert metrics.mae(labels, p, weights) == pytest.approx(
        sk.mean_absolute_error(labels, p, sample_weight=weights)
    )
    rate = np.full(300, np.average(labels, weights=weights))
    assert metrics.normalised_entropy(labels, rate, weights) == pytest.approx(1.0)
    assert metrics.calibration(labels, rate, weights) == pytest.approx(1.0)


@pytest.mark.parametrize("name", [*ALL, *IN_GROUPS])
def test_a_weight_repeats_a_row_and_equal_weights_change_nothing(name):
    labels, scores, groups, weights = drawn(4)
    columns = [labels, scores] + ([groups] if name in IN_GROUPS else [])
    metric = {**ALL, **IN_GROUPS}[name]
    repeated = metric(*(np.repeat(c, weights.astype(int)) for c in columns))
    assert metric(*columns, weights) == pytest.approx(repeated, abs=1e-12)
    assert metric(*columns, np.full(300, 2.5)) == pytest.approx(metric(*columns), abs=1e-12)
    assert math.isnan(metric(*columns, np.zeros(300)))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", ["numbers", "words", "one a group", "one group"])
def test_means_over_groups_are_those_of_a_loop(seed, kind):
    labels, scores, groups, weights = drawn(seed, n=120)
    values = np.random.default_rng(seed).integers(0, 6, 120).astype(float)
    weights = weights * np.random.default_rng(seed).random(120)
    if kind == "one a group":
        assert math.isnan(metrics.group_xauc(values, scores, np.arange(120), weights))
        assert metrics.eligible_share(labels, np.arange(120), weights) == (0.0, 0.0)
        return
    groups = np.zeros(120, int) if kind == "one group" else groups
    groups = groups.astype(str) if kind == "words" else groups
    wanted, rows, share = mean_over_groups(labels, scores, groups, weights)
    found = metrics.group_auc(labels, scores, groups, weights)
    assert found.weighted == pytest.approx(wanted, abs=1e-12)
    assert (found.row_share, found.group_share) == (pytest.approx(rows), pytest.approx(share))
    assert metrics.eligible_share(labels, groups, weights) == pytest.approx((rows, share))
    assert metrics.group_xauc(labels, scores, groups, weights) == pytest.approx(wanted, abs=1e-12)
    wanted, _, _ = mean_over_groups(values, scores, groups, weights)
    assert metrics.group_xauc(values, scores, groups, weights) == pytest.approx(wanted, abs=1e-12)


def test_no_rows_give_nan():
    assert math.isnan(metrics.group_xauc([], [], [])) and math.isnan(metrics.xauc([], []))
    assert math.isnan(metrics.gauc([], [], [])) and math.isnan(metrics.auc([], []))
    assert math.isnan(metrics.rmse([], [])) and math.isnan(metrics.logloss([], []))
    assert metrics.eligible_share([], []) == (0.0, 0.0)


@pytest.mark.parametrize("metric", IN_GROUPS.values())
def test_groups_of_another_length_are_refused(metric):
    with pytest.raises(ValueError, match="groups must be as long as labels"):
        metric([0, 1, 1], [0.1, 0.2, 0.3], [0, 0])


@pytest.mark.parametrize("metric", ALL.values())
def test_weights_and_labels_that_do_not_fit_are_refused(metric):
    with pytest.raises(ValueError, match="weights must be as long as labels"):
        metric([0, 1], [0.1, 0.2], [1.0])
    for wrong in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="weights must be finite and >= 0"):
            metric([0, 1], [0.1, 0.2], [1.0, wrong])
    with pytest.raises(ValueError, match="labels must"):
        metric([0, math.nan], [0.1, 0.2])


def test_probabilities_outside_0_and_1_are_refused():
    with pytest.raises(ValueError, match=r"p must lie in \[0, 1\], got 0.2 to 1.5"):
        metrics.soft_auc([0.2, 1.5], [0.1, 0.2])


def test_the_examples_in_the_docstrings_print_what_they_say():
    found = doctest.testmod(metrics)
    assert found.attempted >= 3 and found.failed == 0
