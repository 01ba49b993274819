"""Preparing a column of very many different int64 ids: peak memory and CPU time.

    python benchmarks/many_ids.py --ids 40000000 [--min-count 1]

writes a Parquet file with each id once, and every second one again, in random numbers over all of int64, then prepares it in a process of its own.
Peak memory as benchmarks/prepare_table.py has it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
from prepare_table import measure

from equipoise.data import Categorical, Label, Schema, prepare_table

CHUNK = 2**18
ODD = 0x9E3779B97F4A7C15
"""Multiplying by an odd number maps different numbers below 2^64 to different ones."""


def write_ids(file: Path, ids: int) -> int:
    """Write the table; return its rows."""
    rows = ids + ids // 2
    with file.open("wb") as out:
        writer = None
        for start in range(0, rows, CHUNK):
            number = np.arange(start, min(rows, start + CHUNK), dtype=np.uint64)
            number = np.where(number < ids, number, (number - np.uint64(ids)) * np.uint64(2))
            values = (number * np.uint64(ODD)).view(np.int64)
            click = (values % 3 == 0).astype(np.int8)
            table = pl.DataFrame({"id": values, "click": click}).to_arrow()
            writer = writer or pq.ParquetWriter(out, table.schema, use_dictionary=False)
            writer.write_table(table)
        if writer is not None:
            writer.close()
    return rows


def main() -> None:
    """Print one line and one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ids", type=int, default=40_000_000)
    parser.add_argument("--min-count", type=int, default=2)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.file is not None:
        schema = Schema(
            features=(Categorical(name="id", min_count=given.min_count),), labels=(Label(name="click"),)
        )
        out = given.file.with_name("log")
        found = measure(lambda: prepare_table(given.file, out, schema=schema))
        sizes = json.loads((out / "manifest.json").read_text(encoding="utf-8"))["lineage"][-1]["num_ids"]
        print(json.dumps({**found, "in_vocabulary": sizes["id"] - 1}))
        return
    with tempfile.TemporaryDirectory() as room:
        file = Path(room) / "ids.parquet"
        rows = write_ids(file, given.ids)
        command = [sys.executable, __file__, "--file", str(file), "--min-count", str(given.min_count)]
        run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(run.stdout.splitlines()[-1])
    print(
        f"{given.ids:,} ids in {rows:,} rows: {found['wall']:.0f} s, {found['cpu']:.0f} s of CPU, peak resident {found['resident']:.0f} MiB, "
        f"own {found['own']:.0f} MiB, {found['in_vocabulary']:,} in the vocabulary"
    )
    print(json.dumps({"ids": given.ids, "rows": rows, "min_count": given.min_count, **found}))


if __name__ == "__main__":
    main()
