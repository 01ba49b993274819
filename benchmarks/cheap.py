"""Cheap cadences of PUB against the exact one on KuaiRand: test AUC, and how near their weights come to the exact ones.

python benchmarks/cheap.py --data FOLDER [--work runs/kuairand] [--seeds 3] [--lr 1e-2]

AUC: mean (sd) over seeds at one learning rate, that of the exact side in docs/results.md: the sides differ in nothing else, and none is
tuned for itself. Weights: along one run of exact PUB, every 20 steps the sketch's and the representation's weights are computed
at the same parameters, state and batch; their cosine with the exact ones, and the share of the deviation from uniform weights that
they explain (1 - |w - w*|^2 / |w* - 1/T|^2), both over all those steps.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch
from kuairand import OPTIONS, TASKS

import equipoise as eq
from equipoise.data import Log, kuairand

SIDES: dict[str, dict[str, Any]] = {
    "exact": {},
    "every 10, weighted between": {"every": 10, "between": "weighted"},
    "sketch": {"gram": "sketch"},
    "representation": {"level": "representation"},
}


def weights_apart(log: Log, lr: float, steps: int) -> dict[str, dict[str, float]]:
    """Return {side: {"cosine", "explained"}} along one run of exact PUB."""
    model = eq.models.build(
        "mmoe", log.schema, seed=1, **{k.split(".")[1]: v for k, v in OPTIONS["set"].items()}
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    shared = model.shared_parameters()
    exact = eq.Balancer(optimizer, "pub", shared=shared)
    cheap = {
        "sketch": {"gram": "sketch"},
        "representation": {"level": "representation"},
    }
    pairs: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {name: [] for name in cheap}
    epoch = step = 0
    while step < steps:
        for batch in log.split("train").batches(OPTIONS["batch_size"], shuffle=True, seed=1, epoch=epoch):
            found = {}
            if step % 20 == 0:
                torch.manual_seed(step)
                for name, options in cheap.items():
                    other = eq.Balancer(optimizer, "pub", shared=shared, on_stationary="damp", **options)
                    torch.manual_seed(step)  # the same ids are dropped
                    other.backward(model.losses(batch))
                    if other._weighed is not None:
                        found[name] = other._weighed.by_name()
                    other.zero_grad()
                torch.manual_seed(step)
            exact.backward(model.losses(batch))
            exact.step()
            assert exact.last is not None
            for name, weights in found.items():
                if len(exact.last.tasks) == len(weights) == len(TASKS):
                    mine = torch.tensor([weights[task] for task in TASKS])
                    pairs[name].append((mine, torch.tensor([exact.last.weights[task] for task in TASKS])))
            step += 1
            if step == steps:
                break
        epoch += 1
    result = {}
    for name, each in pairs.items():
        mine, theirs = (torch.stack(side) for side in zip(*each, strict=True))
        cosine = torch.cosine_similarity(mine, theirs, dim=1)
        spread = (theirs - 1.0 / len(TASKS)).square().sum()
        result[name] = {
            "cosine_mean": float(cosine.mean()),
            "cosine_least": float(cosine.min()),
            "explained": float(1 - (mine - theirs).square().sum() / spread),
            "steps": len(each),
        }
    return result


def main() -> None:
    """Print two tables and one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/kuairand"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--lr", type=float, default=1e-2)
    parser.add_argument("--steps", type=int, default=400)
    chosen = parser.parse_args()
    chosen.work.mkdir(parents=True, exist_ok=True)
    path = chosen.work / "log"
    if not path.is_dir():
        kuairand.prepare(chosen.data, path, tasks=TASKS, valid_date=20220505, test_date=20220506)
    log = Log.open(path)
    apart = weights_apart(log, chosen.lr, chosen.steps)
    print(
        "| side | cosine with exact weights, mean (least) | share of their deviation from uniform explained |\n| --- | --- | --- |"
    )
    for name, e in apart.items():
        print(
            f"| {name} | {e['cosine_mean']:.3f} ({e['cosine_least']:.3f}) | {e['explained']:.2f} |",
            flush=True,
        )
    print(
        "\n| PUB | "
        + " | ".join(f"{task} AUC" for task in TASKS)
        + " | s a run |\n"
        + "| --- " * (len(TASKS) + 2)
        + "|"
    )
    result: dict[str, Any] = {}
    for name, options in SIDES.items():
        runs = [
            eq.train(
                log,
                model="mmoe",
                method="pub",
                lr=chosen.lr,
                seed=seed,
                out=chosen.work / "cheap" / f"{name.split(',')[0].replace(' ', '_')}_{seed}",
                overwrite=True,
                quiet=True,
                **{**OPTIONS, "set": {**OPTIONS["set"], **{f"balancer.{k}": v for k, v in options.items()}}},
            )
            for seed in range(1, chosen.seeds + 1)
        ]
        entry = result[name] = {
            task: [run.metrics["test"][task]["auc"] for run in runs] for task in TASKS
        } | {"seconds": [run.metrics["seconds"] for run in runs]}
        cells = [f"{statistics.mean(entry[t]):.4f} ({statistics.stdev(entry[t]):.4f})" for t in TASKS]
        print(
            f"| {name} | " + " | ".join(cells) + f" | {statistics.median(entry['seconds']):.0f} |", flush=True
        )
    print(json.dumps({"weights": apart, "auc": result}))


if __name__ == "__main__":
    main()
