"""One PUB step with row-sparse tables of 10^5 and of 10^7 rows on the same batches: time and memory.

python benchmarks/table_size.py [--rows 100000 10000000] [--batches 12] [--passes 3]

Two tasks, dimension 16, 8 ids a row, batch 2048, SparseAdam for the table, Adam for the rest. The batches' ids are spread over the whole
table, alike for each size. The first pass over the batches, whose pages are new, is warm-up; the second is timed, sides in turn.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import equipoise as eq
from equipoise.models.table import touched_rows

BATCH, IDS, DIM, DISTINCT = 2048, 8, 16, 100_000


class Model(nn.Module):
    """A table, a trunk and two towers."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Parameter(torch.zeros(rows, DIM))
        self.trunk = nn.Sequential(nn.Linear(IDS * DIM, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU())
        self.towers = nn.ModuleList(nn.Linear(64, 1) for _ in range(2))
        with torch.no_grad():
            self.table[:: rows // DISTINCT] = torch.randn(DISTINCT, DIM) * 0.1

    def losses(self, ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return {task: loss}."""
        rows, into = touched_rows(self.table, ids)
        h = self.trunk(F.embedding(into, rows).flatten(1))
        return {
            str(t): F.binary_cross_entropy_with_logits(tower(h).squeeze(-1), labels[t])
            for t, tower in enumerate(self.towers)
        }


def main() -> None:
    """Print a table and one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs=2, default=[100_000, 10_000_000])
    parser.add_argument("--batches", type=int, default=12)
    parser.add_argument("--passes", type=int, default=3)
    chosen = parser.parse_args()
    generator = torch.Generator().manual_seed(1)
    batches = [
        (
            torch.randint(DISTINCT, (BATCH, IDS), generator=generator),
            (torch.rand(2, BATCH, generator=generator) < 0.2).float(),
        )
        for _ in range(chosen.batches)
    ]
    sides = {}
    for rows in chosen.rows:
        model = Model(rows)
        rest = [p for p in model.parameters() if p is not model.table]
        optimizers = [torch.optim.SparseAdam([model.table], lr=1e-3), torch.optim.Adam(rest, lr=1e-3)]
        shared = [model.table, *model.trunk.parameters()]
        sides[rows] = (model, eq.Balancer(optimizers, "pub", shared=shared), rows // DISTINCT)
    times: dict[int, list[float]] = {rows: [] for rows in sides}
    weights: dict[int, list[float]] = {rows: [] for rows in sides}
    for passed in range(chosen.passes + 1):
        for k, (ids, labels) in enumerate(batches):
            for rows in list(sides)[:: 1 if k % 2 else -1]:
                model, balancer, spread = sides[rows]
                begun = time.perf_counter()
                balancer.backward(model.losses(ids * spread, labels))
                balancer.step()
                if passed:
                    times[rows].append(time.perf_counter() - begun)
                weights[rows].append(balancer.last.weights["0"])  # type: ignore[union-attr]
    small, large = chosen.rows
    ratios = [b / a for a, b in zip(times[small], times[large], strict=True)]
    quarters = statistics.quantiles(ratios, n=4)
    apart = max(abs(a - b) for a, b in zip(weights[small], weights[large], strict=True))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    result = {
        "rows": chosen.rows,
        "ms": {rows: 1e3 * statistics.median(t) for rows, t in times.items()},
        "ratio": statistics.median(ratios),
        "quartiles": [quarters[0], quarters[2]],
        "peak_gib_of_both": peak,
        "largest_difference_of_weights": apart,
    }
    print(
        f"| {small:,} rows | {large:,} rows | ratio (quartiles) | peak of both |\n| --- | --- | --- | --- |\n"
        f"| {result['ms'][small]:.1f} ms | {result['ms'][large]:.1f} ms | {result['ratio']:.2f} ({quarters[0]:.2f} to {quarters[2]:.2f}) | "
        f"{peak:.1f} GiB |"
    )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
