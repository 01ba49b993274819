"""Three ways to learn play time on KuaiRand beside clicks: weighted logistic regression, D2Q, regression of log1p.

python benchmarks/watch.py --data FOLDER/kuairand_pure [--seeds 3] [--work runs/watch]

SharedBottom 64-32, embedding 8, plain Adam at 3e-3, batches of 512; test day 2022-05-06. xauc: share of rightly ordered pairs, gxauc:
within users; mae in seconds.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

from protocol import one_run

from equipoise.data import kuairand

WAYS = ("watch_time", "watch_quantile", "watch_log")
OPTIONS = {"model.embedding_dim": 8, "model.hidden": [64, 32], "model.tower_sizes": [16]}


def main() -> None:
    """Run what is not there yet, print a table and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/watch"))
    parser.add_argument("--seeds", type=int, default=3)
    chosen = parser.parse_args()
    chosen.work.mkdir(parents=True, exist_ok=True)
    result: dict[str, list[dict[str, float]]] = {}
    for way in WAYS:
        path = chosen.work / f"log-{way}"
        if not path.is_dir():
            tasks = ["is_click", way]
            kuairand.prepare(chosen.data, path, tasks=tasks, valid_date=20220505, test_date=20220506)
        config = {"model": "shared_bottom", "method": "equal", "lr": 3e-3, "batch_size": 512, "epochs": 10}
        for seed in range(chosen.seeds):
            job = {
                "work": str(chosen.work),
                "log": str(path),
                "name": f"{way}-{seed}",
                "tasks": [],
                "config": {**config, "patience": 2, "seed": seed, "set": OPTIONS},
                "given": {},
            }
            test = one_run(job)["test"]
            entry = {k: test[way][k] for k in ("xauc", "gxauc", "mae")} | {"click": test["is_click"]["auc"]}
            result.setdefault(way, []).append(entry)
    print("| way | xauc | gxauc | mae, s | is_click AUC |\n| --- | --- | --- | --- | --- |")
    for way, runs in result.items():
        cells = []
        for key, unit in (("xauc", 1), ("gxauc", 1), ("mae", 1000), ("click", 1)):
            values = [run[key] / unit for run in runs]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            cells.append(f"{statistics.mean(values):.4f} ({spread:.4f})")
        print(f"| {way} | {' | '.join(cells)} |")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
