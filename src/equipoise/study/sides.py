"""The rows of a finished comparison: what is known of each task's test rows, and each side's metrics, cost and predictions."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from equipoise.data.store import Split
from equipoise.study.cells import Outcome
from equipoise.study.compare import Comparison
from equipoise.study.contrast import Runs, num_groups
from equipoise.study.decide import MIN_GROUPS, MIN_POSITIVES
from equipoise.study.luck import earliest
from equipoise.study.origins import Pooled, shares
from equipoise.study.tuning import Unit

Array = np.ndarray[Any, Any]
FEW_GROUPS = 10
"""A resample lacks a class that g groups have with a chance of about e^-g."""
KEPT = ("auc", "gauc", "soft_auc", "ceiling", "logloss", "calibration", "xauc", "rmse", "mae")


def task_of(test: Split | Pooled, task: str) -> dict[str, Any]:
    """Return {"metric", "positives", "negatives", "groups", "eligible_groups", "grey", "gauc_grey"} of a task's test rows.

    "groups": those that hold a class, the rarer of the two; None without groups, as in what is not binary.
    """
    if test.schema.label(task).kind != "binary":
        return {
            "metric": "xauc",
            "positives": None,
            "negatives": None,
            "groups": None,
            "eligible_groups": None,
            "grey": "no error of the test rows is known for xauc, so it enters no count",
            "gauc_grey": True,
        }
    labels, known = test.labels(task)
    y = labels[known] > 0
    positives, negatives = int(y.sum()), int((~y).sum())
    grey = None
    if min(positives, negatives) < MIN_POSITIVES:
        which, few = ("positives", positives) if positives <= negatives else ("negatives", negatives)
        grey = f"only {few} test {which}, under {MIN_POSITIVES}: grey, enters no count"
    groups, eligible = None, None
    if test.group is not None:
        groups = num_groups(labels, known, test.group)
        if groups == 1 and not grey and _has_groups(test):
            grey = "a class has all its test rows in one group, so no error between groups is known: grey, enters no count"
        folds = test.strata if isinstance(test, Pooled) else np.zeros(len(test), np.int64)
        parts = (test.group * (folds.max() + 1) + folds)[known]
        eligible = len(np.intersect1d(parts[y], parts[~y]))
    return {
        "metric": "auc",
        "positives": positives,
        "negatives": negatives,
        "groups": groups,
        "eligible_groups": eligible,
        "grey": grey,
        "gauc_grey": eligible is None or eligible < MIN_GROUPS,
    }


def _has_groups(test: Split | Pooled) -> bool:
    """Whether the test rows are of more groups than one."""
    group = test.group
    return group is not None and bool((group != group[0]).any())


def is_thin(test: Split | Pooled, task: str) -> bool:
    """Whether resamples of a task's test groups would often lack a class: fewer than `FEW_GROUPS` groups have it in a period that counts.

    Not where all rows are of one group: they are then taken as independent.
    """
    if not _has_groups(test):
        return False
    labels, known = test.labels(task)
    strata = test.strata if isinstance(test, Pooled) else np.zeros(len(test), np.int64)
    weights, group = shares(labels, known, strata), test.group
    assert group is not None
    return any(
        len(np.unique(group[known & (strata == stratum) & ((labels > 0) == positive)])) < FEW_GROUPS
        for stratum in np.flatnonzero(weights)
        for positive in (True, False)
    )


def side_of(comparison: Comparison, model: str, method: str, of_mean: Sequence[str]) -> dict[str, Any]:
    """Return a row without its contrasts: metrics by task and seed, delta_m over the tasks of the mean, cost a step, memory, what was chosen."""
    plan = comparison.plan
    units = [u for u in comparison.tuned if (u.model, u.method) == (model, method)]
    failed = next((t.failed for u in units if (t := comparison.tuned[u]).failed), None)
    runs = {u: comparison.runs.get(u, []) for u in units}
    bad = [o.failed for outcomes in runs.values() for o in outcomes if o.failed]
    if failed is None and bad:
        failed = f"{len(bad)} of {len(plan.seeds)} final runs: {bad[0]}"
    metrics: dict[str, dict[str, list[float | None]]] = {}
    if failed is None:
        for unit, outcomes in runs.items():
            for task in plan.tasks if unit.task is None else (unit.task,):
                found = [o.metrics["test"][task] for o in outcomes]
                metrics[task] = {k: [f.get(k) for f in found] for k in KEPT if k in found[0]}
    side: dict[str, Any] = {
        "model": model,
        "method": method,
        "failed": failed,
        "units": units,
        "metrics": metrics,
        "mean": None,
        "contrasts": {},
        "valid": None,
        "seconds": None,
        "step_seconds": None,
        "cost": None,
        "memory": None,
        "delta_m": None,
    }
    if failed is None:
        outcomes = [o for found in runs.values() for o in found]
        side["valid"] = statistics.fmean(earliest(o).value for o in outcomes)
        side["seconds"] = sum(statistics.fmean(o.seconds for o in found) for found in runs.values())
        side["step_seconds"] = sum(_step(found) for found in runs.values())
        peaks = [o.memory for o in outcomes if o.memory is not None]
        side["memory"] = max(peaks) if peaks else None
        _relate(comparison, side, of_mean)
    return side


def _relate(comparison: Comparison, side: dict[str, Any], of_mean: Sequence[str]) -> None:
    """Add what needs other rows: time a step over the reference's, delta_m of these tasks' AUC against the single-task models'."""
    plan = comparison.plan
    reference = comparison.runs.get(Unit(side["model"], plan.reference))
    if reference and not any(o.failed for o in reference):
        side["cost"] = side["step_seconds"] / _step(reference)
    changes = []
    for task in of_mean:
        alone = comparison.runs.get(Unit(side["model"], "single", task))
        if not alone or any(o.failed for o in alone):
            return
        base = statistics.fmean(o.metrics["test"][task]["auc"] for o in alone)
        changes.append((statistics.fmean(side["metrics"][task]["auc"]) - base) / base)
    side["delta_m"] = 100 * statistics.fmean(changes) if changes else None


def _step(outcomes: list[Outcome]) -> float:
    return statistics.median(o.seconds / max(1, o.steps) for o in outcomes)


def scores_of(comparison: Comparison, side: dict[str, Any]) -> Runs:
    """Return the test predictions of a side, one mapping a seed; a single-task side's are put together."""
    seeds: list[dict[str, Array]] = [{} for _ in comparison.plan.seeds]
    for unit in side["units"]:
        for into, outcome in zip(seeds, comparison.runs[unit], strict=True):
            for task in comparison.plan.tasks if unit.task is None else (unit.task,):
                into[task] = outcome.read(task)
    return seeds
