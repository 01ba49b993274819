"""Preparing a user's table of any size: time, CPU over polars' own, peak memory; and reading it for training.

    python benchmarks/prepare_table.py --rows 2000000 [--csv]

writes a simulated table of 80 columns (16 ids, 63 numbers, a label) part by part into a temporary folder, then measures, each in a process
of its own, `prepare_table` with a declared schema, polars' scan -> sink_parquet of the same file with the same types, and batches of an epoch
(at most `--steps`) from the log. Peak memory: `resident` counts pages of mapped files too, which the system takes back, `own` does not.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import polars as pl

from equipoise.data import Label, Log, Schema, SplitRule, prepare_table

simulator = sys.modules["equipoise.data.simulate"]


def described() -> Schema:
    """Return the schema: what the simulator declares, with one label."""
    features = simulator.schema().features
    return Schema(features=features, labels=(Label(name="click"),), split=SplitRule(by="random"))


def plain(raw: Path, out: Path) -> None:
    """What polars alone needs: the same file with the same types, as Parquet."""
    if raw.suffix == ".parquet":
        pl.scan_parquet(raw).sink_parquet(out)
        return
    types = {f.name: pl.Float64 if f.kind == "numerical" else pl.Int64 for f in described().features}
    pl.scan_csv(raw, schema=types | {"click": pl.Float64}).sink_parquet(out)


def read(log: Path, steps: int) -> None:
    """Read shuffled batches of the training split, as an epoch does."""
    for at, batch in enumerate(Log.open(log).split("train").batches(8192, shuffle=True)):
        float(batch.numerical.sum() + batch.ids.sum() + batch.labels.sum())
        if at >= steps:
            return


def measure(what: str, raw: Path, out: Path, steps: int) -> dict[str, float]:
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
    wall, cpu = time.perf_counter(), time.process_time()
    if what == "prepare":
        prepare_table(raw, out, schema=described())
    elif what == "plain":
        plain(raw, out)
    else:
        read(out, steps)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    done.set()
    watcher.join()
    return {"wall": wall, "cpu": cpu, "resident": peak["VmRSS"], "own": peak["RssAnon"]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--csv", action="store_true", help="a CSV instead of Parquet")
    parser.add_argument("--steps", type=int, default=500, help="batches of 8192 read from the log")
    parser.add_argument("--folder", type=Path, help="where the files go, default a temporary folder")
    parser.add_argument("--only", choices=("prepare", "plain", "read"), help=argparse.SUPPRESS)
    parser.add_argument("--raw", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only:
        print(json.dumps(measure(given.only, given.raw, given.out, given.steps)))
        return
    with tempfile.TemporaryDirectory(dir=given.folder) as room:
        raw = Path(room) / f"raw.{'csv' if given.csv else 'parquet'}"
        need, free = given.rows * (1600 if given.csv else 1300), shutil.disk_usage(room).free
        if free < need:
            raise OSError(
                f"--folder must have {need / 2**30:.0f} GiB free, it has {free / 2**30:.0f}; choose another"
            )
        simulator.write_table(raw, given.rows)
        size, found = raw.stat().st_size, {}
        for what, out in (("plain", "plain.parquet"), ("prepare", "log"), ("read", "log")):
            command = [sys.executable, __file__, "--only", what, "--raw", raw, "--out", Path(room) / out]
            command += ["--steps", str(given.steps)]
            ran = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)
            if ran.returncode:
                raise RuntimeError(ran.stderr)
            found[what] = json.loads(ran.stdout)
            if what == "plain":
                (Path(room) / out).unlink()
    print(f"{given.rows:,} rows, {size / 1e9:.2f} GB of {raw.suffix[1:]}")
    print("| | wall s | CPU s | peak resident MiB | peak own MiB |\n|---|---|---|---|---|")
    names = {"plain": "polars scan to Parquet", "prepare": "prepare_table", "read": "reading batches"}
    for what, name in names.items():
        side = found[what]
        print(
            f"| {name} | {side['wall']:.1f} | {side['cpu']:.1f} | {side['resident']:.0f} | {side['own']:.0f} |"
        )
    print(f"CPU {found['prepare']['cpu'] / found['plain']['cpu']:.2f} times polars'")


if __name__ == "__main__":
    main()
