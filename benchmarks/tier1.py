"""The first tier of backbones on KuaiRand and Census-Income: plain Adam and PUB at each one's best of three rates.

python benchmarks/tier1.py --data FOLDER [--seeds 3] [--work runs/tier1] [--only kuairand|census] [--models ple home]

FOLDER holds kuairand_pure and census_income. See protocol.py; beside the networks scikit-learn's histogram gradient
boosting, fitted on the same rows. ESMM and AITM need a funnel: on KuaiRand long_view is declared as given is_click (99.7 %
of long views are clicks), Census-Income has none. Every backbone has embeddings of 8 and layers of about the same width.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from protocol import markdown, table

from equipoise.data import Log, census, kuairand
from equipoise.metrics import auc

TASKS = {"kuairand": ["is_click", "long_view", "is_like"], "census": ["income", "never_married"]}
OPTIONS: dict[str, dict[str, Any]] = {"kuairand": {"batch_size": 512}, "census": {}}
GIVEN = {"kuairand": {"long_view": "is_click"}, "census": {}}
EXPERTS = {"model.num_experts": 4, "model.expert": [64, 32], "model.tower_sizes": [16]}
MODELS: dict[str, dict[str, Any]] = {
    "single_task": {"model.hidden": [64, 32]},
    "shared_bottom": {"model.hidden": [64, 32], "model.tower_sizes": [16]},
    "mmoe": EXPERTS,
    "ple": {"model.num_shared": 2, "model.num_own": 2, "model.expert": [64, 32], "model.tower_sizes": [16]},
    "esmm": {"model.hidden": [64, 32]},
    "aitm": {"model.hidden": [64, 32], "model.tower_sizes": [16]},
    "home": {"model.expert": [64, 32], "model.tower_sizes": [16]},
}


def boosting(path: Path, tasks: list[str]) -> dict[str, float]:
    """Return test AUC of scikit-learn's histogram gradient boosting on the prepared columns, ids as ordered numbers.

    400 rounds at most, stopped on a tenth of the training rows; multi-valued columns are left out.
    """
    import numpy as np
    from sklearn.ensemble import HistGradientBoostingClassifier

    log = Log.open(path)
    x, y = {}, {}
    for name in ("train", "test"):
        arrays = log.split(name).arrays
        x[name] = np.hstack([np.asarray(arrays["ids"], np.float32), np.asarray(arrays["numerical"])])
        y[name] = {task: log.split(name).labels(task)[0] for task in tasks}
    found = {}
    for task in tasks:
        fitted = HistGradientBoostingClassifier(
            max_iter=400, learning_rate=0.05, early_stopping=True, random_state=0
        )
        fitted.fit(x["train"], y["train"][task])
        found[task] = auc(y["test"][task], fitted.predict_proba(x["test"])[:, 1])
    return found


def prepared(name: str, data: Path, work: Path) -> Path:
    """Return the folder of a prepared log, made when it is not there."""
    path = work / f"{name}-log"
    if not path.is_dir() and name == "kuairand":
        kuairand.prepare(
            data / "kuairand_pure", path, tasks=TASKS[name], valid_date=20220505, test_date=20220506
        )
    elif not path.is_dir():
        census.prepare(data / "census_income", path, seed=0)
    return path


def main() -> None:
    """Run every cell that is not there yet, print one table a log and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/tier1"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--lr", type=float, nargs="+", default=[1e-3, 3e-3, 1e-2])
    parser.add_argument("--only", choices=list(TASKS))
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--jobs", type=int)
    chosen = parser.parse_args()
    chosen.work.mkdir(parents=True, exist_ok=True)
    everything = {}
    for name in [chosen.only] if chosen.only else list(TASKS):
        path = prepared(name, chosen.data, chosen.work)
        reference = {"histogram gradient boosting": boosting(path, TASKS[name])}
        result: dict[str, Any] = {}
        for model in chosen.models:
            if model in ("esmm", "aitm") and not GIVEN[name]:
                continue
            alone = model == "single_task"
            found = table(
                path,
                TASKS[name],
                chosen.work / f"{name}-{model}",
                model=model,
                options={
                    "patience": 2,
                    "epochs": 10,
                    **OPTIONS[name],
                    "set": {"model.embedding_dim": 8, **MODELS[model]},
                },
                sides={"alone": "single"} if alone else {"plain Adam": "equal", "PUB": "pub"},
                seeds=chosen.seeds,
                grid=tuple(chosen.lr),
                jobs=chosen.jobs,
                given=GIVEN[name],
            )
            result |= {f"{model}, {side}": entry for side, entry in found.items()}
        print(name)
        print(markdown(result, TASKS[name], reference))
        everything[name] = {"reference": reference, "result": result}
    print(json.dumps(everything))


if __name__ == "__main__":
    main()
