"""KuaiRand: plain Adam, PUB and single-task models on test day 2022-05-06; see protocol.py.

python benchmarks/kuairand.py --data FOLDER [--seeds 5] [--work runs/kuairand] [--pub-variants]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from protocol import logistic, markdown, table

from equipoise.data import Log, kuairand

TASKS = ["is_click", "long_view", "is_like"]
SIDES = {"plain Adam": "equal", "PUB": "pub", "single task": "single"}
VARIANTS = {"PUB, per-task moments": "pub+adatask"}
OPTIONS = {
    "epochs": 10,
    "batch_size": 512,
    "patience": 2,
    "set": {
        "model.embedding_dim": 8,
        "model.num_experts": 4,
        "model.expert": [64, 32],
        "model.tower_sizes": [16],
    },
}


def main() -> None:
    """Prepare the log, run the protocol, print the table and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/kuairand"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--lr", type=float, nargs="+", default=[3e-4, 1e-3, 3e-3, 1e-2])
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--pub-variants", action="store_true", help="also PUB with per-task moments")
    chosen = parser.parse_args()
    chosen.work.mkdir(parents=True, exist_ok=True)
    path = chosen.work / "log"
    if not path.is_dir():
        kuairand.prepare(chosen.data, path, tasks=TASKS, valid_date=20220505, test_date=20220506)
    test = Log.open(path).summary()["test"]
    print(f"test rows {test['rows']:,}, likes {test['tasks']['is_like']['positives']}", flush=True)
    sides = SIDES | (VARIANTS if chosen.pub_variants else {})
    options = {**OPTIONS, "epochs": chosen.epochs}
    reference = {"logistic regression": logistic(path, TASKS)}
    result = table(
        path,
        TASKS,
        chosen.work / "runs",
        model="mmoe",
        options=options,
        sides=sides,
        seeds=chosen.seeds,
        grid=tuple(chosen.lr),
        jobs=chosen.jobs,
    )
    print(markdown(result, TASKS, reference))
    print(json.dumps({"reference": reference, "result": result}))


if __name__ == "__main__":
    main()
