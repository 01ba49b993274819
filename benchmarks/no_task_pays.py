"""Is there a setting under which no task of KuaiRand pays? Five rolling test days, chosen on the first three validation days.

python benchmarks/no_task_pays.py --data FOLDER [--model shared_bottom] [--seeds 5] [--work runs/no-task-pays] [--jobs 1]

Test days 05-02 .. 05-06, the day before each as validation, all earlier days as training, each encoded anew. Every side is chosen on the
validation days 05-01, 05-02 and 05-03 with tuning seeds that are not used again: the same learning rates and weight decays for all, one seed
each and a second for the best two, among which it is chosen; further settings for plain training (fixed task weights) and for balancing. Folds
one and two are thereby seen, so the verdict is on folds three to five pooled; all five are description. Reached when for each task the lower end of the one-sided 95 % interval (users and seeds) of the setting
minus single task, minus plain and minus tuned fixed weights lies above -.003 (is_click, long_view) and -.015 (is_like).
Every run is a file in the work folder, so a stopped benchmark goes on where it was.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from pathlib import Path
from typing import Any, NamedTuple

from rich.progress import Progress

from equipoise.data import Log, kuairand
from equipoise.study.cells import Job, Outcome, code, perform_all
from equipoise.study.contrast import contrast
from equipoise.study.estimate import Estimate
from equipoise.study.origins import Pooled, make_origins, pool

TASKS = ["is_click", "long_view", "is_like"]
BOUND = {"is_click": -0.003, "long_view": -0.003, "is_like": -0.015}
RATES = (3e-3, 1e-2)
DECAYS = (1e-5, 1e-4)
SEARCHED = tuple(itertools.product(RATES, DECAYS))
TUNING_SEEDS = (1000, 1001)
CHOSEN_ON, VERDICT_ON = (0, 1, 2), (2, 3, 4)
BASE = {"epochs": 10, "batch_size": 512, "patience": 2}
MODELS: dict[str, dict[str, Any]] = {
    "shared_bottom": {"model.hidden": [64, 32], "model.tower_sizes": [16], "model.embedding_dim": 8},
    "mmoe": {
        "model.num_experts": 4,
        "model.expert": [64, 32],
        "model.tower_sizes": [16],
        "model.embedding_dim": 8,
    },
}


RATE = {"adam": 1.0, "adagrad": 30.0}
"""What the learning rates are multiplied by: plain training's best rate under Adagrad is some thirty times that under Adam (why.py)."""


class Side(NamedTuple):
    """What trains: a method with its options, and the optimizer."""

    method: str
    options: dict[str, Any]
    optimizer: str = "adam"

    def searched(self) -> list[tuple[float, float]]:
        """Return every learning rate with every weight decay."""
        return [(float(f"{lr * RATE[self.optimizer]:.1g}"), decay) for lr, decay in SEARCHED]


def weights(*values: float) -> dict[str, Any]:
    return {"method.weights": dict(zip(TASKS, values, strict=True))}


PLAIN = {"plain": Side("equal", {})}
FIXED = {
    f"fixed {a:g}:{b:g}:{c:g}": Side("fixed", weights(a, b, c))
    for a, b, c in ((1, 1, 3), (1, 1, 10), (1, 2, 3))
}
SETTINGS = {
    "pub": Side("pub", {}),
    "pub, scale norm": Side("pub", {"balancer.scale": "norm"}),
    "pub on gradients": Side("pub@gradients", {}),
    "pub, per-task moments": Side("pub+adatask", {}),
    "pub, Adagrad": Side("pub", {}, optimizer="adagrad"),
    "equal, per-task moments": Side("adatask", {}),
    "equal, Adagrad": Side("equal", {}, optimizer="adagrad"),
    "nash, gradients": Side("nash", {}),
    "upgrad, updates, per-task moments": Side("upgrad@updates+adatask", {}),
    "running scale a task and tensor": Side("metabalance", {}),
}
SINGLE = {f"single {task}": Side("equal", {}) for task in TASKS}


class Chosen(NamedTuple):
    """What a side was trained with: learning rate, weight decay, and {task: mean validation AUC over the folds it was chosen on}."""

    lr: float
    weight_decay: float
    valid: dict[str, float]


class Runs:
    """The folds' logs and their runs on disk."""

    def __init__(self, logs: list[Log], model: str, work: Path, jobs: int) -> None:
        self.logs, self.model, self.jobs, self.code = logs, model, jobs, code()
        self.work = work / f"{self.code}-{logs[-1].fingerprint[:8]}"  # runs of other code or data lie apart

    def job(
        self,
        side: str,
        setting: Side,
        found: tuple[float, float],
        seed: int,
        fold: int,
        final: bool,
    ) -> Job:
        config = {
            **BASE,
            "model": self.model,
            "tasks": [side.removeprefix("single ")] if side.startswith("single ") else TASKS,
            "method": setting.method,
            "optimizer": setting.optimizer,
            "lr": found[0],
            "weight_decay": found[1],
            "seed": seed,
            "set": {**MODELS[self.model], **setting.options},
        }
        return Job(str(self.logs[fold].path), config, final)

    def perform(self, jobs: list[Job], what: str) -> dict[str, Outcome]:
        with Progress() as bar:
            shown = bar.add_task(what, total=len({job.name for job in jobs}))
            return perform_all(jobs, self.work, self.jobs, lambda n: bar.advance(shown, n), self.code)

    def choose(self, sides: dict[str, Side]) -> dict[str, Chosen]:
        """Return {side: what is best on validation}: all of SEARCHED with one seed, the best two with a second."""
        waiting = {side: setting.searched() for side, setting in sides.items()}
        values: dict[tuple[str, tuple[float, float]], list[dict[str, float]]] = {}
        for round_, seed in enumerate(TUNING_SEEDS):
            jobs = {
                (side, at, fold): self.job(side, sides[side], at, seed, fold, False)
                for side, each in waiting.items()
                for at in each
                for fold in CHOSEN_ON
            }
            found = self.perform(list(jobs.values()), f"tuning runs, seed {round_ + 1}")
            for side, each in waiting.items():
                for at in each:
                    outcomes = [found[jobs[side, at, fold].name] for fold in CHOSEN_ON]
                    if any(o.failed for o in outcomes):
                        values.pop((side, at), None)
                    else:
                        values.setdefault((side, at), []).extend(
                            {t: scores["auc"] for t, scores in o.metrics["valid"].items()} for o in outcomes
                        )
                ranked = sorted(
                    (at for at in each if (side, at) in values), key=lambda at: -_mean(values[side, at])
                )
                if not ranked:
                    raise SystemExit(f"{side}: no learning rate trained without failing")
                waiting[side] = ranked[: 2 if round_ == 0 else 1]
        return {
            side: Chosen(
                *at, {t: statistics.fmean(v[t] for v in values[side, at]) for t in values[side, at][0]}
            )
            for side, (at,) in waiting.items()
        }


def _mean(values: list[dict[str, float]]) -> float:
    return statistics.fmean(statistics.fmean(v.values()) for v in values)


def main() -> None:
    """Choose, run the final seeds, print the front, the verdict and one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", choices=sorted(MODELS), default="shared_bottom")
    parser.add_argument("--work", type=Path, default=Path("runs/no-task-pays"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument(
        "--front-seeds", type=int, default=2, help="of the settings that were not chosen; 0 leaves them out"
    )
    given = parser.parse_args()
    path = given.work / "log"
    if not path.is_dir():
        kuairand.prepare(given.data, path, tasks=TASKS, valid_date=20220505, test_date=20220506)
    logs = make_origins(Log.open(path), 5, given.work / "origins")
    runs = Runs(logs, given.model, given.work, given.jobs)
    every = PLAIN | FIXED | SETTINGS | SINGLE
    valid = runs.choose(every)
    fixed = max(FIXED, key=lambda side: _mean([valid[side].valid]))
    alone = {task: valid[f"single {task}"].valid[task] for task in TASKS}
    best = {t: max(alone[t], valid["plain"].valid[t], valid[fixed].valid[t]) for t in TASKS}

    def margin(side: str) -> float:
        """How far the task that is nearest to its bound lies above it, on validation, in units of the bound."""
        return min((valid[side].valid[t] - best[t] - BOUND[t]) / -BOUND[t] for t in TASKS)

    setting = max(SETTINGS, key=margin)
    print("| side | lr | decay | " + " | ".join(f"{t}, validation" for t in TASKS) + " | margin |")
    print("| --- | --- | --- |" + " --- |" * (len(TASKS) + 1))
    for side in (*PLAIN, *FIXED, *SETTINGS):
        lr, decay, seen = valid[side]
        print(
            f"| {side} | {lr:g} | {decay:g} | "
            + " | ".join(f"{seen[t]:.4f}" for t in TASKS)
            + f" | {margin(side):+.2f} |"
        )
    own = [
        ", ".join(f"{getattr(valid[f'single {t}'], what):g}" for t in TASKS)
        for what in ("lr", "weight_decay")
    ]
    print(f"| single task | {' | '.join(own)} | " + " | ".join(f"{alone[t]:.4f}" for t in TASKS) + " | |")
    print(f"chosen: {setting}; tuned fixed weights: {fixed}", flush=True)

    seeds = dict.fromkeys((*FIXED, *SETTINGS), given.front_seeds)
    seeds |= dict.fromkeys(("plain", fixed, setting, *SINGLE), given.seeds)
    seeds = {side: num for side, num in seeds.items() if num}
    found: dict[str, Outcome] = {}

    def outcomes(side: str, seed: int, folds: tuple[int, ...]) -> list[Outcome]:
        jobs = [runs.job(side, every[side], valid[side][:2], seed, fold, True) for fold in folds]
        return [found[job.name] for job in jobs]

    result: dict[str, Any] = {
        "valid": {side: chosen._asdict() for side, chosen in valid.items()},
        "setting": setting,
        "fixed": fixed,
        "verdict": {},
        "front": {},
    }
    for name, folds in (("folds 3 to 5", VERDICT_ON), ("all five folds", tuple(range(len(logs))))):
        jobs = [
            runs.job(side, every[side], valid[side][:2], seed, fold, True)
            for side, num in seeds.items()
            for seed in range(num)
            for fold in folds
        ]
        found |= runs.perform(jobs, f"final runs, {name}")
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
        for side in (*(s for s in (*PLAIN, *FIXED, *SETTINGS) if s in seeds), "single task"):
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
            each: dict[str, Estimate] = {task: measured.estimate([task]) for task in TASKS}
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
