"""Two sides' predictions of the same test rows -> differences by seed and their variance over test rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from equipoise.data.store import Split
from equipoise.metrics import auc
from equipoise.study.bootstrap import bootstrap_groups, replicate_covariance
from equipoise.study.delong import few_groups, influence, placements, task_covariance
from equipoise.study.estimate import Estimate, estimate
from equipoise.study.origins import Pooled, shares

Array = np.ndarray[Any, Any]
Runs = Sequence[Mapping[str, Array]]
"""One {task: predictions [N]} a seed."""
NUM_RESAMPLES, SEED = 1000, 20_240


class Contrast:
    """One side minus another, on every binary task.

    Attributes:
        differences: {task: [S] AUC(a) - AUC(b) of each seed}, both sides with the same seed.
        covariance: [T, T] of the seed means over test rows, tasks in order.
        dfs: {task: degrees of freedom of its variance}, math.inf where rows are independent.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        differences: Mapping[str, Array],
        covariance: Array,
        dfs: Mapping[str, float],
    ) -> None:
        self.tasks, self.differences, self.covariance, self.dfs = list(tasks), differences, covariance, dfs

    def of(self, members: Sequence[str]) -> tuple[Array, float]:
        """Return ([S] mean over these tasks of the differences, its variance over test rows)."""
        at = [self.tasks.index(task) for task in members]
        mean = np.mean([self.differences[task] for task in members], axis=0)
        return mean, float(self.covariance[np.ix_(at, at)].sum()) / len(at) ** 2

    def estimate(self, members: Sequence[str], tuning_variance: float = 0.0) -> Estimate:
        """Return the estimate of the mean over these tasks; see `equipoise.study.estimate.estimate`."""
        df = min(self.dfs[task] for task in members)
        return estimate(*self.of(members), tuning_variance=tuning_variance, test_df=df)


def contrast(
    test: Split | Pooled, tasks: Sequence[str], a: Runs, b: Runs, num: int = NUM_RESAMPLES
) -> Contrast:
    """Return a minus b over the test split's rows whose label is known, task by task, with the tasks' covariance.

    With a group in the schema whole groups are resampled, alike for all tasks; without one it is DeLong's variance of the
    placement values averaged over seeds. Few groups tell a variance badly, so its degrees of freedom are `num_groups` less 1; a single group
    tells none, and rows are then taken as independent.

    Args:
        tasks: binary ones. a, b: predictions of the same seeds in the same order. num: resamples of groups; 0: no resampling, groups by
            their summed influence, which the resamples tend to.

    Of several folds the AUCs are taken within each and weighted by its positives; a group that lies in several is drawn in all of them or none.
    """
    strata = test.strata if isinstance(test, Pooled) else np.zeros(len(test), np.int64)
    group = test.group
    if group is not None and (group == group[0]).all():
        group = None
    differences, dfs, factors, replicates, influences = {}, {}, [], [], []
    for task in tasks:
        y, known = test.labels(task)
        weights = shares(y, known, strata)
        total: Array = np.zeros(len(a))
        resampled: Array = np.zeros(num)
        share = np.zeros(len(known))
        for stratum in np.flatnonzero(weights):
            rows = known & (strata == stratum)
            pairs = [
                (auc(y[rows], x[task][rows]), auc(y[rows], z[task][rows])) for x, z in zip(a, b, strict=True)
            ]
            total = total + weights[stratum] * np.array([of_a - of_b for of_a, of_b in pairs])
            if group is not None and num:
                resampled = resampled + weights[stratum] * _resample(y, task, a, b, group, rows, num)
            else:
                sides = [placements(y[rows], np.stack([run[task][rows] for run in runs])) for runs in (a, b)]
                share[rows] = weights[stratum] * influence(y[rows], *sides)
        differences[task] = total
        replicates.append(resampled)
        influences.append(share)
        dfs[task] = math.inf if group is None else num_groups(y, known, group) - 1.0
        factors.append(1.0 if group is None else few_groups(group[known]))
    if group is not None and num:
        root = np.sqrt(factors)
        return Contrast(tasks, differences, replicate_covariance(replicates) * np.outer(root, root), dfs)
    return Contrast(tasks, differences, task_covariance(influences, group), dfs)


def num_groups(labels: Array, known: Array, group: Array) -> int:
    """Return how many groups hold a class of a binary task, the rarer of the two.

    Args:
        labels, known: [N] of `Split.labels`. group: [N].
    """
    return min(len(np.unique(group[known & ((labels > 0) == positive)])) for positive in (True, False))


def _resample(y: Array, task: str, a: Runs, b: Runs, group: Array, rows: Array, num: int) -> Array:
    """Return [num] the difference on each resample of the groups, of these rows only; all tasks and strata draw the same groups."""
    labels = np.where(rows, y, 0.0)
    of_a, of_b = (np.stack([run[task] for run in runs]) for runs in (a, b))
    return bootstrap_groups(labels, of_a, of_b, group, num=num, seed=SEED, known=rows).replicates
