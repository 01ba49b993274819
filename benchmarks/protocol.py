"""The protocol of the real-data tables: the same learning rates for every side, chosen on validation, then seeds.

For each side: the rate of `GRID` (or those given) with the best validation mean over tasks of AUC at
a tuning seed that is not used again; then the final seeds at that rate. A single-task model chooses for each task.
Every run is one JSON file in the work folder, so a stopped benchmark goes on where it was.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

TUNING_SEED = 1000
GRID = (3e-4, 1e-3, 3e-3, 1e-2)


def one_run(job: dict[str, Any]) -> dict[str, Any]:
    """Train once and return {"valid", "test", "seconds", "epochs"}; read from the work folder when it is there."""
    file = Path(job["work"]) / f"{job['name']}.json"
    if file.is_file():
        return json.loads(file.read_text())
    import torch

    from equipoise.config import TrainConfig
    from equipoise.data import Log
    from equipoise.progress import Progress
    from equipoise.training import fit

    torch.set_num_threads(1)
    log = Log.open(job["log"])
    if job["given"]:
        manifest = json.loads(json.dumps(log.manifest))
        for label in manifest["schema"]["labels"]:
            label["given"] = job["given"].get(label["name"])
        log = Log(log.path, manifest)
    if job["tasks"]:
        log = log.only(job["tasks"])
    config = TrainConfig.read(job["config"])
    begun = time.monotonic()
    with Progress(quiet=True) as progress:
        result = fit(config, log, None, progress)
    found = {**result.metrics, "wall": time.monotonic() - begun}
    file.write_text(json.dumps(found))
    print(
        f"{job['name']}: "
        + " ".join(f"{t} {v.get('auc', v.get('xauc')):.4f}" for t, v in found["valid"].items()),
        flush=True,
    )
    return found


def table(
    log_path: Path,
    tasks: list[str],
    work: Path,
    *,
    model: str,
    options: dict[str, Any],
    sides: dict[str, str],
    seeds: int,
    grid: tuple[float, ...] = GRID,
    jobs: int | None = None,
    given: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Return {side: {"lr", "runs": [test metrics of each seed], "seconds"}}; "single" has one entry a task.

    Args:
        given: {task: the task before it}, a funnel declared over the log's own.
    """
    work.mkdir(parents=True, exist_ok=True)

    def job(side: str, method: str, lr: float, seed: int, own: list[str]) -> dict[str, Any]:
        name = f"{side}-{'+'.join(own) or 'all'}-{lr:g}-{seed}"
        config = {**options, "model": model, "method": method, "lr": lr, "seed": seed}
        return {
            "work": str(work),
            "log": str(log_path),
            "name": name,
            "tasks": own,
            "config": config,
            "given": given or {},
        }

    cells = [(side, method, []) for side, method in sides.items() if method != "single"]
    if "single" in sides.values():
        cells += [(side, "equal", [t]) for side, m in sides.items() if m == "single" for t in tasks]
    result: dict[str, Any] = {}
    with ProcessPoolExecutor(jobs or os.cpu_count(), mp_context=get_context("spawn")) as pool:
        tuning = {
            (side, *own): {lr: pool.submit(one_run, job(side, method, lr, TUNING_SEED, own)) for lr in grid}
            for side, method, own in cells
        }
        final = {}
        for side, method, own in cells:
            values = {}
            for lr, future in tuning[side, *own].items():
                valid = future.result()["valid"]
                values[lr] = statistics.mean(found["auc"] for found in valid.values() if "auc" in found)
            best = max(values, key=lambda lr: values[lr])
            final[side, *own] = (
                best,
                [pool.submit(one_run, job(side, method, best, s, own)) for s in range(seeds)],
            )
        for (side, *own), (lr, futures) in final.items():
            runs = [future.result() for future in futures]
            entry = result.setdefault(side, {"lr": {}, "runs": [{} for _ in runs], "seconds": 0.0})
            entry["lr"]["+".join(own) or "all"] = lr
            entry["seconds"] += statistics.mean(run["seconds"] for run in runs)
            for into, run in zip(entry["runs"], runs, strict=True):
                into.update(run["test"])
    return result


def markdown(result: dict[str, Any], tasks: list[str], reference: dict[str, dict[str, float]]) -> str:
    """Return a Markdown table: mean and sd over seeds of test AUC, GAUC where there is one, rates, seconds a run."""
    lines = [
        "| side | lr | " + " | ".join(f"{t} AUC" for t in tasks) + " | s a run |",
        "| --- | --- | " + " | ".join("---" for _ in tasks) + " | --- |",
    ]
    for name, values in reference.items():
        lines.append(f"| {name} | - | " + " | ".join(f"{values[t]:.4f}" for t in tasks) + " | - |")
    for side, entry in result.items():
        cells = []
        for task in tasks:
            aucs = [run[task]["auc"] for run in entry["runs"]]
            sd = statistics.stdev(aucs) if len(aucs) > 1 else float("nan")
            cells.append(f"{statistics.mean(aucs):.4f} ({sd:.4f})")
        rates = ", ".join(f"{lr:g}" for lr in entry["lr"].values())
        lines.append(f"| {side} | {rates} | " + " | ".join(cells) + f" | {entry['seconds']:.0f} |")
    return "\n".join(lines)


def logistic(log_path: Path, tasks: list[str]) -> dict[str, float]:
    """Return test AUC of scikit-learn's logistic regression on the same columns, ids one-hot, for each task.

    The regularisation of 0.01, 0.03, 0.1, 0.3 that is best on validation is taken.
    """
    import numpy as np
    from scipy import sparse
    from sklearn.linear_model import LogisticRegression

    from equipoise.data import Log
    from equipoise.metrics import auc

    log = Log.open(log_path)

    def matrix(name: str) -> Any:
        arrays = log.split(name).arrays
        n = len(arrays["row"])
        parts = [sparse.csr_matrix(np.asarray(arrays["numerical"], np.float64))]
        for at, f in enumerate(log.schema.categorical):
            ids = np.asarray(arrays["ids"][:, at])
            parts.append(
                sparse.csr_matrix((np.ones(n), (np.arange(n), ids)), (n, log.schema.num_ids[f.name]))
            )
        for m in log.schema.multi:
            values, offsets = np.asarray(arrays[f"{m.name}.values"]), np.asarray(arrays[f"{m.name}.offsets"])
            parts.append(
                sparse.csr_matrix((np.ones(len(values)), values, offsets), (n, log.schema.num_ids[m.name]))
            )
        return sparse.hstack(parts).tocsr()

    x = {name: matrix(name) for name in ("train", "valid", "test")}
    found = {}
    for task in tasks:
        y = {name: log.split(name).labels(task)[0] for name in x}
        best = (-1.0, 0.0)
        for c in (0.01, 0.03, 0.1, 0.3):
            fitted = LogisticRegression(C=c, solver="liblinear").fit(x["train"], y["train"])
            scores = {name: fitted.decision_function(x[name]) for name in ("valid", "test")}
            best = max(best, (auc(y["valid"], scores["valid"]), auc(y["test"], scores["test"])))
        found[task] = best[1]
    return found
