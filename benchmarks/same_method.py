"""A/A: `equal` against a second copy of itself with its own tuning and seeds, through the whole of `equipoise compare`.

python benchmarks/same_method.py [--repetitions 100] [--work runs/same_method]

Each repetition has a simulated log of its own (another world), 5 seeds and the whole protocol on a tiny model. Nothing differs, so a
"win" or "loss" of the primary contrast is false; .05 of 100 makes 5 expected, and more than 11 has a chance of .004.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from rich.progress import track

from equipoise.data import simulate
from equipoise.study import compare
from equipoise.study.findings import findings

LIMIT = 11


def one(seed: int, work: Path) -> dict[str, float | str]:
    """Return the primary contrast of one repetition, read when it is there."""
    file = work / f"{seed}.json"
    if file.is_file():
        return json.loads(file.read_text())
    folder = work / f"{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    log = simulate(folder / "log", 4000, seed, "mixed")
    plan = compare.make_plan(
        log,
        models_=["shared_bottom"],
        methods=["equal"],
        primary="equal#2",
        seeds=5,
        base={"epochs": 4, "batch_size": 240},
        set_={"hidden": [16, 8], "tower_sizes": [], "embedding_dim": 4},
    )
    compare.claim(plan, folder / "out")
    found = findings(compare.carry_out(plan, folder / "out", workers=0, quiet=True))
    primary = {**found["primary"], "rates": [unit["lr"] for unit in found["tuning"]]}
    file.write_text(json.dumps(primary))
    shutil.rmtree(folder)
    return primary


def main() -> None:
    """Run every repetition that is not there yet and count the false declarations."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=100)
    parser.add_argument("--work", type=Path, default=Path("runs/same_method"))
    chosen = parser.parse_args()
    chosen.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    found = [one(seed, chosen.work) for seed in track(range(chosen.repetitions), "repetitions")]
    counts = {d: sum(f["decision"] == d for f in found) for d in ("win", "loss", "tie", "undecided")}
    inside = sum(f["low"] <= 0 <= f["high"] for f in found)
    false = counts["win"] + counts["loss"]
    print(f"{len(found)} comparisons of equal with itself: {counts}; interval holds 0 in {inside}")
    allowed = LIMIT * len(found) / 100
    print(f"false declarations: {false}, at most {allowed:g}: {'met' if false <= allowed else 'MISSED'}")
    print(json.dumps({"counts": counts, "interval_holds_zero": inside, "repetitions": found}))


if __name__ == "__main__":
    main()
