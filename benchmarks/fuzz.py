"""Damaged input against the readers of schemas, tables and prepared logs: each must do its work or say what is wrong.

python benchmarks/fuzz.py --what schema --minutes 10 [--seed 0]

`schema` mutates YAML and JSON (and prepares a table with what is still a schema), `csv` and `parquet` the bytes of a table, `log` a prepared log's manifest,
arrays and tables, with sizes and checksums made right again in half of the cases. Prints {what, runs, fine, error, crash} as JSON. A crash is anything
but a ValueError or OSError with a message: its seed, traceback and saved input are printed, and the exit status is 1. `--only SEED` runs one again.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import random
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml

from equipoise.data import Log, Schema, prepare_table

ODD: list[Any] = [None, True, 0, -1, 1, 2**31, 2**63, 10**30, 1.5, 1e308, float("nan"), "", " ", "a", "x", "tags", "time", "click", "../..", "\0"]  # fmt: skip
ODD += [
    "😀",
    [],
    {},
    [[]],
    {"a": 1},
    "none",
    "random",
    "multi",
    "numerical",
    "train",
    "7d",
    "2026-01-31",
    [1, 2],
    "watch",
    "ordinal",
]
BYTES = [
    b"",
    b"\0",
    b",",
    b"\n",
    b'"',
    b"\r\n",
    b"\xff",
    b"nan",
    b"1e999",
    b"-",
    b"9" * 25,
    b"\xef\xbb\xbf",
    b"{",
    b"[",
    b": ",
    b"\t",
    b"&a ",
    b"*a",
]
SCHEMA = {
    "features": [
        {"kind": "categorical", "name": "user", "min_count": 1},
        {"kind": "categorical", "name": "hashed", "column": "user", "buckets": 16, "seed": 3},
        {"kind": "categorical", "name": "cut", "column": "x", "quantiles": 5},
        {"kind": "numerical", "name": "x", "transform": "none"},
        {"kind": "numerical", "name": "raw", "column": "x", "scale": "none", "transform": "signed_log1p"},
        {"kind": "multi", "name": "tags", "separator": "|", "max_length": 2, "table": "tag", "min_count": 1},
        {"kind": "multi", "name": "weighted", "separator": "|", "weight_separator": ":"},
    ],
    "labels": [
        {"name": "click"},
        {"name": "buy", "given": "click", "missing": -1},
        {"name": "dwell", "kind": "regression", "transform": "log1p", "loss": "huber"},
        {"name": "stars", "kind": "ordinal"},
    ],
    "group": "user",
    "time": "time",
    "weight": "w",
    "split": {"by": "random", "valid": 0.2, "test": 0.2, "seed": 1},
}


def table(rows: int = 60) -> pl.DataFrame:
    """Return rows that fit `SCHEMA`."""
    g = np.random.default_rng(0)
    tags = [[f"t{t}" for t in g.integers(0, 5, g.integers(0, 4))] for _ in range(rows)]
    return pl.DataFrame(
        {
            "user": g.integers(0, 20, rows),
            "x": g.normal(size=rows).round(3),
            "tags": ["|".join(t) for t in tags],
            "weighted": ["|".join(f"{t}:0.5" for t in of) for of in tags],
            "time": 1_700_000_000 + np.arange(rows) * 3600,
            "w": g.integers(1, 4, rows).astype(float),
            "click": g.integers(0, 2, rows),
            "buy": g.integers(-1, 2, rows),
            "dwell": g.exponential(size=rows).round(2),
            "stars": g.integers(1, 6, rows),
        }
    )


def places(content: Any) -> list[tuple[Any, Any]]:
    """Return (container, key) of everything inside."""
    found: list[tuple[Any, Any]] = []
    items = (
        content.items()
        if isinstance(content, dict)
        else enumerate(content)
        if isinstance(content, list)
        else ()
    )
    for key, value in list(items):
        found.append((content, key))
        found += places(value)
    return found


def mutate(content: Any, r: random.Random, times: int) -> Any:
    """Return the JSON content with some values replaced, removed, doubled, renamed or swapped."""
    content = copy.deepcopy(content)
    for _ in range(times):
        spots = places(content)
        if not spots:
            return r.choice(ODD)
        (holder, key), (other, where) = r.choice(spots), r.choice(spots)
        way = r.randrange(6)
        if way == 0:
            del holder[key]
        elif way == 1:
            holder[key] = copy.deepcopy(other[where])
        elif way == 2 and isinstance(holder, dict):
            holder[str(r.choice(["x", where, key[:-1]]))] = holder.pop(key)
        elif way == 3 and isinstance(holder, list):
            holder.append(copy.deepcopy(holder[key]))
        elif way == 4 and isinstance(holder[key], (int, float)):
            holder[key] = r.choice([-holder[key], holder[key] + 1, holder[key] * 1000, 0, str(holder[key])])
        else:
            holder[key] = copy.deepcopy(r.choice(ODD))
    return content


def mutate_bytes(content: bytes, r: random.Random, times: int) -> bytes:
    """Return bytes with some flipped, cut, doubled, or odd ones put in."""
    for _ in range(times):
        at, end = sorted(r.randrange(len(content) + 1) for _ in range(2))
        way = r.randrange(5)
        if way == 0:
            content = content[:at]
        elif way == 1:
            end = min(end, at + 40)
            content = content[:at] + content[at:end] * 2 + content[end:]
        elif way == 2:
            content = content[:at] + r.choice(BYTES) + content[at:]
        elif way == 3:
            content = content[:at] + content[min(end, at + 8) :]
        else:
            content = content[:at] + bytes([r.randrange(256)]) + content[at + 1 :]
    return content


def read_log(log: Log) -> None:
    """Read all that a log offers."""
    log.summary()
    log.groups()
    for split in log.splits.values():
        seen = 0
        for batch in split.batches(7, shuffle=True):
            seen += len(batch)
            for at, f in enumerate(log.schema.categorical):
                if f.buckets is None:
                    log.values(f.name, batch.ids[:, at].numpy())
        if seen != len(split):
            raise RuntimeError(f"{seen} rows in batches, {len(split)} in the split")


def fuzz_schema(r: random.Random, place: Path, _: Path) -> None:
    """Load a damaged schema, and prepare a table with it if it is still one."""
    content = mutate(SCHEMA, r, r.randrange(1, 4))
    as_json = r.random() < 0.3
    text = json.dumps(content) if as_json else yaml.safe_dump(content, allow_unicode=True)
    raw = mutate_bytes(text.encode(), r, r.choice([0, 0, 1, 3]))
    file = place / f"schema.{'json' if as_json else 'yaml'}"
    file.write_bytes(raw)
    schema = Schema.load(file)
    schema.save(place / "again.yaml")
    if Schema.load(place / "again.yaml") != schema and "nan" not in schema.model_dump_json().lower():
        raise RuntimeError("a saved schema does not load as it was")
    prepare_table(table(), place / "log", schema=schema, overwrite=True)


def fuzz_csv(r: random.Random, place: Path, _: Path) -> None:
    """Prepare a damaged CSV, with a schema or one inferred."""
    file = place / r.choice(["t.csv", "t.csv", "t.tsv"])
    raw = table().write_csv(separator="\t" if file.suffix == ".tsv" else ",").encode()
    file.write_bytes(mutate_bytes(raw, r, r.choice([1, 1, 2, 5])))
    prepare_damaged(file, r, place)


def fuzz_parquet(r: random.Random, place: Path, _: Path) -> None:
    """As `fuzz_csv`, of a Parquet file; half of the damage lies in its footer."""
    file = place / "t.parquet"
    packed = r.choice(["zstd", "snappy", "uncompressed"])
    table().write_parquet(file, row_group_size=r.choice([7, 60]), compression=packed)  # type: ignore[arg-type]
    raw = file.read_bytes()
    head = r.choice([0, len(raw) - r.randrange(len(raw))])
    file.write_bytes(raw[:head] + mutate_bytes(raw[head:], r, r.choice([1, 1, 2, 5])))
    prepare_damaged(file, r, place)


def prepare_damaged(file: Path, r: random.Random, place: Path) -> None:
    """Prepare and read a table, with a schema or one inferred."""
    if r.random() < 0.5:
        log, _ = prepare_table(file, place / "log", schema=Schema.read(SCHEMA), overwrite=True)
    else:
        time = r.choice([None, "time"])
        log, _ = prepare_table(
            file, place / "log", labels=["click", "dwell:regression"], time=time, group="user", overwrite=True
        )
    read_log(log)


def fuzz_log(r: random.Random, place: Path, whole: Path) -> None:
    """Open and read a damaged log, without and with its checksums."""
    folder = place / "log"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder)
    manifest_file = folder / "manifest.json"
    if r.random() < 0.4:
        if r.random() < 0.7:
            content = mutate(json.loads(manifest_file.read_text()), r, r.randrange(1, 3))
            manifest_file.write_text(json.dumps(content))
        else:
            manifest_file.write_bytes(mutate_bytes(manifest_file.read_bytes(), r, r.randrange(1, 3)))
    else:
        manifest = json.loads(manifest_file.read_text())
        file = r.choice(sorted(p for p in folder.rglob("*") if p.suffix in (".npy", ".parquet")))
        name = file.relative_to(folder).as_posix()
        if r.random() < 0.05:
            file.unlink()
        elif r.random() < 0.2:
            other = r.choice(sorted(folder.rglob(f"*{file.suffix}")))
            file.write_bytes(other.read_bytes())
        else:
            raw = file.read_bytes()
            head = r.choice([128, len(raw)])
            file.write_bytes(mutate_bytes(raw[:head], r, r.randrange(1, 4)) + raw[head:])
        if r.random() < 0.6 and file.exists():
            size, digest = file.stat().st_size, hashlib.sha256(file.read_bytes()).hexdigest()
            holder = manifest["tables"] if name in manifest["tables"] else manifest["files"][file.parent.name]
            holder[name if name in manifest["tables"] else file.name] = size
            if r.random() < 0.5:
                manifest["sha256"][name] = digest
            manifest_file.write_text(json.dumps(manifest))
    first: Exception | None = None
    for verify in (False, True):
        try:
            read_log(Log.open(folder, verify=verify))
        except (ValueError, OSError) as error:
            if type(error) is not ValueError and not isinstance(error, OSError):
                raise
            first = error
    if first is not None:
        raise first


WHAT: dict[str, Callable[[random.Random, Path, Path], None]] = {
    "schema": fuzz_schema,
    "csv": fuzz_csv,
    "parquet": fuzz_parquet,
    "log": fuzz_log,
}


def outcome(what: str, seed: int, place: Path, whole: Path) -> str:
    """Return "fine", "error" or "crash", whose input is kept in a temporary folder."""
    try:
        WHAT[what](random.Random(f"{what} {seed}"), place, whole)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001  a panic of a library in Rust is no Exception
        if (type(error) is ValueError or isinstance(error, OSError)) and str(error):
            return "error"
        kept = Path(tempfile.mkdtemp(prefix=f"fuzz-{what}-{seed}-"))
        shutil.copytree(place, kept, dirs_exist_ok=True)
        print(f"crash: --what {what} --only {seed}, input in {kept}", file=sys.stderr)
        traceback.print_exc(limit=-9)
        return "crash"
    return "fine"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--what", choices=list(WHAT), required=True)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=0, help="of the first run; the next ones count up")
    parser.add_argument("--only", type=int, help="run this seed alone")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as temporary:
        whole = Path(temporary) / "whole"
        prepare_table(table(), whole, schema=Schema.read(SCHEMA))
        seed = options.seed if options.only is None else options.only
        end = time.monotonic() + 60 * options.minutes
        while time.monotonic() < end and (options.only is None or not counts):
            place = Path(temporary) / "place"
            place.mkdir()
            counts[outcome(options.what, seed, place, whole)] += 1
            shutil.rmtree(place)
            seed += 1
    print(
        json.dumps(
            {
                "what": options.what,
                "runs": counts.total(),
                **{k: counts[k] for k in ("fine", "error", "crash")},
            }
        )
    )
    return int(counts["crash"] > 0)


if __name__ == "__main__":
    sys.exit(main())
