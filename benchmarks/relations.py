"""What the simulated relations do to a narrow SharedBottom 16-8: single-task models against plain shared training, soft AUC.

python benchmarks/relations.py [--rows 100000] [--seeds 3] [--work runs/relations] [--jobs 2]

Tuned by the protocol of `equipoise compare` (its learning rates, no further settings). Wanted: on `independent` single task is ahead by more than
.01 on each task; on `aligned` shared training is ahead on the rare tasks, like and purchase.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

from equipoise.data import simulate
from equipoise.study import compare, compare_page
from equipoise.study.findings import findings


def main() -> None:
    """Run what is not there yet, print soft AUC by side and task, and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("runs/relations"))
    parser.add_argument("--jobs", type=int, default=1)
    chosen = parser.parse_args()
    result = {}
    for relation in ("independent", "aligned"):
        folder = chosen.work / relation
        log = folder / f"log-{chosen.rows}"
        if not log.is_dir():
            simulate(log, chosen.rows, 0, relation)
        plan = compare.make_plan(
            log,
            models_=["shared_bottom"],
            methods=["single", "equal"],
            primary="equal#2",
            seeds=chosen.seeds,
            num_candidates=0,
            base={"epochs": 10, "patience": 2},
            set_={"hidden": [16, 8], "tower_sizes": [], "embedding_dim": 8},
        )
        compare.claim(plan, folder / "out")
        found = findings(compare.carry_out(plan, folder / "out", workers=chosen.jobs))
        print(f"{relation}: {compare_page.write(found, folder / 'out')}")
        soft = {
            side["method"]: {t: statistics.fmean(m["soft_auc"]) for t, m in side["metrics"].items()}
            for side in found["sides"]
        }
        spread = {t: statistics.stdev(found["sides"][0]["metrics"][t]["soft_auc"]) for t in found["tasks"]}
        gaps = {t: soft["single"][t] - soft["equal"][t] for t in found["tasks"]}
        for task, gap in gaps.items():
            print(
                f"  {task}: single {soft['single'][task]:.4f} (sd {spread[task]:.4f}), shared {soft['equal'][task]:.4f}, {gap:+.4f}"
            )
        met = (
            all(g > 0.01 for g in gaps.values())
            if relation == "independent"
            else max(list(gaps.values())[1:]) < 0
        )
        print(f"  {'met' if met else 'MISSED'}")
        result[relation] = {"soft_auc": soft, "single minus shared": gaps, "met": met}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
