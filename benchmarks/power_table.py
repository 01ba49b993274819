"""The power of a comparison, by the library's integral and by simulation through the real estimates.

python benchmarks/power_table.py [--draws 3000] [--seed 0]

Power: a true difference is found significant at .05, with the right sign. With Holm: one true difference among ten contrasts,
the other nine are null; the integral is at alpha / 10, a lower bound. The last table is the same integral at no effect: the
test's true error. sd: of the paired difference over seeds; test SE: square root of V_test.
"""

from __future__ import annotations

import argparse
import json
from itertools import product

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from equipoise.study.decide import holm
from equipoise.study.estimate import Estimate, estimate
from equipoise.study.power import detectable, power

ALPHA, CONTRASTS = 0.05, 10
EFFECT = (0.001, 0.002, 0.005)
SEED_SD = (0.0005, 0.001, 0.002, 0.003)
NUM_SEEDS = (5, 10, 20)
TEST_SE = (0.0, 0.001, 0.005)
LEVELS = (1, 10, 50)
"""Contrasts that share alpha: the tests' levels are .05, .005 and .001."""


def draw(rng: np.random.Generator, effect: float, sd: float, seeds: int, se: float) -> Estimate:
    """Return the estimate of one simulated comparison."""
    return estimate(effect + se * rng.normal() + sd * rng.normal(size=seeds), se**2)


def main() -> None:
    """Print the table, the largest disagreement and one JSON object last."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draws", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    rng = np.random.default_rng(chosen.seed)
    found, worst = {}, 0.0
    cells = list(product(TEST_SE, SEED_SD, NUM_SEEDS))
    for se, sd, seeds in track(cells, "cells", console=Console(stderr=True)):
        # the nine null contrasts know nothing of the effect: one set of them serves all effects
        null = [
            [draw(rng, 0.0, sd, seeds, se).p_value for _ in range(CONTRASTS - 1)] for _ in range(chosen.draws)
        ]
        for effect in EFFECT:
            drawn = [draw(rng, effect, sd, seeds, se) for _ in range(chosen.draws)]
            alone = np.mean([each.p_value < ALPHA and each.mean > 0 for each in drawn])
            among = np.mean(
                [
                    holm([each.p_value, *others])[0] < ALPHA and each.mean > 0
                    for each, others in zip(drawn, null, strict=True)
                ]
            )
            cell = {
                "power": power(effect, sd, seeds, se),
                "simulated": float(alone),
                "power_holm": power(effect, sd, seeds, se, num_comparisons=CONTRASTS),
                "simulated_holm": float(among),
            }
            for name in ("power", "power_holm"):
                worst = max(worst, abs(cell[name] - cell[name.replace("power", "simulated")]))
            found[f"{effect:g}|{sd:g}|{seeds}|{se:g}"] = cell
    for se in TEST_SE:
        shown = Table(title=f"test SE {se:g}: power alone / with Holm over {CONTRASTS}")
        shown.add_column("seed sd")
        shown.add_column("seeds")
        for effect in EFFECT:
            shown.add_column(f"effect {effect:g}", justify="right")
        shown.add_column("detectable at .8", justify="right")
        for sd, seeds in product(SEED_SD, NUM_SEEDS):
            row = [found[f"{effect:g}|{sd:g}|{seeds}|{se:g}"] for effect in EFFECT]
            least = [detectable(sd, seeds, se, num_comparisons=m) for m in (1, CONTRASTS)]
            shown.add_row(
                f"{sd:g}",
                str(seeds),
                *(f"{cell['power']:.2f} / {cell['power_holm']:.2f}" for cell in row),
                f"{least[0]:.4f} / {least[1]:.4f}",
            )
        Console(width=110).print(shown)
    exact = {}
    shown = Table(title="error of the estimate's test over alpha, least and most over test SE (exact)")
    for name in ("seeds", *(f"alpha {ALPHA / m:g}" for m in LEVELS)):
        shown.add_column(name, justify="right")
    for seeds in (2, 3, *NUM_SEEDS):
        ratios = [
            # twice the chance of the right sign at no effect; V_test is 1e-3 to 1e3 times the seeds' part
            [
                2 * power(0.0, seeds**0.5, seeds, se, num_comparisons=m) * m / ALPHA
                for se in np.logspace(-1.5, 1.5, 61)
            ]
            for m in LEVELS
        ]
        exact[seeds] = [(min(each), max(each)) for each in ratios]
        shown.add_row(str(seeds), *(f"{low:.3f} to {high:.3f}" for low, high in exact[seeds]))
    Console(width=110).print(shown)
    print(f"largest difference between integral and simulation: {worst:.3f} over {2 * len(found)} cells")
    print(json.dumps({"draws": chosen.draws, "worst": worst, "cells": found, "exact": exact}))


if __name__ == "__main__":
    main()
