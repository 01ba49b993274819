"""What blocks and a watch-time task add to SharedBottom on KuaiRand, plain Adam, each at its best of three rates.

python benchmarks/blocks.py --data FOLDER/kuairand_pure [--seeds 3] [--work runs/blocks] [--jobs 2]

See protocol.py. The log has --history 50; without a sequence block the history is averaged, and a row leaves it out.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from protocol import markdown, table

from equipoise.data import kuairand

TASKS = ["is_click", "long_view", "is_like"]
BASE = {"model.embedding_dim": 8, "model.hidden": [64, 32], "model.tower_sizes": [16]}
ROWS: dict[str, dict[str, Any]] = {
    "history averaged": {},
    "cross=2": {"model.cross": 2},
    "attention": {"model.attention": "video_id:history"},
    "transformer": {"model.transformer": "history"},
    "numerical=dense": {"model.numerical": "dense"},
    "wide": {"model.wide": True},
}
LOGS: dict[str, tuple[int, list[str]]] = {
    "no history": (0, TASKS),
    "watch time as a fourth task, no history": (0, [*TASKS, "watch_time"]),
}
"""{row: (history, tasks)} where it is not 50 and `TASKS`."""


def main() -> None:
    """Run every cell that is not there yet, print the table and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/blocks"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--lr", type=float, nargs="+", default=[1e-3, 3e-3, 1e-2])
    parser.add_argument("--rows", nargs="+", choices=[*LOGS, *ROWS], default=[*LOGS, *ROWS])
    parser.add_argument("--jobs", type=int)
    chosen = parser.parse_args()
    chosen.work.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {}
    for name in chosen.rows:
        length, tasks = LOGS.get(name, (50, TASKS))
        path = chosen.work / f"log-{length}-{len(tasks)}"
        if not path.is_dir():
            kuairand.prepare(
                chosen.data, path, tasks=tasks, valid_date=20220505, test_date=20220506, history=length
            )
        found = table(
            path,
            TASKS,
            chosen.work / name.replace(" ", "-"),
            model="shared_bottom",
            options={"patience": 2, "epochs": 10, "batch_size": 512, "set": {**BASE, **ROWS.get(name, {})}},
            sides={name: "equal"},
            seeds=chosen.seeds,
            grid=tuple(chosen.lr),
            jobs=chosen.jobs,
        )
        result |= found
    print(markdown(result, TASKS, {}))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
