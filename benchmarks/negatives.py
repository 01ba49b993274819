"""Does a model of a tenth of the negatives predict as high as one of all rows? Both corrections, on a simulated log.

python benchmarks/negatives.py [--rows 400000] [--keep 0.1] [--work runs/negatives]

SharedBottom 32-16, embedding 8, plain Adam at 1e-3, batches of 512, the epoch that is best on validation. Calibration is the sum of predictions
over the sum of labels on the test split, which is never thinned out.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from equipoise.data import write_log
from equipoise.data.schema import Negatives
from equipoise.data.simulate import rows, schema, world
from equipoise.training import train

BOUND = 0.02
OPTIONS = {"model.embedding_dim": 8, "model.hidden": [32], "model.tower_sizes": [16]}


def main() -> None:
    """Print a table and one JSON object; exit with an error where click's calibration differs by more than the bound."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=400_000)
    parser.add_argument("--keep", type=float, default=0.1)
    parser.add_argument("--work", type=Path)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=chosen.work) as work:
        found = {
            name: _run(Path(work) / name, chosen.rows, chosen.keep, name)
            for name in ("all", "weights", "logit")
        }
    print("| negatives | train rows | seconds | task | calibration | auc |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, run in found.items():
        for task, scores in run["test"].items():
            print(
                f"| {name} | {run['rows']:,} | {run['seconds']:.0f} | {task} | {scores['calibration']:.4f} | {scores['auc']:.4f} |"
            )
    print(json.dumps(found))
    whole = found["all"]["test"]["click"]["calibration"]
    for name in ("weights", "logit"):
        gap = found[name]["test"]["click"]["calibration"] - whole
        if abs(gap) > BOUND:
            raise SystemExit(
                f"{name}: click's calibration is {gap:+.4f} off that of all rows, beyond {BOUND}"
            )


def _run(path: Path, n: int, keep: float, correct: str) -> dict:
    """Return the rows, seconds of training and test scores of one way; `correct` is "all" without sampling."""
    frame = rows(world(0), n, 0)
    cut = [int(n * 0.6), int(n * 0.7)]
    frames = {"train": frame[: cut[0]], "valid": frame[cut[0] : cut[1]], "test": frame[cut[1] :]}
    described = schema()
    if correct != "all":
        rule = Negatives(of="click", keep=keep, correct=correct)
        described = described.model_copy(update={"negatives": rule})
    log = write_log(path / "log", frames, described, truth={task: f"p_{task}" for task in described.tasks})
    begun = time.perf_counter()
    options = {"lr": 1e-3, "batch_size": 512, "epochs": 2 if correct == "all" else 6, "patience": 2}
    result = train(log, "shared_bottom", "equal", out=path / "run", quiet=True, set=OPTIONS, **options)
    return {
        "rows": len(log.split("train")),
        "seconds": time.perf_counter() - begun,
        "test": result.metrics["test"],
    }


if __name__ == "__main__":
    main()
