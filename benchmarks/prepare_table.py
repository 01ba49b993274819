"""Preparing a user's own table as a stream: CPU time over polars' own scan-to-Parquet, and peak memory, at any number of rows.

    python benchmarks/prepare_table.py --rows 2000000 [--csv] [--file TABLE]

draws a table of 80 columns (16 ids, 63 numbers, a label) from the simulator, a chunk at a time, into a temporary folder (or takes `--file`, which
is made where it is not there), then measures each side in a process of its own. Peak memory as benchmarks/prepare.py has it; after it, the memory of
reading `--steps` training batches from the log, and of training on as many rows (SharedBottom, one epoch) and scoring validation and test.
"system" is the kernel's part of the CPU time, page faults above all.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

from equipoise.data import Log, prepare
from equipoise.training import train

CHUNK = 250_000
BATCH = 4096


def write_table(file: Path, rows: int) -> None:
    """Write the table, Parquet or CSV by its name."""
    simulator = importlib.import_module("equipoise.data.simulate")
    world = simulator.world(0, "mixed")
    parquet: pq.ParquetWriter | None = None
    with file.open("wb") as out:
        for at, start in enumerate(range(0, rows, CHUNK)):
            frame = simulator.rows(world, min(CHUNK, rows - start), at)
            frame = frame.select(
                pl.col("^c\\d+$"), pl.col("^n\\d+$").cast(pl.Float32), pl.col("click").cast(pl.Int8)
            )
            if file.suffix == ".csv":
                frame.write_csv(out, include_header=at == 0)
                continue
            table = frame.to_arrow()
            parquet = parquet or pq.ParquetWriter(out, table.schema, compression="zstd", compression_level=1)
            parquet.write_table(table)
        if parquet is not None:
            parquet.close()


def measure(work: Callable[[], object]) -> dict[str, float]:
    """Return wall and CPU seconds and peak memory (MiB) of one side, in this process."""
    peak = {"VmRSS": 0.0, "RssAnon": 0.0}
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
                name, _, value = line.partition(":")
                if name in peak:
                    peak[name] = max(peak[name], int(value.split()[0]) / 1024)

    watcher = threading.Thread(target=watch)
    watcher.start()
    wall, cpu, system = time.perf_counter(), time.process_time(), os.times().system
    work()
    wall, cpu, system = time.perf_counter() - wall, time.process_time() - cpu, os.times().system - system
    done.set()
    watcher.join()
    return {"wall": wall, "cpu": cpu, "system": system, "resident": peak["VmRSS"], "own": peak["RssAnon"]}


def plain(file: Path, out: Path) -> None:
    """Read the file with the same types and write it as Parquet: what polars alone needs."""
    if file.suffix == ".csv":
        names = file.open(encoding="utf-8").readline().strip().split(",")
        types = {name: pl.Float64 if name.startswith("n") else pl.Int64 for name in names}
        pl.scan_csv(file, schema=types).sink_parquet(out)
    else:
        pl.scan_parquet(file).sink_parquet(out)


def read(log: Path, steps: int) -> None:
    """Read the first batches of an epoch."""
    for _, _batch in zip(
        range(steps), Log.open(log).split("train").batches(BATCH, shuffle=True), strict=False
    ):
        pass


def learn(log: Path, steps: int) -> None:
    """Train on the first rows and score the whole of validation and test."""
    options = {"batch_size": BATCH, "epochs": 1, "max_rows": steps * BATCH}
    train(Log.open(log), "shared_bottom", "equal", out=log.with_name("run"), quiet=True, **options)


def main() -> None:
    """Print a table and one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--csv", action="store_true")
    parser.add_argument("--file", type=Path)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--only", choices=("polars", "prepare", "read", "train"), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only:
        sides: dict[str, Callable[[], object]] = {
            "polars": lambda: plain(given.file, given.out / "plain.parquet"),
            "prepare": lambda: prepare("table", given.file, given.out / "log", labels=["click"]),
            "read": lambda: read(given.out / "log", given.steps),
            "train": lambda: learn(given.out / "log", given.steps),
        }
        print(json.dumps(measure(sides[given.only])))
        return
    with tempfile.TemporaryDirectory(dir=None if given.file is None else given.file.parent) as room:
        file = given.file or Path(room) / ("table.csv" if given.csv else "table.parquet")
        if not file.exists():
            write_table(file, given.rows)
        found: dict[str, dict[str, float]] = {}
        print(f"{given.rows:,} rows, {file.stat().st_size / 1e9:.2f} GB")
        print("| side | wall s | CPU s | system s | peak resident MiB | peak own MiB |")
        print("| --- | --- | --- | --- | --- | --- |")
        for side in ("polars", "prepare", "read", "train"):
            command = [sys.executable, __file__, "--only", side, "--file", str(file), "--out", room]
            command += ["--steps", str(given.steps)]
            run = subprocess.run(command, capture_output=True, text=True, check=True)
            e = found[side] = json.loads(run.stdout.splitlines()[-1])
            print(
                f"| {side} | {e['wall']:.1f} | {e['cpu']:.1f} | {e['system']:.1f} | {e['resident']:.0f} | {e['own']:.0f} |",
                flush=True,
            )
    ratio = found["prepare"]["cpu"] / found["polars"]["cpu"]
    print(f"CPU time of prepare over polars': {ratio:.2f}")
    print(json.dumps({"rows": given.rows, "cpu_over_polars": ratio, **found}))


if __name__ == "__main__":
    main()
