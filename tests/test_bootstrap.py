"""The group bootstrap against a plain resampling loop, scipy's bootstrap, and the linearised group variance."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from equipoise.metrics import auc_by_group, gauc
from equipoise.study import bootstrap
from equipoise.study.bootstrap import bootstrap_groups, replicate_covariance
from equipoise.study.delong import delong, influence, placements, task_covariance


def log(seed=0, num=400, groups=60, seeds=2, levels=10):
    """Labels, tied scores of two sides [S, N], groups (names, of unequal size)."""
    g = np.random.default_rng(seed)
    group = g.integers(0, groups, num) // 2 * 3
    taste = g.normal(size=group.max() + 1)[group]
    y = g.random(num) < 1 / (1 + np.exp(1 - taste))
    a = np.round((y + g.normal(size=(seeds, num))) * levels) / levels
    b = np.round((0.7 * y + g.normal(size=(seeds, num))) * levels) / levels
    return y, a, b, np.char.add("user", group.astype(str))


def by_hand(y, a, b, groups, statistic, num, seed, known=None):
    """The same resamples, rows written out and scored by scikit-learn or the library's GAUC."""
    names, codes = np.unique(groups, return_inverse=True)
    rng, out = np.random.default_rng(seed), []
    known = np.ones(len(y), bool) if known is None else known
    for _ in range(num):
        pieces = []
        copies = []
        for copy, code in enumerate(rng.integers(len(names), size=len(names))):
            rows = np.flatnonzero((codes == code) & known)
            pieces.append(rows)
            copies.append(np.full(len(rows), copy))
        rows, copy = np.concatenate(pieces), np.concatenate(copies)
        if statistic == "auc":
            each = [[roc_auc_score(y[rows], s[rows]) for s in side] for side in (a, b)]
        else:  # a group drawn twice is two groups
            each = [[gauc(y[rows], s[rows], copy) for s in side] for side in (a, b)]
        out.append(np.mean(each[0]) - np.mean(each[1]))
    return np.array(out)


@pytest.mark.parametrize("statistic", ["auc", "gauc"])
def test_replicates_equal_rows_written_out(statistic):
    y, a, b, groups = log()
    found = bootstrap_groups(y, a, b[:1], groups, statistic=statistic, num=20, seed=3)
    wanted = by_hand(y, a, b[:1], groups, statistic, 20, 3)
    np.testing.assert_allclose(found.replicates, wanted, atol=1e-13)
    assert found.variance == pytest.approx(wanted.var(ddof=1), rel=1e-10)
    assert found.num_undefined == 0


def test_difference_is_that_of_the_metrics():
    y, a, b, groups = log(1)
    found = bootstrap_groups(y, a, b, groups, num=2, seed=0)
    wanted = np.mean([roc_auc_score(y, s) for s in a]) - np.mean([roc_auc_score(y, s) for s in b])
    assert found.difference == pytest.approx(wanted, abs=1e-14)
    found = bootstrap_groups(y, a, b, groups, statistic="gauc", num=2, seed=0)
    wanted = np.mean([gauc(y, s, groups) for s in a]) - np.mean([gauc(y, s, groups) for s in b])
    assert found.difference == pytest.approx(wanted, abs=1e-14)


def test_unknown_rows_leave_the_resamples_alone():
    y, a, b, groups = log(2)
    known = np.random.default_rng(0).random(len(y)) < 0.5
    known[groups == groups[0]] = False  # a group without a label is drawn all the same
    found = bootstrap_groups(y, a, b, groups, num=15, seed=5, known=known)
    wanted = by_hand(y, a, b, groups, "auc", 15, 5, known)
    np.testing.assert_allclose(found.replicates, wanted, atol=1e-13)


def test_swap_order_and_names_of_groups():
    y, a, b, groups = log(4)
    found = bootstrap_groups(y, a, b, groups, num=30, seed=1)
    swapped = bootstrap_groups(y, b, a, groups, num=30, seed=1)
    np.testing.assert_allclose(swapped.replicates, -found.replicates, atol=1e-15)
    order = np.random.default_rng(9).permutation(len(y))
    moved = bootstrap_groups(y[order], a[:, order], b[:, order], groups[order], num=30, seed=1)
    np.testing.assert_allclose(moved.replicates, found.replicates, atol=1e-14)
    coded = bootstrap_groups(y, a, b, np.unique(groups, return_inverse=True)[1], num=30, seed=1)
    np.testing.assert_array_equal(coded.replicates, found.replicates)
    same = bootstrap_groups(y, a, a, groups, num=30, seed=1)
    np.testing.assert_allclose(same.replicates, 0, atol=1e-15)


def test_rows_as_groups_agree_with_scipy_and_delong():
    y, a, b, _ = log(6, num=600, seeds=1)

    def difference(rows, axis=-1):
        return np.apply_along_axis(
            lambda i: roc_auc_score(y[i], a[0][i]) - roc_auc_score(y[i], b[0][i]), axis, rows.astype(int)
        )

    theirs = stats.bootstrap(
        (np.arange(len(y)),), difference, n_resamples=400, method="percentile", rng=0
    ).standard_error
    ours = bootstrap_groups(y, a, b, np.arange(len(y)), num=1000, seed=0).variance ** 0.5
    # relative errors of two bootstrap standard errors: sqrt(1 / 800 + 1 / 2000) = .04
    assert ours == pytest.approx(theirs, rel=0.12)
    assert ours == pytest.approx(delong(y, placements(y, a), placements(y, b))[1] ** 0.5, rel=0.1)


def test_groups_agree_with_the_linearised_variance_and_tasks_covary():
    y, a, b, groups = log(7, num=3000, groups=600)
    v = (a[0] + b[0] + np.random.default_rng(1).normal(size=len(y))) > 1.5
    replicates, influences = [], []
    for labels in (y, v):
        replicates.append(bootstrap_groups(labels, a, b, groups, num=1500, seed=2).replicates)
        influences.append(influence(labels, placements(labels, a), placements(labels, b)))
    found, wanted = replicate_covariance(replicates), task_covariance(influences, groups)
    scale = np.sqrt(np.outer(np.diag(wanted), np.diag(wanted)))
    np.testing.assert_allclose(found / scale, wanted / scale, atol=0.12)
    assert abs(wanted[0, 1] / scale[0, 1]) > 0.2  # tasks do covary, else the row above says little


def test_gauc_of_one_group_value_by_hand():
    found = auc_by_group([1, 0, 1, 0, 1], [0.9, 0.1, 0.2, 0.3, 0.5], ["a", "a", "b", "b", "c"])
    assert found.groups.tolist() == ["a", "b", "c"]
    np.testing.assert_array_equal(found.values, [1.0, 0.0, np.nan])
    assert found.rows.tolist() == [2.0, 2.0, 1.0]


def test_replicates_without_a_class_are_counted_or_refused(monkeypatch):
    y, s = np.array([1, 1, 0, 0, 0, 0]), np.arange(6.0)
    groups = [0, 1, 2, 3, 4, 5]
    with pytest.raises(ValueError, match="resamples hold no auc"):
        bootstrap_groups([1, 0, 0, 0, 0, 0], s, -s, groups, num=50, seed=0)
    monkeypatch.setattr(bootstrap, "LEAST_DEFINED", 0.5)
    found = bootstrap_groups(y, s, -s, groups, num=50, seed=0)
    assert found.num_undefined == int(np.isnan(found.replicates).sum()) > 0
    assert np.isfinite(found.variance)
    kept = replicate_covariance([found.replicates, np.arange(50.0)])
    assert np.isfinite(kept).all()


def test_bad_arguments_are_refused():
    y, a, b, groups = log()
    with pytest.raises(ValueError, match="one of auc, gauc, got 'xauc'"):
        bootstrap_groups(y, a, b, groups, statistic="xauc", seed=0)
    with pytest.raises(ValueError, match="num must be at least 2"):
        bootstrap_groups(y, a, b, groups, num=1, seed=0)
    with pytest.raises(ValueError, match="as long as labels"):
        bootstrap_groups(y, a, b, groups[1:], seed=0)
    with pytest.raises(ValueError, match="at least 2, got 1"):
        bootstrap_groups(y, a, b, np.zeros(len(y)), seed=0)
    with pytest.raises(ValueError, match="both classes"):
        bootstrap_groups(np.zeros(len(y)), a, b, groups, seed=0)
    with pytest.raises(ValueError, match="no group holds both classes"):
        bootstrap_groups(y, a, b, y, statistic="gauc", seed=0)
    with pytest.raises(ValueError, match="two defined resamples, got 1"):
        replicate_covariance([[1.0, np.nan], [1.0, 2.0]])
