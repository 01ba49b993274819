"""Is there a setting under which no task of KuaiRand pays? Five rolling test days, chosen on the first three validation days.

python benchmarks/no_task_pays.py --data FOLDER [--model shared_bottom] [--seeds 5] [--work runs/no-task-pays] [--jobs 1]

Test days 05-02 .. 05-06, the day before each as validation, all earlier days as training, each encoded anew. Every side is chosen on the
validation days 05-01, 05-02 and 05-03 with tuning seeds that are not used again: the same learning rates and weight decays for all, one seed
each and a second for the best two, among which it is chosen; further settings for plain training (fixed task weights) and for balancing. Folds
one and two are thereby seen, so the verdict is on folds three to five pooled; all five are description. Reached when for each task the lower
end of the one-sided 95 % interval (users and seeds) of the setting minus single task, minus plain and minus tuned fixed weights lies above
-.003 (is_click, long_view) and -.015 (is_like).

The verdict comes first; as description then the same against single-task models without decay and, where the chosen setting has Adagrad,
against single-task models and plain training that have it too, tuned alike. Then the front of all sides on these folds (`--front-seeds` of
those that were not chosen; 0 leaves them out). Where it was not reached two probes of the setting, which are not tuned, say what stands in
the way: the epoch that is best for likes, and three times the width. Five folds come last. `--sides` leaves out settings and fixed weights
that it does not name. Every run is a file in the work folder, so a stopped benchmark goes on where it was.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from pathlib import Path
from typing import Any, NamedTuple

from rich.progress import Progress

from equipoise.config import LR_TIMES
from equipoise.data import Log, kuairand
from equipoise.study.cells import Job, Outcome, code, perform_all
from equipoise.study.contrast import contrast
from equipoise.study.estimate import Estimate
from equipoise.study.origins import Pooled, make_origins, pool

TASKS = ["is_click", "long_view", "is_like"]
BOUND = {"is_click": -0.003, "long_view": -0.003, "is_like": -0.015}
RATES = (3e-3, 1e-2)
DECAYS = (3e-6, 3e-5)
"""Per unit of summed weights, so that none has a decay that its loss hides: plain training, whose weights sum to three, has 9e-6 and 9e-5."""
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
WIDE: dict[str, dict[str, Any]] = {
    "shared_bottom": {"model.hidden": [192, 96], "model.embedding_dim": 24},
    "mmoe": {"model.expert": [192, 96], "model.embedding_dim": 24},
}
"""Three times as wide: tables as large as those of three single-task models together."""


class Side(NamedTuple):
    """What trains: a method with its options, the optimizer, and what its weights sum to (for methods without a promise, about)."""

    method: str
    options: dict[str, Any]
    optimizer: str = "adam"
    total: float = 1.0
    monitor: str = "mean_primary"
    decays: tuple[float, ...] = DECAYS

    def searched(self) -> list[tuple[float, float]]:
        """Return every learning rate with every weight decay."""
        return [
            (float(f"{lr * LR_TIMES.get(self.optimizer, 1.0):.1g}"), float(f"{decay * self.total:.2g}"))
            for lr, decay in itertools.product(RATES, self.decays)
        ]


def weights(*values: float) -> dict[str, Any]:
    return {"method.weights": dict(zip(TASKS, values, strict=True))}


PLAIN = {"plain": Side("equal", {}, total=len(TASKS))}
PLAIN_ADAGRAD = {"equal, Adagrad": Side("equal", {}, "adagrad", len(TASKS))}
FIXED = {
    f"fixed {a:g}:{b:g}:{c:g}": Side("fixed", weights(a, b, c), total=a + b + c)
    for a, b, c in ((1, 1, 3), (1, 1, 10), (1, 2, 3))
}
SETTINGS = {
    "pub": Side("pub", {}),
    "pub, scale norm": Side("pub", {"balancer.scale": "norm"}),
    "pub on gradients": Side("pub@gradients", {}),
    "pub, per-task moments": Side("pub+adatask", {}),
    "pub, Adagrad": Side("pub", {}, "adagrad"),
    "equal, per-task moments": Side("adatask", {}, total=len(TASKS)),
    **PLAIN_ADAGRAD,
    "nash, gradients": Side("nash", {}),
    "upgrad, updates, per-task moments": Side("upgrad@updates+adatask", {}),
    "running scale a task and tensor": Side("metabalance", {}, total=len(TASKS)),
}
SINGLE = {f"single {task}": Side("equal", {}) for task in TASKS}
SINGLE_ADAGRAD = {f"single {task}, Adagrad": Side("equal", {}, "adagrad") for task in TASKS}
SINGLE_FREE = {f"single {task}, no decay": Side("equal", {}, decays=(0.0,)) for task in TASKS}
KINDS = ("", ", Adagrad", ", no decay")
ALONE = {f"single {task}{kind}": (task, f"single task{kind}") for task in TASKS for kind in KINDS}
"""{side: (its task, the name that such sides have together)}."""


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
            "tasks": [ALONE[side][0]] if side in ALONE else TASKS,
            "method": setting.method,
            "optimizer": setting.optimizer,
            "lr": found[0],
            "weight_decay": found[1],
            "monitor": setting.monitor,
            "seed": seed,
            "set": {**MODELS[self.model], **setting.options},
        }
        return Job(str(self.logs[fold].path), config, final)

    def perform(self, jobs: list[Job], what: str) -> dict[str, Outcome]:
        with Progress() as bar:
            shown = bar.add_task(what, total=len({job.name for job in jobs}))
            return perform_all(jobs, self.work, self.jobs, lambda n: bar.advance(shown, n), self.code)

    def choose(self, sides: dict[str, Side]) -> dict[str, Chosen]:
        """Return {side: what is best on validation}: all that is searched with one seed, the best two with a second."""
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


class Finals:
    """Final runs on the test rows of some folds: their predictions and AUC within a day, by side and seed."""

    def __init__(self, runs: Runs, folds: tuple[int, ...]) -> None:
        self.runs, self.folds = runs, folds
        logs = [runs.logs[fold] for fold in folds]
        self.test = Pooled([log.only(TASKS).split("test") for log in logs])
        self.alone = {task: Pooled([log.only([task]).split("test") for log in logs]) for task in TASKS}
        self.scores: dict[str, list[dict[str, Any]]] = {}
        self.auc: dict[str, dict[str, list[float]]] = {}

    def add(self, sides: dict[str, Side], valid: dict[str, Chosen], num: int) -> None:
        """Train `num` seeds of each side; single-task models come together under one name."""
        jobs = {
            (side, seed, fold): self.runs.job(side, each, valid[side][:2], seed, fold, True)
            for side, each in sides.items()
            for seed in range(num)
            for fold in self.folds
        }
        found = self.runs.perform(list(jobs.values()), f"final runs, {len(self.folds)} folds")
        for side in sides:
            task, name = ALONE.get(side, ("", side))
            test = self.alone.get(task, self.test)
            pooled = [
                pool([found[jobs[side, seed, fold].name] for fold in self.folds], test) for seed in range(num)
            ]
            scores = self.scores.setdefault(name, [{} for _ in range(num)])
            for task in pooled[0].metrics["test"]:
                self.auc.setdefault(name, {})[task] = [o.metrics["test"][task]["auc"] for o in pooled]
                for each, outcome in zip(scores, pooled, strict=True):
                    each[task] = outcome.read(task)

    def show(self, order: list[str]) -> None:
        """Print a table of the sides that were trained."""
        likes = sum(int((y[known] > 0).sum()) for y, known in [self.test.labels("is_like")])
        print(f"\n{len(self.test):,} test rows, {likes} likes. AUC within a day, mean over seeds (sd)\n")
        print("| side | seeds | " + " | ".join(TASKS) + " |\n| --- | --- |" + " --- |" * len(TASKS))
        for side in (side for side in order if side in self.auc):
            cells = [self.auc[side][task] for task in TASKS]
            shown = " | ".join(f"{statistics.fmean(v):.4f} ({statistics.stdev(v):.4f})" for v in cells)
            print(f"| {side} | {len(cells[0])} | {shown} |")

    def minus(self, side: str, against: str) -> dict[str, Estimate]:
        """Return the difference of two sides by task."""
        measured = contrast(self.test, TASKS, self.scores[side], self.scores[against])
        return {task: measured.estimate([task]) for task in TASKS}

    def verdict(self, setting: str, others: list[str]) -> dict[str, Any]:
        """Print and return whether no task pays."""
        print(f"\n{setting} minus, lower end of the one-sided 95 % interval in brackets:\n")
        print("| minus | " + " | ".join(TASKS) + " | |\n| --- |" + " --- |" * (len(TASKS) + 1))
        found: dict[str, Any] = {}
        for against in others:
            each = self.minus(setting, against)
            lost = [task for task, e in each.items() if e.low(0.95) <= BOUND[task]]
            held = f"not held: {', '.join(lost)}" if lost else "held"
            print(f"| {against} | {_cells(each)} | {held} |")
            found[against] = {
                task: {"difference": e.mean, "low": e.low(0.95), "se": e.se, "held": task not in lost}
                for task, e in each.items()
            }
        reached = all(entry["held"] for per in found.values() for entry in per.values())
        print(f"\n{len(self.folds)} folds: {'all held' if reached else 'not all held'}", flush=True)
        return {"reached": reached, **found}


def _cells(each: dict[str, Estimate]) -> str:
    return " | ".join(f"{e.mean:+.4f} ({e.low(0.95):+.4f})" for e in each.values())


def show_valid(valid: dict[str, Chosen], sides: list[str], margin: dict[str, float]) -> None:
    """Print what each side was chosen as."""
    print("| side | lr | decay | " + " | ".join(f"{t}, validation" for t in TASKS) + " | margin |")
    print("| --- | --- | --- |" + " --- |" * (len(TASKS) + 1))
    for side in sides:
        lr, decay, seen = valid[side]
        values = " | ".join(f"{seen[t]:.4f}" for t in TASKS)
        print(f"| {side} | {lr:g} | {decay:g} | {values} | {margin[side]:+.2f} |")
    for kind in KINDS:
        alone = {task: valid[f"single {task}{kind}"] for task in TASKS}
        rates = ", ".join(f"{chosen.lr:g}" for chosen in alone.values())
        decays = ", ".join(f"{chosen.weight_decay:g}" for chosen in alone.values())
        values = " | ".join(f"{chosen.valid[task]:.4f}" for task, chosen in alone.items())
        print(f"| single task{kind} | {rates} | {decays} | {values} | |")


def main() -> None:
    """Choose, run the final seeds, print the verdict, the front and one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", choices=sorted(MODELS), default="shared_bottom")
    parser.add_argument("--sides", nargs="+", choices=[*FIXED, *SETTINGS], metavar="SIDE", help="only these")
    parser.add_argument("--work", type=Path, default=Path("runs/no-task-pays"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--front-seeds", type=int, default=2, help="of the sides that were not chosen")
    given = parser.parse_args()
    weighed = {side: each for side, each in FIXED.items() if side in (given.sides or FIXED)}
    settings = {side: each for side, each in SETTINGS.items() if side in (given.sides or SETTINGS)}
    if not weighed or not settings or given.seeds < 2 or given.front_seeds == 1:
        parser.error("fixed weights, a setting and two seeds are the least that can be compared")
    path = given.work / "log"
    if not path.is_dir():
        kuairand.prepare(given.data, path, tasks=TASKS, valid_date=20220505, test_date=20220506)
    logs = make_origins(Log.open(path), 5, given.work / "origins")
    runs = Runs(logs, given.model, given.work, given.jobs)
    every = PLAIN | weighed | settings | PLAIN_ADAGRAD | SINGLE | SINGLE_ADAGRAD | SINGLE_FREE
    valid = runs.choose(every)
    fixed = max(weighed, key=lambda side: _mean([valid[side].valid]))
    alone = {task: valid[f"single {task}"].valid[task] for task in TASKS}
    best = {t: max(alone[t], valid["plain"].valid[t], valid[fixed].valid[t]) for t in TASKS}
    shared = [side for side in every if side not in ALONE]
    # how far the task that is nearest to its bound lies above it, on validation, in units of the bound
    margin = {
        side: min((valid[side].valid[t] - best[t] - BOUND[t]) / -BOUND[t] for t in TASKS) for side in shared
    }
    setting = max(settings, key=lambda side: margin[side])
    show_valid(valid, shared, margin)
    print(f"\nchosen: {setting}; tuned fixed weights: {fixed}", flush=True)

    chosen = {side: every[side] for side in dict.fromkeys(("plain", fixed, setting, *SINGLE))}
    order, others = [*shared, *(f"single task{kind}" for kind in KINDS)], ["single task", "plain", fixed]
    three, five = Finals(runs, VERDICT_ON), Finals(runs, tuple(range(len(logs))))
    three.add(chosen, valid, given.seeds)
    verdict = three.verdict(setting, others)
    result: dict[str, Any] = {
        "valid": {side: each._asdict() for side, each in valid.items()},
        "setting": setting,
        "fixed": fixed,
        "verdict": {"folds 3 to 5": verdict},
    }
    print("\nAgainst further sides, as description:")
    more = SINGLE_FREE
    if settings[setting].optimizer == "adagrad":
        more = more | SINGLE_ADAGRAD | PLAIN_ADAGRAD
    more = {side: each for side, each in more.items() if side not in chosen}
    three.add(more, valid, given.seeds)
    names = list(dict.fromkeys(ALONE[side][1] if side in ALONE else side for side in more))
    result["verdict"]["folds 3 to 5, further sides"] = three.verdict(setting, names)
    result["verdict"]["folds 3 to 5, plain"] = three.verdict(
        "plain", ["single task", "single task, no decay"]
    )
    for side in (side for side in more if side in PLAIN_ADAGRAD):
        result["verdict"][f"folds 3 to 5, {side}"] = three.verdict(side, others)
    if given.front_seeds:
        rest = {s: each for s, each in every.items() if s not in three.auc and s not in ALONE}
        three.add(rest, valid, given.front_seeds)
    three.show(order)
    if not verdict["reached"]:
        wide = {**settings[setting].options, **WIDE[given.model]}
        probes = {
            f"{setting}, the epoch best for likes": settings[setting]._replace(monitor="is_like:auc"),
            f"{setting}, three times as wide": settings[setting]._replace(options=wide),
        }
        three.add(probes, dict.fromkeys(probes, valid[setting]), given.seeds)
        print("\nWhat stands in the way: minus single task, at the setting's rate and decay\n")
        print("| side | " + " | ".join(TASKS) + " |\n| --- |" + " --- |" * len(TASKS))
        for side in (setting, *probes):
            print(f"| {side} | {_cells(three.minus(side, 'single task'))} |", flush=True)
    five.add(chosen, valid, given.seeds)
    five.show(order)
    result["verdict"]["all five folds"] = five.verdict(setting, others)
    result["front"] = {
        side: {task: statistics.fmean(values) for task, values in three.auc[side].items()}
        for side in order
        if side in three.auc
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
