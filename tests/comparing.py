"""Finished comparisons whose scores are made up, so that a test says what each side is worth and nothing trains."""

from __future__ import annotations

import numpy as np
import polars as pl

from equipoise.data import from_frame
from equipoise.metrics import auc
from equipoise.study.cells import Outcome
from equipoise.study.compare import Comparison, make_plan
from equipoise.study.tuning import Tried, Tuned

ROWS = 1200


def made_log(path, rates, groups=None, seed=0, same_group=None):
    """A log of one feature and these tasks {name: share of positives}; validation and test rows are alike, `groups` are of the test rows.

    `same_group`: a task with test positives in group 0 alone.
    """
    rng = np.random.default_rng(seed)
    num = 3 * ROWS
    columns = {"x": rng.normal(size=num), "split": np.repeat(["train", "valid", "test"], ROWS)}
    columns |= {task: (rng.random(num) < rate).astype(int) for task, rate in rates.items()}
    if groups is not None:
        columns["g"] = np.concatenate([np.arange(2 * ROWS) % 40, 1000 + np.asarray(groups)])
    if same_group is not None:
        columns[same_group][2 * ROWS :] = np.where(np.asarray(groups) == 0, 1, 0)
    frame = pl.DataFrame(columns)
    group = None if groups is None else "g"
    return from_frame(frame, labels=list(rates), group=group, split="split", out=path)


def made(log, out, worth, *, seeds=3, primary="pub", settings=(0.0, -0.002, 0.001), change=None):
    """A comparison over `log` in which each method's scores are its `worth` [0 .. 1] of the label, noise the rest.

    Args:
        worth: {method: number, or {task: number}, or (on validation, on test)}; `equal` and the primary are among them. settings: what
            each tuned setting's validation AUC differs from the final runs'. change: of a validation AUC, (task, setting) -> number.
    """
    plan = make_plan(
        log, models_=["shared_bottom"], methods=list(worth), primary=primary, seeds=seeds,
        set_={"hidden": [4], "tower_sizes": [], "embedding_dim": 2},
    )  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    comparison = Comparison(plan, log.split("test"), {})
    for at, unit in enumerate(plan.units()):
        tasks = plan.tasks if unit.task is None else (unit.task,)
        worths = worth[unit.method]
        on = dict(
            zip(("valid", "test"), worths if isinstance(worths, tuple) else (worths, worths), strict=True)
        )

        def run(seed, setting=None, *, at=at, unit=unit, tasks=tasks, on=on):
            rng = np.random.default_rng([at, seed])
            metrics, scores = {"valid": {}, "test": {}}, {}
            for name in ("valid", "test"):
                for task in tasks:
                    y, known = log.split(name).labels(task)
                    w = on[name][task] if isinstance(on[name], dict) else on[name]
                    scores[task] = w * y + rng.normal(size=len(y))
                    y, s = y[known], scores[task][known]
                    metrics[name][task] = {"auc": auc(y, s) if 0 < y.sum() < len(y) else None}
            for task in tasks if setting is not None else ():
                if metrics["valid"][task]["auc"] is not None:
                    metrics["valid"][task]["auc"] += settings[setting] + (
                        change(task, setting) if change else 0
                    )
            file = out / f"{at}-{seed}.npz"
            np.savez(file, **scores)
            known = [m["auc"] for m in metrics["valid"].values() if m["auc"] is not None]
            return Outcome(float(np.mean(known or [0.5])), metrics, 2.0 + at, 10, 10**8, None, str(file))

        comparison.runs[unit] = [run(seed) for seed in plan.seeds]
        comparison.tried[unit] = [[run(1000 + k, k), run(1001 + k, k)] for k in range(len(settings))]
        option = {"lr": 1e-3, "set": {}, "weight_decay": 0.0}
        tried = {
            10.0**-k: float(np.mean([o.value for o in each])) for k, each in enumerate(comparison.tried[unit])
        }
        chosen = {"set": {}, "weight_decay": 0.0}
        comparison.tuned[unit] = Tuned(1e-3, chosen, 0.5, tried, [Tried(option, 0.5, 2)])
    return comparison


def side(found, method):
    """The side of a method in the findings."""
    return next(s for s in found["sides"] if s["method"] == method)
