"""Does a model of a tenth of the negatives predict as high as one of all rows? Both corrections, on a simulated log.

python benchmarks/negatives.py [--rows 2000000] [--keep 0.1] [--seeds 3] [--work runs/negatives]

SharedBottom 16-8, embedding 4, plain Adam at 5e-4, batches of 4096, as many steps on either side, the epoch of the least logloss of click on
validation; mean (sd) over seeds. Calibration is the sum of predictions over the sum of labels on the test split, which is never thinned out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

from equipoise.data import write_log
from equipoise.data.schema import Negatives
from equipoise.data.simulate import rows, schema, world
from equipoise.training import train

BOUND = 0.02
OPTIONS = {"model.embedding_dim": 4, "model.hidden": [16], "model.tower_sizes": [8]}
EPOCHS = 5
"""Passes over all rows; over fewer rows as many more."""


def main() -> None:
    """Print a table and one JSON object; exit with an error where click's calibration differs by more than the bound."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--keep", type=float, default=0.1)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=chosen.work) as work:
        found = _all(Path(work), chosen.rows, chosen.keep, chosen.seeds)
    print("| negatives | train rows | task | calibration | auc |")
    print("| --- | --- | --- | --- | --- |")
    for name, tasks in found.items():
        for task, scores in tasks.items():
            cells = [
                f"{statistics.mean(v):.4f} ({_sd(v):.4f})" for v in (scores["calibration"], scores["auc"])
            ]
            print(f"| {name} | {scores['rows'][0]:,} | {task} | {' | '.join(cells)} |")
    print(json.dumps(found))
    whole = statistics.mean(found["all"]["click"]["calibration"])
    for name in ("weights", "logit"):
        gap = statistics.mean(found[name]["click"]["calibration"]) - whole
        if abs(gap) > BOUND:
            raise SystemExit(
                f"{name}: click's calibration is {gap:+.4f} off that of all rows, beyond {BOUND}"
            )


def _sd(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def _all(work: Path, n: int, keep: float, seeds: int) -> dict:
    """Return {way: {task: {"rows", "calibration", "auc": a number a seed}}}; the way "all" thins nothing out."""
    frame = rows(world(0), n, 0)
    cut = [int(n * 0.6), int(n * 0.7)]
    frames = {"train": frame[: cut[0]], "valid": frame[cut[0] : cut[1]], "test": frame[cut[1] :]}
    found: dict = {}
    for way in ("all", "weights", "logit"):
        rule = None if way == "all" else Negatives(of="click", keep=keep, correct=way)
        described = schema().model_copy(update={"negatives": rule})
        log = write_log(work / way, frames, described, truth={t: f"p_{t}" for t in described.tasks})
        epochs = round(EPOCHS * cut[0] / len(log.split("train")))
        options = {"lr": 5e-4, "batch_size": 4096, "epochs": epochs, "patience": epochs, "set": OPTIONS}
        options["monitor"] = "click:logloss"
        found[way] = {task: {"rows": [], "calibration": [], "auc": []} for task in described.tasks}
        for seed in range(seeds):
            place = work / f"{way}-{seed}"
            result = train(log, "shared_bottom", "equal", out=place, quiet=True, seed=seed, **options)
            for task, scores in result.metrics["test"].items():
                found[way][task]["rows"].append(len(log.split("train")))
                found[way][task]["calibration"].append(scores["calibration"])
                found[way][task]["auc"].append(scores["auc"])
            print(
                f"{way}, seed {seed}: click {result.metrics['test']['click']['calibration']:.4f}", flush=True
            )
    return found


if __name__ == "__main__":
    main()
