"""Preparing a log in AliExpress's raw format: rows and megabytes a second, CPU time over polars' own, peak memory.

    python benchmarks/prepare.py --rows 1000000

writes raw files of made-up values into a temporary folder (1 KB a row), then measures, each in a process of its own,
`equipoise.data.prepare` and polars reading the same item and user files with the same declared types into Parquet.
Peak memory: `resident` counts pages of mapped files too, which the system takes back when it needs them, `own` does not.
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
from prepare_table import measure

from equipoise.data import aliexpress, prepare


def write_raw(folder: Path, rows: int, seed: int = 0, chunk: int = 200_000) -> None:
    """Write a country of `rows` products of training and a quarter as many of test, 12 a page."""
    draw = np.random.default_rng(seed)
    for split, total in (("train", rows), ("test", rows // 4)):
        names = {kind: folder / f"nl_{kind}_{split}.csv" for kind in ("user", "item")}
        with names["user"].open("wb") as users, names["item"].open("wb") as items:
            for start in range(0, total, chunk):
                n = min(chunk, total - start)
                pages = np.array([f"{split}{k}" for k in range(start // 12, (start + n - 1) // 12 + 1)])
                if start % 12:
                    pages = pages[1:]  # the page that the last chunk began
                fill(draw, aliexpress.USER, pages, ids=aliexpress.USER_IDS).write_csv(
                    users, include_header=False
                )
                rank = np.array([f"{split}{k}" for k in np.arange(start, start + n) // 12])
                frame = fill(draw, aliexpress.ITEM, rank, ids=aliexpress.ITEM_IDS)
                label = draw.choice(3, n, p=(0.975, 0.022, 0.003))
                frame.with_columns(pl.Series("item_49", label)).write_csv(items, include_header=False)


def fill(draw: np.random.Generator, names: list[str], first: np.ndarray, ids: list[str]) -> pl.DataFrame:
    """Return a table whose first column is given, ids long-tailed up to 100,000, numbers with six digits."""
    n = len(first)
    columns: dict[str, np.ndarray] = {names[0]: first}
    for at, name in enumerate(names[1:]):
        if name in ids:
            columns[name] = np.minimum(draw.zipf(1.3, n), 10 ** (1 + at % 5))
        else:
            columns[name] = np.round(draw.standard_normal(n), 6)
    return pl.DataFrame(columns)


def plain(folder: Path, out: Path) -> None:
    """Read the same files with the same types, and write them as Parquet: what polars alone needs."""
    out.mkdir()
    for split in ("train", "test"):
        for kind, names, numbers in (
            ("user", aliexpress.USER, aliexpress.USER_NUMBERS),
            ("item", aliexpress.ITEM, [*aliexpress.ITEM_NUMBERS, "item_49"]),
        ):
            types = {name: pl.Float32 if name in numbers else pl.String for name in names}
            raw = pl.scan_csv(folder / f"nl_{kind}_{split}.csv", has_header=False, schema=types)
            raw.sink_parquet(out / f"{kind}_{split}.parquet")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--only", choices=("prepare", "plain"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help="raw files, written there unless they are there")
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only:
        sides = {"prepare": lambda: prepare("aliexpress", given.folder, given.out)}
        sides["plain"] = lambda: plain(given.folder, given.out)
        print(json.dumps(measure(sides[given.only])))
        return
    with tempfile.TemporaryDirectory() as room:
        folder = given.folder or Path(room) / "raw"
        if not (folder / "nl_item_train.csv").exists():
            folder.mkdir(parents=True, exist_ok=True)
            write_raw(folder, given.rows)
        size = sum(f.stat().st_size for f in folder.glob("nl_*.csv"))
        rows = given.rows + given.rows // 4
        found = {}
        for what in ("plain", "prepare"):
            command = [
                sys.executable,
                __file__,
                "--only",
                what,
                "--folder",
                folder,
                "--out",
                Path(room) / what,
            ]
            out = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=True)
            found[what] = json.loads(out.stdout)
    ours, theirs = found["prepare"], found["plain"]
    print(f"{rows:,} rows, {size / 1e9:.2f} GB of text")
    print("| | wall s | CPU s | peak resident MiB | peak own MiB |\n|---|---|---|---|---|")
    for name, side in (("polars to Parquet", theirs), ("equipoise prepare", ours)):
        print(
            f"| {name} | {side['wall']:.1f} | {side['cpu']:.1f} | {side['resident']:.0f} | {side['own']:.0f} |"
        )
    print(
        f"{rows / ours['wall']:,.0f} rows/s, {size / 1e6 / ours['wall']:.0f} MB/s; CPU {ours['cpu'] / theirs['cpu']:.2f} times polars'"
    )


if __name__ == "__main__":
    main()
