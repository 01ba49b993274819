"""A finished comparison -> what it shows: AUCs, differences with their two sources of error, decisions."""

from __future__ import annotations

import statistics
from dataclasses import asdict
from typing import Any

import numpy as np

from equipoise.data.store import Split
from equipoise.study.cells import Outcome
from equipoise.study.compare import Comparison
from equipoise.study.contrast import NUM_RESAMPLES, Runs, contrast
from equipoise.study.decide import MIN_GROUPS, MIN_POSITIVES, decide, holm
from equipoise.study.estimate import Estimate, estimate
from equipoise.study.luck import earliest, luck_of
from equipoise.study.origins import Pooled, shares
from equipoise.study.published import published
from equipoise.study.tuning import Unit

Array = np.ndarray[Any, Any]
FEW_GROUPS = 10
"""A resample lacks a class that g groups have with a chance of about e^-g."""
KEPT = ("auc", "gauc", "soft_auc", "ceiling", "logloss", "calibration", "xauc", "rmse", "mae")


def findings(comparison: Comparison, num_resamples: int = NUM_RESAMPLES) -> dict[str, Any]:
    """Return everything that a report shows, in plain types.

    `num_resamples`: of test groups; see `equipoise.study.contrast.contrast`.

    Keys: "plan"; "tasks" {task: metric, positives, groups, grey}; "sides", a row each, with metrics by task and seed, the
    contrasts against the reference and what the side cost; "primary"; "best_other"; "counts"; "tuning"; "published".

    A task under `MIN_POSITIVES` test positives or test negatives is grey: shown, entered in no count and not in the mean,
    unless all tasks are. Regression tasks are grey too: xauc has no test-row error here. A grey task with so few rows of a class that
    resamples would often lack them has no interval; where a period of a larger task has, variances come from the groups' summed
    influences, which resamples tend to.
    """
    plan = comparison.plan
    test = comparison.test
    tasks = {task: _task(test, task) for task in plan.tasks}
    binary = [
        t
        for t in tasks
        if tasks[t]["metric"] == "auc" and min(tasks[t]["positives"], tasks[t]["negatives"]) > 1
    ]
    thin = [t for t in binary if _is_thin(test, t)]
    binary = [t for t in binary if not (t in thin and tasks[t]["grey"])]
    if any(t in thin for t in binary):
        num_resamples = 0
    of_mean = [t for t in binary if not tasks[t]["grey"]]
    if not of_mean:
        of_mean = binary
        for name in binary:
            tasks[name]["grey"] += "; so is every task, and the mean is over them all"
    sides = [_side(comparison, model, method) for model in plan.models for method in plan.methods]
    estimates: dict[tuple[int, str], Estimate] = {}
    for at, side in enumerate(sides):
        if side["failed"] or side["method"] == plan.reference:
            continue
        against = next(
            i for i, s in enumerate(sides) if (s["model"], s["method"]) == (side["model"], plan.reference)
        )
        if sides[against]["failed"]:
            continue
        found = contrast(
            test, binary, _scores(comparison, side), _scores(comparison, sides[against]), num_resamples
        )
        for name, members in {"mean": of_mean, **{t: [t] for t in binary}}.items():
            if members:
                luck = sum(luck_of(comparison, each["units"], members) for each in (side, sides[against]))
                estimates[at, name] = estimate(*found.of(members), tuning_variance=luck)
    main = next(i for i, s in enumerate(sides) if (s["model"], s["method"]) == (plan.models[0], plan.primary))
    other = _best_other(comparison, sides, main)
    versus = None
    if other is not None and of_mean and not sides[main]["failed"]:
        a, b = _scores(comparison, sides[main]), _scores(comparison, sides[other])
        luck = sum(luck_of(comparison, sides[at]["units"], of_mean) for at in (main, other))
        versus = estimate(*contrast(test, of_mean, a, b, num_resamples).of(of_mean), tuning_variance=luck)
    adjusted = _adjust(estimates, sides, main, tasks, versus)
    for (at, name), value in estimates.items():
        sides[at]["contrasts"][name] = _contrast(value, adjusted[at, name], plan.margin)
    primary = sides[main]["contrasts"].get("mean")
    for side in sides:
        side.pop("units")
    return {
        "plan": asdict(plan),
        "tasks": tasks,
        "sides": sides,
        "primary": primary,
        "best_other": None
        if versus is None or other is None
        else {"method": sides[other]["method"], **_contrast(versus, adjusted[main, "other"], plan.margin)},
        "counts": _counts(sides, tasks),
        "tuning": [
            {**asdict(unit), **asdict(tuned), "tried": {f"{lr:g}": v for lr, v in tuned.tried.items()}}
            for unit, tuned in comparison.tuned.items()
        ],
        "published": published(plan, sides, list(tasks)),
    }


def _task(test: Split | Pooled, task: str) -> dict[str, Any]:
    """Return {"metric", "positives", "negatives", "eligible_groups", "grey", "gauc_grey"} of a task's test rows."""
    if test.schema.label(task).kind != "binary":
        return {
            "metric": "xauc",
            "positives": None,
            "negatives": None,
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
    eligible = None
    if test.group is not None:
        folds = test.strata if isinstance(test, Pooled) else np.zeros(len(test), np.int64)
        groups = (test.group * (folds.max() + 1) + folds)[known]
        eligible = len(np.intersect1d(groups[y], groups[~y]))
    return {
        "metric": "auc",
        "positives": positives,
        "negatives": negatives,
        "eligible_groups": eligible,
        "grey": grey,
        "gauc_grey": eligible is None or eligible < MIN_GROUPS,
    }


def _side(comparison: Comparison, model: str, method: str) -> dict[str, Any]:
    """Return a row without its contrasts: metrics by task and seed, delta_m, cost a step, memory, what was chosen."""
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
        _relate(comparison, side)
    return side


def _relate(comparison: Comparison, side: dict[str, Any]) -> None:
    """Add what needs other rows: time a step over the reference's, delta_m against the single-task models."""
    plan = comparison.plan
    reference = comparison.runs.get(Unit(side["model"], plan.reference))
    if reference and not any(o.failed for o in reference):
        side["cost"] = side["step_seconds"] / _step(reference)
    changes = []
    for task, found in side["metrics"].items():
        alone = comparison.runs.get(Unit(side["model"], "single", task))
        metric = "auc" if "auc" in found else "xauc"
        if not alone or any(o.failed for o in alone) or None in found[metric]:
            return
        base = statistics.fmean(o.metrics["test"][task][metric] for o in alone)
        changes.append((statistics.fmean(v for v in found[metric] if v is not None) - base) / base)
    side["delta_m"] = 100 * statistics.fmean(changes)


def _step(outcomes: list[Outcome]) -> float:
    return statistics.median(o.seconds / max(1, o.steps) for o in outcomes)


def _scores(comparison: Comparison, side: dict[str, Any]) -> Runs:
    """Return the test predictions of a side, one mapping a seed; a single-task side's are put together."""
    seeds: list[dict[str, Array]] = [{} for _ in comparison.plan.seeds]
    for unit in side["units"]:
        for into, outcome in zip(seeds, comparison.runs[unit], strict=True):
            for task in comparison.plan.tasks if unit.task is None else (unit.task,):
                into[task] = outcome.read(task)
    return seeds


def _is_thin(test: Split | Pooled, task: str) -> bool:
    """Whether resamples of a task's test groups would often lack a class: fewer than `FEW_GROUPS` groups have it in a period that counts."""
    if test.group is None:
        return False
    labels, known = test.labels(task)
    strata = test.strata if isinstance(test, Pooled) else np.zeros(len(test), np.int64)
    weights, group = shares(labels, known, strata), test.group
    return any(
        len(np.unique(group[known & (strata == stratum) & ((labels > 0) == positive)])) < FEW_GROUPS
        for stratum in np.flatnonzero(weights)
        for positive in (True, False)
    )


def _best_other(comparison: Comparison, sides: list[dict[str, Any]], main: int) -> int | None:
    """Return the secondary method of the primary's model with the best validation value in the final runs, of the earliest origin."""
    plan = comparison.plan
    others = [
        i
        for i, s in enumerate(sides)
        if s["model"] == plan.models[0]
        and s["method"] not in (plan.primary, plan.reference, "single")
        and not s["failed"]
    ]
    return max(others, key=lambda i: sides[i]["valid"]) if others and main not in others else None


def _adjust(
    estimates: dict[tuple[int, str], Estimate],
    sides: list[dict[str, Any]],
    main: int,
    tasks: dict[str, Any],
    versus: Estimate | None,
) -> dict[tuple[int, str], float]:
    """Return p-values: the primary's as it is; all else of a model by Holm, grey tasks left out of the family and at 1."""
    found: dict[tuple[int, str], float] = {}
    families: dict[str, dict[tuple[int, str], float]] = {}
    for (at, name), value in estimates.items():
        if (at, name) == (main, "mean"):
            found[at, name] = value.p_value
        elif name != "mean" and tasks[name]["grey"]:
            found[at, name] = 1.0
        else:
            families.setdefault(sides[at]["model"], {})[at, name] = value.p_value
    if versus is not None:
        families.setdefault(sides[main]["model"], {})[main, "other"] = versus.p_value
    for family in families.values():
        found |= dict(zip(family, (float(p) for p in holm(list(family.values()))), strict=True))
    return found


def _contrast(found: Estimate, adjusted: float, margin: float) -> dict[str, Any]:
    return {
        "difference": found.mean,
        "low": found.interval[0],
        "high": found.interval[1],
        "se": found.se,
        "seed_se": found.seed_part,
        "test_se": found.test_part,
        "tuning_se": found.tuning_part,
        "larger": found.larger,
        "p": found.p_value,
        "adjusted": adjusted,
        "decision": decide(found, margin=margin, p_value=adjusted),
    }


def _counts(sides: list[dict[str, Any]], tasks: dict[str, Any]) -> list[dict[str, Any]]:
    """Return how often each side won, lost, tied or stayed undecided, over tasks that are not grey."""
    counts = []
    for side in sides:
        if not side["contrasts"]:
            continue
        decisions = [
            c["decision"] for t, c in side["contrasts"].items() if t != "mean" and not tasks[t]["grey"]
        ]
        counts.append(
            {
                "model": side["model"],
                "method": side["method"],
                "counts": {kind: decisions.count(kind) for kind in ("win", "loss", "tie", "undecided")},
            }
        )
    return counts
