"""Two sides' predictions of the same test rows -> differences by seed and their variance over test rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from equipoise.data.store import Split
from equipoise.metrics import auc
from equipoise.study.bootstrap import bootstrap_groups, replicate_covariance
from equipoise.study.delong import influence, placements, task_covariance

Array = np.ndarray[Any, Any]
Runs = Sequence[Mapping[str, Array]]
"""One {task: predictions [N]} a seed."""
NUM_RESAMPLES, SEED = 1000, 20_240


class Contrast:
    """One side minus another, on every binary task.

    Attributes:
        differences: {task: [S] AUC(a) - AUC(b) of each seed}, both sides with the same seed.
        covariance: [T, T] of the seed means over test rows, tasks in order.
    """

    def __init__(self, tasks: Sequence[str], differences: Mapping[str, Array], covariance: Array) -> None:
        self.tasks, self.differences, self.covariance = list(tasks), differences, covariance

    def of(self, members: Sequence[str]) -> tuple[Array, float]:
        """Return ([S] mean over these tasks of the differences, its variance over test rows)."""
        at = [self.tasks.index(task) for task in members]
        mean = np.mean([self.differences[task] for task in members], axis=0)
        return mean, float(self.covariance[np.ix_(at, at)].sum()) / len(at) ** 2


def contrast(test: Split, tasks: Sequence[str], a: Runs, b: Runs, num: int = NUM_RESAMPLES) -> Contrast:
    """Return a minus b over the test split's rows whose label is known, task by task, with the tasks' covariance.

    With a group in the schema whole groups are resampled, alike for all tasks; without one it is DeLong's variance of the
    placement values averaged over seeds.

    Args:
        tasks: binary ones. a, b: predictions of the same seeds in the same order. num: resamples of groups; 0: no resampling, groups by
            their summed influence, which the resamples tend to.
    """
    labels = {task: test.labels(task) for task in tasks}
    differences = {}
    for task, (y, known) in labels.items():
        pairs = zip(a, b, strict=True)
        differences[task] = np.array(
            [auc(y[known], x[task][known]) - auc(y[known], z[task][known]) for x, z in pairs]
        )
    if test.group is not None and num:
        replicates = [
            bootstrap_groups(
                np.where(known, y, 0.0),
                np.stack([run[task] for run in a]),
                np.stack([run[task] for run in b]),
                test.group,
                num=num,
                seed=SEED,
                known=known,
            ).replicates
            for task, (y, known) in labels.items()
        ]
        return Contrast(tasks, differences, replicate_covariance(replicates))
    shares = []
    for task, (y, known) in labels.items():
        share = np.zeros(len(known))
        sides = [placements(y[known], np.stack([run[task][known] for run in runs])) for runs in (a, b)]
        share[known] = influence(y[known], *sides)
        shares.append(share)
    return Contrast(tasks, differences, task_covariance(shares, test.group))
