"""Sides of one cell of docs/results.md at settings that are named, not searched for: is a difference one of methods, or of where the search ended?

python benchmarks/settings.py --relation independent --model ple equal:0.01:3e-4 equal:0.001:3e-4 equal:0.001:1e-3 pub:0.001:3e-4
                              [--seeds 10] [--jobs 2] [--work runs/settings]

A setting is method:learning rate:weight decay; sizes, batches and epochs are those of the cell. Each row is compared with the last setting, on the same
seeds and test rows; intervals hold these two and no luck in tuning, as nothing is chosen here. Every run is a file in the work folder.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import NamedTuple

import results
from rich.progress import Progress

from equipoise.data import simulate
from equipoise.study.cells import Job, code, perform_all
from equipoise.study.contrast import contrast

RELATIONS = ("independent", "aligned", "mixed")


class Setting(NamedTuple):
    """What a side trains with."""

    method: str
    lr: float
    weight_decay: float


def setting(text: str) -> Setting:
    """Read method:learning rate:weight decay."""
    method, *numbers = text.split(":")
    try:
        lr, weight_decay = (float(number) for number in numbers)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"a setting must be method:rate:decay, got {text!r}; say equal:0.001:3e-4"
        ) from None
    return Setting(method, lr, weight_decay)


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("settings", type=setting, nargs="+", help="method:rate:decay, two or more")
    parser.add_argument("--relation", choices=RELATIONS, default="independent")
    parser.add_argument("--model", choices=list(results.MODELS), default="shared_bottom")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path("runs/settings"))
    given = parser.parse_args()
    if len(set(given.settings)) < 2 or given.seeds < 2:
        parser.error("two different settings and two seeds are the least that can be compared")
    path = given.work / given.relation
    log = simulate(path, 100_000, 0, given.relation) if not path.is_dir() else results.Log.open(path)
    base = {"epochs": 10, "patience": 2, "batch_size": results.BATCH[given.relation]}
    jobs = {
        (each, seed): Job(
            str(path.resolve()),
            {
                **base,
                "model": given.model,
                "method": each.method,
                "tasks": list(log.schema.tasks),
                "lr": each.lr,
                "seed": seed,
                "set": results.NARROW[given.model],
                "weight_decay": each.weight_decay,
            },
            True,
        )
        for each in given.settings
        for seed in range(given.seeds)
    }
    now = code()
    folder = given.work / f"{now}-{log.fingerprint[:8]}"  # runs of other code or data lie apart
    with Progress() as bar:
        shown = bar.add_task("runs", total=len(jobs))
        found = perform_all(list(jobs.values()), folder, given.jobs, lambda n: bar.advance(shown, n), now)
    tasks, test = list(log.schema.tasks), log.split("test")
    outcomes = {
        each: [found[jobs[each, seed].name] for seed in range(given.seeds)] for each in given.settings
    }
    scores = {each: [{t: o.read(t) for t in tasks} for o in mine] for each, mine in outcomes.items()}
    *_, last = given.settings
    print(
        f"| method | lr | decay | {' | '.join(f'{t} AUC' for t in tasks)} | {last.method} minus this | 95 % interval |"
    )
    print(f"| --- | --- | --- |{' --- |' * len(tasks)} --- | --- |")
    for each in given.settings:
        values = [[o.metrics["test"][t]["auc"] for o in outcomes[each]] for t in tasks]
        cells = [f"{statistics.fmean(v):.4f} ({statistics.stdev(v):.4f})" for v in values]
        told = ["", ""]
        if each != last:
            e = contrast(test, tasks, scores[last], scores[each]).estimate(tasks)
            told = [f"{e.mean:+.4f}", f"{e.interval[0]:+.4f}, {e.interval[1]:+.4f}"]
        print(
            f"| {each.method} | {each.lr:g} | {each.weight_decay:g} | {' | '.join(cells)} | {' | '.join(told)} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
