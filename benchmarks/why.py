"""What of PUB's effect is step size, scale rule, moments, level or optimizer, taken apart on one log.

python benchmarks/why.py [--log LOG | --relation independent] [--sides plain ...] [--work runs/why] [--seeds 5] [--jobs 2]

Without --log, a simulated log of 100,000 rows. Every side tries the same ten learning rates with two tuning seeds each, on validation
rows; none has further settings, all have one weight decay for a unit of summed weights. It is then run with `--seeds` other seeds at
its own best rate, and at the best rate of plain training under its optimizer: what is gone at the side's own rate was the size of the steps. "step" is how far a step moves the shared parameters, over plain
training's, median of 200 steps at the same rate from the same start. Intervals are of the mean over tasks of AUC minus plain's under the same optimizer,
seeds, test rows and luck in tuning, uncorrected. Runs are files in the work folder: the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from results import BATCH, NARROW, REAL
from rich.progress import Progress

from equipoise import models
from equipoise.data import Log, simulate
from equipoise.presets import build_balancer, build_optimizers, sort_options
from equipoise.study import present
from equipoise.study.cells import Job, Outcome, code, perform_all
from equipoise.study.choice import choice_variance
from equipoise.study.contrast import contrast
from equipoise.study.estimate import Estimate

MODEL = "shared_bottom"
RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0)
TUNING_SEEDS = (1000, 1001)
DECAY = 1e-4
"""Per unit of summed weights: a side whose weights sum to T has T times as much, else its loss, T times as large, would hide it. About what plain
training and PUB chose on validation rows of the mixed log; with none both are .02 to .03 worse there."""


class Side(NamedTuple):
    """What is run: optimizer, method as the command line has it, options as `--set` has them, and whether its weights sum to T (else about 1)."""

    optimizer: str
    method: str
    options: dict[str, Any]
    summed: bool = False


SIDES = {
    "plain": Side("adam", "equal", {}, True),
    "PUB, scale convex": Side("adam", "pub", {}),
    "PUB, scale norm": Side("adam", "pub", {"balancer.scale": "norm"}),
    "PUB, scale sum": Side("adam", "pub", {"balancer.scale": "sum"}, True),
    "PUB, scale raw": Side("adam", "pub", {"balancer.scale": "raw"}),
    "PUB on gradients": Side("adam", "pub@gradients", {}),
    "PUB at the representation": Side("adam", "pub@representation", {}),
    "CAGrad on gradients": Side("adam", "cagrad", {}),
    "CAGrad on updates": Side("adam", "cagrad@updates", {}),
    "plain, per-task moments": Side("adam", "adatask", {}, True),
    "PUB, per-task moments": Side("adam", "pub+adatask", {}),
    "plain, Adagrad": Side("adagrad", "equal", {}, True),
    "PUB, Adagrad": Side("adagrad", "pub", {}),
    "plain, SGD": Side("sgd", "equal", {}, True),
    "PUB, SGD": Side("sgd", "pub", {}),
}
PLAIN = {"adam": "plain", "adagrad": "plain, Adagrad", "sgd": "plain, SGD"}


class Runs:
    """A log, the sizes and batch that docs/results.md has for it, and the runs on disk."""

    def __init__(self, log: Log, work: Path, jobs: int, sides: Sequence[str] = tuple(SIDES)) -> None:
        self.log, self.workers, self.sides, self.code = log, jobs, sides, code()
        self.work = work / f"{self.code}-{log.fingerprint[:8]}"  # runs of other code or data lie apart
        self.tasks = list(log.schema.tasks)
        self.sizes = (NARROW if log.schema.simulated else REAL)[MODEL]
        self.batch = BATCH["independent"] if log.schema.simulated else BATCH["kuairand"]

    def decay(self, side: str) -> float:
        """Return a side's weight decay."""
        return DECAY * (len(self.tasks) if SIDES[side].summed else 1)

    def job(self, side: str, lr: float, seed: int, final: bool) -> Job:
        optimizer, method, options, _ = SIDES[side]
        config = {
            "model": MODEL,
            "method": method,
            "optimizer": optimizer,
            "tasks": self.tasks,
            "lr": lr,
            "seed": seed,
            "epochs": 10,
            "patience": 2,
            "batch_size": self.batch,
            "weight_decay": self.decay(side),
            "set": {**self.sizes, **options},
        }
        return Job(str(self.log.path), config, final)

    def perform(self, jobs: list[Job], what: str) -> dict[str, Outcome]:
        with Progress() as bar:
            shown = bar.add_task(what, total=len({job.name for job in jobs}))
            return perform_all(jobs, self.work, self.workers, lambda n: bar.advance(shown, n), self.code)

    def tune(self) -> dict[str, dict[float, float]]:
        """Return {side: {learning rate: mean over the tuning seeds of the validation AUC}}; -inf where a run failed."""
        jobs = {
            (side, lr): [self.job(side, lr, seed, False) for seed in TUNING_SEEDS]
            for side in self.sides
            for lr in RATES
        }
        found = self.perform([job for each in jobs.values() for job in each], "tuning runs")
        return {
            side: {lr: statistics.fmean(found[job.name].value for job in jobs[side, lr]) for lr in RATES}
            for side in self.sides
        }

    def step_length(self, side: str, lr: float, steps: int = 200) -> float:
        """Return the median Euclidean distance by which a step moves the shared parameters."""
        optimizer, method, options, _ = SIDES[side]
        sorted_ = sort_options({**self.sizes, **options}, method, models.options(MODEL))
        model = models.build(MODEL, self.log.schema, seed=0, **sorted_["model"])
        chosen = build_optimizers(optimizer, model.parameters(), model.tables(), lr, self.decay(side))
        shared = model.shared_parameters()
        balancer = build_balancer(method, chosen, shared, sorted_)
        torch.manual_seed(0)
        lengths: list[float] = []
        epoch = 0
        while len(lengths) < steps:
            for batch in self.log.split("train").batches(self.batch, shuffle=True, seed=0, epoch=epoch):
                before = [p.detach().clone() for p in shared]
                balancer.backward(model.losses(batch))
                balancer.step()
                moved = [(p.detach() - b).norm() for p, b in zip(shared, before, strict=True)]
                lengths.append(float(torch.stack(moved).norm()))
                if len(lengths) == steps:
                    break
            epoch += 1
        return statistics.median(lengths)


def luck(tried: dict[float, float], final: list[Outcome]) -> float:
    """Return the variance of what a side's search finds; see `equipoise.study.choice`."""
    kept = [value for value in tried.values() if value > float("-inf")]
    noise = statistics.stdev(o.value for o in final) / len(TUNING_SEEDS) ** 0.5
    return choice_variance(kept, noise, seed=0)


def main() -> None:
    """Tune, run the final seeds, print the table and one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--log", type=Path, help="a prepared log; default: the simulated one, independent")
    parser.add_argument("--rows", type=int, default=100_000, help="of the simulated log")
    parser.add_argument(
        "--relation", choices=("independent", "aligned", "mixed"), default="independent", help="of it"
    )
    parser.add_argument("--sides", nargs="+", choices=list(SIDES), default=list(SIDES), help="only these")
    parser.add_argument("--work", type=Path, default=Path("runs/why"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()
    path = given.log or given.work / f"{given.relation}-{given.rows}"
    if given.log is None and not path.is_dir():
        simulate(path, given.rows, 0, given.relation)
    wanted = {PLAIN[SIDES[side].optimizer] for side in given.sides} | set(given.sides)
    sides = {side: SIDES[side] for side in SIDES if side in wanted}
    runs = Runs(Log.open(path), given.work, given.jobs, list(sides))
    tried = runs.tune()
    best = {side: max(rates, key=lambda lr: rates[lr]) for side, rates in tried.items()}
    jobs = {
        (side, lr, seed): runs.job(side, lr, seed, True)
        for side in sides
        for lr in {best[side], best[PLAIN[SIDES[side].optimizer]]}
        for seed in range(given.seeds)
    }
    found = runs.perform(list(jobs.values()), "final runs")

    def outcomes(side: str, lr: float) -> list[Outcome]:
        return [found[jobs[side, lr, seed].name] for seed in range(given.seeds)]

    test = runs.log.only(runs.tasks).split("test")

    def minus_plain(side: str, lr: float, searched: bool) -> Estimate | None:
        """Return the mean over tasks of AUC minus plain's at its best rate; None where a run failed."""
        plain = PLAIN[SIDES[side].optimizer]
        mine, theirs = outcomes(side, lr), outcomes(plain, best[plain])
        if any(o.failed for o in (*mine, *theirs)):
            return None
        scores = [[{t: o.read(t) for t in runs.tasks} for o in each] for each in (mine, theirs)]
        tuning = luck(tried[side], mine) + luck(tried[plain], theirs) if searched else 0.0
        return contrast(test, runs.tasks, *scores).estimate(runs.tasks, tuning)

    metric = "soft_auc" if runs.log.schema.simulated else "auc"
    head = ["side", "step", "minus plain, at its rate", "own rate"]
    head += [f"{task} {metric.replace('_', ' ')}" for task in runs.tasks] + ["minus plain", "95 % interval"]
    of_plain = {
        optimizer: runs.step_length(PLAIN[optimizer], best[PLAIN[optimizer]])
        for optimizer, *_ in sides.values()
    }
    rows, result = [], {}
    for side, (optimizer, *_) in sides.items():
        plain = PLAIN[optimizer]
        length = runs.step_length(side, best[plain]) / of_plain[optimizer]
        final = outcomes(side, best[side])
        by_task = {
            t: [float("nan") if o.failed else o.metrics["test"][t][metric] for o in final] for t in runs.tasks
        }
        there = None if side == plain else minus_plain(side, best[plain], False)
        own = None if side == plain else minus_plain(side, best[side], True)
        rows.append(
            [
                side,
                f"{length:.3g}",
                "" if there is None else f"{there.mean:+.4f}",
                f"{best[side]:g}",
                *(f"{statistics.fmean(v):.4f} ({statistics.stdev(v):.4f})" for v in by_task.values()),
                "" if own is None else f"{own.mean:+.4f}",
                "" if own is None else f"{own.interval[0]:+.4f}, {own.interval[1]:+.4f}",
            ]
        )
        result[side] = {
            "step": length,
            "rate": best[side],
            "tried": {f"{lr:g}": value for lr, value in tried[side].items()},
            metric: by_task,
            "at plain's rate": None if there is None else there._asdict(),
            "at its own": None if own is None else own._asdict(),
        }
    print(present.table(head, rows))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
