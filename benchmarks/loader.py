"""Rows a second of the prepared log's batches against a per-row Dataset, on one thread.

python benchmarks/loader.py [--rows 1000000] [--batch-size 4096]

16 categorical columns, 63 numerical ones, shuffled. The per-row side is what the public libraries do: a Dataset that indexes arrays by row,
under torch's DataLoader without workers; it reads a fiftieth of the rows.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch.utils.data import DataLoader, Dataset

from equipoise.data import Categorical, Label, Numerical, Schema, write_log

CATEGORICAL, NUMERICAL = 16, 63


class Rows(Dataset):  # type: ignore[type-arg]
    """One row at a time."""

    def __init__(self, ids: np.ndarray, numerical: np.ndarray, labels: np.ndarray) -> None:
        self.ids, self.numerical, self.labels = ids, numerical, labels

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return torch.tensor(self.ids[row]), torch.tensor(self.numerical[row]), torch.tensor(self.labels[row])


def main() -> None:
    """Print a table and one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--batch-size", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=5)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    n = chosen.rows
    ids = rng.integers(2000, size=(n, CATEGORICAL))
    numerical = rng.normal(size=(n, NUMERICAL)).astype(np.float32)
    labels = (rng.random((n, 2)) < 0.1).astype(np.int8)
    columns = {f"c{k}": ids[:, k] for k in range(CATEGORICAL)} | {
        f"x{k}": numerical[:, k] for k in range(NUMERICAL)
    }
    frame = pl.DataFrame(columns | {"click": labels[:, 0], "buy": labels[:, 1]})
    schema = Schema(
        features=(
            *(Categorical(name=f"c{k}") for k in range(CATEGORICAL)),
            *(Numerical(name=f"x{k}") for k in range(NUMERICAL)),
        ),
        labels=(Label(name="click"), Label(name="buy")),
    )
    rates: dict[str, list[float]] = {"blocks": [], "rows": []}
    with tempfile.TemporaryDirectory() as folder:
        split = write_log(
            Path(folder) / "log", {"train": frame, "valid": frame[:1000], "test": frame[:1000]}, schema
        ).split("train")
        few = Rows(ids[: n // 50], numerical[: n // 50], labels[: n // 50].astype(np.float32))
        for repeat in range(chosen.repeats):
            begun = time.perf_counter()
            seen = sum(len(batch) for batch in split.batches(chosen.batch_size, shuffle=True, seed=repeat))
            rates["blocks"].append(seen / (time.perf_counter() - begun))
            begun = time.perf_counter()
            seen = sum(len(batch[0]) for batch in DataLoader(few, chosen.batch_size, shuffle=True))
            rates["rows"].append(seen / (time.perf_counter() - begun))
    ratios = [a / b for a, b in zip(rates["blocks"], rates["rows"], strict=True)]
    result = {
        "million_rows_a_second": statistics.median(rates["blocks"]) / 1e6,
        "per_row_million": statistics.median(rates["rows"]) / 1e6,
        "times_faster": statistics.median(ratios),
        "spread": [min(ratios), max(ratios)],
    }
    print("| prepared log, million rows/s | per-row Dataset | times faster |\n| --- | --- | --- |")
    print(
        f"| {result['million_rows_a_second']:.2f} | {result['per_row_million']:.3f} | {result['times_faster']:.0f} ({min(ratios):.0f} to {max(ratios):.0f}) |"
    )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
