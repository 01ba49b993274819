"""Is there a setting under which no task of KuaiRand pays? Five rolling test days, chosen on the first three validation days.

python benchmarks/no_task_pays.py --data FOLDER [--seeds 5] [--work runs/no-task-pays] [--jobs 1]

Test days 05-02 .. 05-06, the day before each as validation, all earlier days as training, each encoded anew. Every side is chosen on the
validation days 05-01, 05-02 and 05-03 with tuning seeds that are not used again: the same learning rates for all, further settings for
plain training (fixed task weights) and for balancing. Folds one and two are thereby seen, so the verdict is on folds three to five
pooled; all five are description. Reached when for each task the lower end of the one-sided 95 % interval (users and seeds) of the setting
minus single task, minus plain and minus tuned fixed weights lies above -.003 (is_click, long_view) and -.015 (is_like).
Every run is a file in the work folder, so a stopped benchmark goes on where it was.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from pathlib import Path
from typing import Any

from rich.progress import Progress

from equipoise.data import Log, kuairand
from equipoise.study.cells import Job, Outcome, code, perform_all
from equipoise.study.contrast import contrast
from equipoise.study.estimate import Estimate, estimate
from equipoise.study.origins import Pooled, make_origins, pool

TASKS = ["is_click", "long_view", "is_like"]
BOUND = {"is_click": -0.003, "long_view": -0.003, "is_like": -0.015}
RATES = (3e-3, 1e-2)
TUNING_SEEDS = (1000, 1001)
CHOSEN_ON, VERDICT_ON = (0, 1, 2), (2, 3, 4)
BASE = {
    "model": "shared_bottom",
    "epochs": 10,
    "batch_size": 512,
    "patience": 2,
    "tasks": TASKS,
    "set": {"model.embedding_dim": 8, "model.hidden": [64, 32], "model.tower_sizes": [16]},
}


def weights(*values: float) -> dict[str, Any]:
    return {"method.weights": dict(zip(TASKS, values, strict=True))}


PLAIN = {"plain": ("equal", {})}
FIXED = {
    f"fixed {a:g}:{b:g}:{c:g}": ("fixed", weights(a, b, c))
    for a, b, c in ((1, 1, 0.3), (1, 1, 3), (1, 1, 10), (1, 2, 3))
}
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "pub": ("pub", {}),
    "pub, scale norm": ("pub", {"balancer.scale": "norm"}),
    "pub, every 10": ("pub", {"balancer.every": 10, "balancer.between": "weighted"}),
    "pub, per-task moments": ("pub+adatask", {}),
    "pub, per-task moments, scale norm": ("pub+adatask", {"balancer.scale": "norm"}),
    "equal, per-task moments": ("adatask", {}),
    "nash, gradients": ("nash", {}),
    "upgrad, updates, per-task moments": ("upgrad@updates+adatask", {}),
    "running scale a task and tensor": ("metabalance", {}),
    "db_mtl": ("db_mtl", {}),
}
SINGLE = {f"single {task}": ("equal", {}) for task in TASKS}


class Runs:
    """The folds' logs and their runs on disk."""

    def __init__(self, logs: list[Log], work: Path, jobs: int) -> None:
        self.logs, self.jobs, self.code = logs, jobs, code()
        self.work = work / f"{self.code}-{logs[-1].fingerprint[:8]}"  # runs of other code or data lie apart

    def job(
        self, side: str, setting: tuple[str, dict[str, Any]], lr: float, seed: int, fold: int, final: bool
    ) -> Job:
        method, options = setting
        tasks = [side.removeprefix("single ")] if side.startswith("single ") else TASKS
        config = {
            **BASE,
            "tasks": tasks,
            "method": method,
            "lr": lr,
            "seed": seed,
            "set": {**BASE["set"], **options},
        }  # type: ignore[dict-item]
        return Job(str(self.logs[fold].path), config, final)

    def perform(self, jobs: list[Job], what: str) -> dict[str, Outcome]:
        with Progress() as bar:
            shown = bar.add_task(what, total=len({job.name for job in jobs}))
            return perform_all(jobs, self.work, self.jobs, lambda n: bar.advance(shown, n), self.code)

    def choose(
        self, sides: dict[str, tuple[str, dict[str, Any]]]
    ) -> dict[str, tuple[float, dict[str, float]]]:
        """Return {side: (its learning rate, {task: mean validation AUC over the folds it is chosen on})}."""
        jobs = {
            (side, lr, seed, fold): self.job(side, setting, lr, seed, fold, False)
            for side, setting in sides.items()
            for lr, seed, fold in itertools.product(RATES, TUNING_SEEDS, CHOSEN_ON)
        }
        found = self.perform(list(jobs.values()), "tuning runs")
        result = {}
        for side in sides:
            by_rate = {}
            for lr in RATES:
                outcomes = [found[jobs[side, lr, s, f].name] for s in TUNING_SEEDS for f in CHOSEN_ON]
                if any(o.failed for o in outcomes):
                    continue
                tasks = list(outcomes[0].metrics["valid"])
                by_rate[lr] = {
                    t: statistics.fmean(o.metrics["valid"][t]["auc"] for o in outcomes) for t in tasks
                }
            lr = max(by_rate, key=lambda rate: statistics.fmean(by_rate[rate].values()))
            result[side] = (lr, by_rate[lr])
        return result


def main() -> None:
    """Choose, run the final seeds, print the front, the verdict and one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/no-task-pays"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--front-seeds", type=int, default=2, help="of the settings that were not chosen")
    given = parser.parse_args()
    path = given.work / "log"
    if not path.is_dir():
        kuairand.prepare(given.data, path, tasks=TASKS, valid_date=20220505, test_date=20220506)
    logs = make_origins(Log.open(path), 5, given.work / "origins")
    runs = Runs(logs, given.work, given.jobs)
    every = PLAIN | FIXED | SETTINGS | SINGLE
    valid = runs.choose(every)
    fixed = max(FIXED, key=lambda side: statistics.fmean(valid[side][1].values()))
    alone = {task: valid[f"single {task}"][1][task] for task in TASKS}
    best = {t: max(alone[t], valid["plain"][1][t], valid[fixed][1][t]) for t in TASKS}

    def margin(side: str) -> float:
        """How far the task that is nearest to its bound lies above it, on validation, in units of the bound."""
        return min((valid[side][1][t] - best[t] - BOUND[t]) / -BOUND[t] for t in TASKS)

    setting = max(SETTINGS, key=margin)
    print("| side | lr | " + " | ".join(f"{t}, validation" for t in TASKS) + " | margin |")
    print("| --- | --- |" + " --- |" * (len(TASKS) + 1))
    for side in (*PLAIN, *FIXED, *SETTINGS):
        lr, seen = valid[side]
        print(
            f"| {side} | {lr:g} | "
            + " | ".join(f"{seen[t]:.4f}" for t in TASKS)
            + f" | {margin(side):+.2f} |"
        )
    rates = ", ".join(f"{valid[f'single {t}'][0]:g}" for t in TASKS)
    print(f"| single task | {rates} | " + " | ".join(f"{alone[t]:.4f}" for t in TASKS) + " | |")
    print(f"chosen: {setting}; tuned fixed weights: {fixed}", flush=True)

    seeds = dict.fromkeys((*FIXED, *SETTINGS), given.front_seeds)
    seeds |= dict.fromkeys(("plain", fixed, setting, *SINGLE), given.seeds)
    jobs = {
        (side, seed, fold): runs.job(side, every[side], valid[side][0], seed, fold, True)
        for side, num in sorted(seeds.items(), key=lambda entry: -entry[1])
        for seed in range(num)
        for fold in range(len(logs))
    }
    found = runs.perform(list(jobs.values()), "final runs")

    def outcomes(side: str, seed: int, folds: tuple[int, ...]) -> list[Outcome]:
        return [found[jobs[side, seed, fold].name] for fold in folds]

    result: dict[str, Any] = {"valid": valid, "setting": setting, "fixed": fixed, "verdict": {}, "front": {}}
    for name, folds in (("folds 3 to 5", VERDICT_ON), ("all five folds", tuple(range(len(logs))))):
        tests = [logs[fold].only(TASKS).split("test") for fold in folds]
        test = Pooled(tests)
        single = {task: Pooled([logs[fold].only([task]).split("test") for fold in folds]) for task in TASKS}
        pooled = {
            side: [
                pool(outcomes(side, seed, folds), single[side[7:]] if side in SINGLE else test)
                for seed in range(num)
            ]
            for side, num in seeds.items()
        }
        scores = {
            side: [{t: o.read(t) for t in o.metrics["test"]} for o in each] for side, each in pooled.items()
        }
        scores["single task"] = [
            {task: scores[f"single {task}"][seed][task] for task in TASKS} for seed in range(given.seeds)
        ]
        likes = sum(int((y[known] > 0).sum()) for y, known in [test.labels("is_like")])
        print(f"\n{name}: {len(test):,} test rows, {likes} likes. AUC within a day, mean over seeds (sd)\n")
        print("| side | seeds | " + " | ".join(TASKS) + " |\n| --- | --- |" + " --- |" * len(TASKS))
        front = {}
        for side in ("plain", *FIXED, *SETTINGS, "single task"):
            cells = {}
            for task in TASKS:
                source = pooled[f"single {task}"] if side == "single task" else pooled[side]
                values = [o.metrics["test"][task]["auc"] for o in source]
                cells[task] = values
            num = len(cells[TASKS[0]])
            front[side] = {task: statistics.fmean(values) for task, values in cells.items()}
            shown = " | ".join(
                f"{statistics.fmean(v):.4f} ({statistics.stdev(v):.4f})" for v in cells.values()
            )
            print(f"| {side} | {num} | {shown} |")
        print(f"\n{setting} minus, lower end of the one-sided 95 % interval in brackets:\n")
        print("| minus | " + " | ".join(TASKS) + " | |\n| --- |" + " --- |" * (len(TASKS) + 1))
        verdict: dict[str, Any] = {}
        for against in ("single task", "plain", fixed):
            measured = contrast(test, TASKS, scores[setting], scores[against])
            each: dict[str, Estimate] = {task: estimate(*measured.of([task])) for task in TASKS}
            held = {task: e.low(0.95) > BOUND[task] for task, e in each.items()}
            verdict[against] = {
                t: {"difference": e.mean, "low": e.low(0.95), "se": e.se, "held": held[t]}
                for t, e in each.items()
            }
            cells_ = " | ".join(f"{e.mean:+.4f} ({e.low(0.95):+.4f})" for e in each.values())
            print(
                f"| {against} | {cells_} | {'held' if all(held.values()) else 'not held: ' + ', '.join(t for t in TASKS if not held[t])} |"
            )
        reached = all(entry["held"] for per in verdict.values() for entry in per.values())
        print(f"\n{name}: {'reached' if reached else 'not reached'}", flush=True)
        result["verdict"][name] = {"reached": reached, **verdict}
        result["front"][name] = front
    print(json.dumps(result))


if __name__ == "__main__":
    main()
