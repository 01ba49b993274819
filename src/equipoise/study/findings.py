"""A finished comparison -> what it shows: AUCs, differences with their two sources of error, decisions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np

from equipoise.study.compare import Comparison
from equipoise.study.contrast import NUM_RESAMPLES, contrast
from equipoise.study.decide import decide, holm
from equipoise.study.estimate import Estimate
from equipoise.study.luck import luck_of
from equipoise.study.published import published
from equipoise.study.sides import is_thin, scores_of, side_of, task_of

Key = tuple[int, str | None]
"""A contrast: of which side, and of which task; None for the mean over tasks, a name that no task can have."""


def findings(
    comparison: Comparison,
    num_resamples: int = NUM_RESAMPLES,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Return everything that a report shows, in plain types.

    `num_resamples`: of test groups; see `equipoise.study.contrast.contrast`. `tell`: called with how many sides are contrasted and
    how many there are, the best other method among them: with a million test rows each takes minutes.

    Keys: "plan"; "tasks" {task: metric, positives, groups, grey}; "num_groups" of the test rows; "sides", a row each, with metrics by task and seed, the
    differences from the reference, "mean" over tasks and "contrasts" by task, and what the side cost; "primary"; "best_other"; "counts"; "tuning"; "published".

    A task under `MIN_POSITIVES` test positives or test negatives is grey: shown, entered in no count and not in the mean,
    unless all tasks are. Regression tasks are grey too: xauc has no test-row error here. A grey task with so few rows of a class that
    resamples would often lack them has no interval; where a period of a larger task has, variances come from the groups' summed
    influences, which resamples tend to.
    """
    plan = comparison.plan
    test = comparison.test
    tasks = {task: task_of(test, task) for task in plan.tasks}
    binary = [
        t
        for t in tasks
        if tasks[t]["metric"] == "auc" and min(tasks[t]["positives"], tasks[t]["negatives"]) > 1
    ]
    thin = [t for t in binary if is_thin(test, t)]
    binary = [t for t in binary if not (t in thin and tasks[t]["grey"])]
    if any(t in thin for t in binary):
        num_resamples = 0
    of_mean = [t for t in binary if not tasks[t]["grey"]]
    if not of_mean:
        of_mean = binary
        for task in binary:
            tasks[task]["grey"] += "; so is every task, and the mean is over them all"
    sides = [side_of(comparison, model, method, of_mean) for model in plan.models for method in plan.methods]
    estimates: dict[Key, Estimate] = {}
    for at, side in enumerate(sides):
        tell(at, len(sides) + 1)
        if side["failed"] or side["method"] == plan.reference:
            continue
        against = next(
            i for i, s in enumerate(sides) if (s["model"], s["method"]) == (side["model"], plan.reference)
        )
        if sides[against]["failed"]:
            continue
        found = contrast(
            test, binary, scores_of(comparison, side), scores_of(comparison, sides[against]), num_resamples
        )
        wanted: dict[str | None, list[str]] = {None: of_mean, **{t: [t] for t in binary}}
        for name, members in wanted.items():
            if members:
                luck = sum(luck_of(comparison, each["units"], members) for each in (side, sides[against]))
                estimates[at, name] = found.estimate(members, luck)
    main = next(i for i, s in enumerate(sides) if (s["model"], s["method"]) == (plan.models[0], plan.primary))
    other = _best_other(comparison, sides, main)
    tell(len(sides), len(sides) + 1)
    versus = None
    if other is not None and of_mean and not sides[main]["failed"]:
        a, b = scores_of(comparison, sides[main]), scores_of(comparison, sides[other])
        luck = sum(luck_of(comparison, sides[at]["units"], of_mean) for at in (main, other))
        versus = contrast(test, of_mean, a, b, num_resamples).estimate(of_mean, luck)
    adjusted, of_versus = _adjust(estimates, sides, main, tasks, versus)
    for (at, name), value in estimates.items():
        told = _contrast(value, adjusted[at, name], plan.margin)
        if name is None:
            sides[at]["mean"] = told
        else:
            sides[at]["contrasts"][name] = told
    for side in sides:
        side.pop("units")
    tell(len(sides) + 1, len(sides) + 1)
    return {
        "plan": asdict(plan),
        "tasks": tasks,
        "num_groups": None if test.group is None else len(np.unique(test.group)),
        "sides": sides,
        "primary": sides[main]["mean"],
        "best_other": None
        if versus is None or other is None
        else {"method": sides[other]["method"], **_contrast(versus, of_versus, plan.margin)},
        "counts": _counts(sides, tasks),
        "tuning": [
            {**asdict(unit), **asdict(tuned), "tried": {f"{lr:g}": v for lr, v in tuned.tried.items()}}
            for unit, tuned in comparison.tuned.items()
        ],
        "published": published(plan, sides, list(tasks)),
    }


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
    estimates: dict[Key, Estimate],
    sides: list[dict[str, Any]],
    main: int,
    tasks: dict[str, Any],
    versus: Estimate | None,
) -> tuple[dict[Key, float], float]:
    """Return p-values, and that of the best other method: the primary's as it is; all else of a model by Holm, grey tasks out of the family and at 1."""
    alone = {(main, None)}
    grey = {(at, name) for at, name in estimates if name is not None and tasks[name]["grey"]}
    found: dict[Key, float] = {key: 1.0 if key in grey else estimates[key].p_value for key in estimates}
    of_versus = 1.0
    for model in {side["model"] for side in sides}:
        family = [key for key in estimates if key not in alone | grey and sides[key[0]]["model"] == model]
        p = [estimates[key].p_value for key in family]
        with_versus = versus is not None and sides[main]["model"] == model
        adjusted = holm([*p, versus.p_value] if versus is not None and with_versus else p)
        found |= dict(zip(family, adjusted, strict=False))
        of_versus = adjusted[-1] if with_versus else of_versus
    return found, of_versus


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
        if side["mean"] is None:
            continue
        decisions = [c["decision"] for t, c in side["contrasts"].items() if not tasks[t]["grey"]]
        counts.append(
            {
                "model": side["model"],
                "method": side["method"],
                "counts": {kind: decisions.count(kind) for kind in ("win", "loss", "tie", "undecided")},
            }
        )
    return counts
