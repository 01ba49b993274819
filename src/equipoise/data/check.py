"""Whether a folder's manifest and arrays are those of a log: what damage does to them is said, not met later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import polars as pl

from equipoise.data.sampling import weighs_tasks
from equipoise.data.schema import Schema

Array = np.ndarray[Any, Any]
MANIFEST = {
    "schema": dict,
    "fingerprint": str,
    "vocabulary_version": int,
    "rows": dict,
    "splits": dict,
    "files": dict,
    "tables": dict,
    "sha256": dict,
    "scaling": dict,
    "notes": dict,
}
COUNTED = ("unseen", "missing_numbers", "against_funnel")


def check_manifest(manifest: Mapping[str, Any], path: Path) -> None:
    """Raise ValueError unless the manifest has every part of a log, each of its type, and names files within the folder only."""
    for key, kind in MANIFEST.items():
        if not isinstance(manifest.get(key), kind) or isinstance(manifest[key], bool):
            raise damaged(path, f"{key} must be a {kind.__name__}, got {manifest.get(key)!r:.60}")
    for shard, files in manifest["files"].items():
        if not isinstance(files, dict):
            raise damaged(path, f"files of {shard!r} must be a dict, got {files!r:.60}")
    sizes = {f"{shard}/{file}": size for shard, of in manifest["files"].items() for file, size in of.items()}
    for name, size in (sizes | manifest["tables"]).items():
        if not isinstance(size, int) or isinstance(size, bool):
            raise damaged(path, f"the size of {name!r} must be a whole number, got {size!r:.60}")
        parts = PurePosixPath(name).parts
        if "\0" in name or name.startswith("/") or ".." in parts or "\\" in name:
            raise damaged(path, f"{name!r} must lie within the folder")
        if not isinstance(manifest["sha256"].get(name), str):
            raise damaged(path, f"sha256 of {name!r} is missing")
    for split, shards in manifest["splits"].items():
        if not (isinstance(shards, list) and shards and all(_shard(s, manifest) for s in shards)):
            raise damaged(
                path, f"splits.{split} must be a list of shards with a name and files, got {shards!r:.60}"
            )
    wanted = ("test",) if "like" in manifest else ("train", "valid", "test")
    if missing := [split for split in wanted if split not in manifest["splits"]]:
        raise damaged(path, f"splits.{missing[0]} is missing")
    _check_notes(manifest, path)
    for name, edges in _dict(manifest.get("edges", {}), "edges", path).items():
        if not (isinstance(edges, list) and all(isinstance(e, (int, float)) for e in edges)):
            raise damaged(path, f"edges.{name} must be a list of numbers, got {edges!r:.60}")


def _shard(shard: Any, manifest: Mapping[str, Any]) -> bool:
    return (
        isinstance(shard, dict) and isinstance(shard.get("name"), str) and shard["name"] in manifest["files"]
    )


def _dict(value: Any, key: str, path: Path) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise damaged(path, f"{key} must be a dict, got {value!r:.60}")
    return value


def _check_notes(manifest: Mapping[str, Any], path: Path) -> None:
    notes = manifest["notes"]
    given = [y["name"] for y in _labels(manifest["schema"]) if y.get("given") is not None]
    for key in COUNTED:
        by_split = _dict(notes.get(key), f"notes.{key}", path)
        for split in manifest["splits"]:
            counts = _dict(by_split.get(split), f"notes.{key}.{split}", path)
            if not all(isinstance(count, (int, float)) for count in counts.values()):
                raise damaged(path, f"notes.{key}.{split} must hold numbers, got {counts!r:.60}")
            if key == "against_funnel" and (lost := [task for task in given if task not in counts]):
                raise damaged(path, f"notes.{key}.{split} must hold task {lost[0]!r}")


def _labels(schema: Mapping[str, Any]) -> list[dict[str, Any]]:
    labels = schema.get("labels")
    return (
        [y for y in labels if isinstance(y, dict) and isinstance(y.get("name"), str)]
        if isinstance(labels, list)
        else []
    )


def check_sizes(schema: Schema, path: Path) -> None:
    """Raise ValueError unless each feature with ids has a table of 1 row and more."""
    for f in schema.with_table:
        if not 1 <= schema.num_ids.get(f.name, 0) <= 2**31:
            raise damaged(
                path, f"num_ids of feature {f.name!r} must be in 1 .. 2^31, got {schema.num_ids.get(f.name)}"
            )


def check_arrays(arrays: Mapping[str, Array], schema: Schema, path: Path, rows: Any) -> None:
    """Raise ValueError unless a shard has every array of its schema, each with its type and rows; reads headers and list ends alone."""
    labels = arrays.get("labels")
    n = len(labels) if labels is not None and labels.ndim else -1
    if n < 1 or rows != n:
        raise damaged(path, f"labels must have the {rows} rows of the manifest, got {max(n, 0)}")
    tasks = len(schema.labels)
    wanted: dict[str, tuple[str, tuple[int, ...]]] = {
        "ids": ("int32", (n, len(schema.categorical))),
        "numerical": ("float32", (n, len(schema.numerical))),
        "labels": ("float32", (n, tasks)),
        "valid": ("uint8", (tasks, -(-n // 8))),
        "row": ("int64", (n,)),
    }
    optional = {"group": ("int64", (n,)), "time": ("int64", (n,))}
    wanted |= {name: what for name, what in optional.items() if getattr(schema, name) is not None}
    if schema.weight is not None or schema.negatives is not None:
        wanted["weight"] = ("float32", (n, tasks) if weighs_tasks(schema) else (n,))
    if any(label.correction is not None for label in schema.labels):
        wanted["seen"] = ("float32", (n, tasks))
    if "truth" in arrays:
        wanted["truth"] = ("float32", (n, tasks))
    for m in schema.multi:
        values = arrays.get(f"{m.name}.values")
        count = len(values) if values is not None and values.ndim else 0
        wanted |= {f"{m.name}.offsets": ("int64", (n + 1,)), f"{m.name}.values": ("int32", (count,))}
        if m.weights is not None or m.weight_separator is not None or f"{m.name}.weights" in arrays:
            wanted[f"{m.name}.weights"] = ("float32", (count,))
    for name, (dtype, shape) in wanted.items():
        if name not in arrays:
            raise damaged(path, f"array {name!r} is missing")
        got = arrays[name]
        if got.dtype != np.dtype(dtype) or got.shape != shape:
            raise damaged(
                path, f"array {name!r} must be {dtype} {list(shape)}, got {got.dtype} {list(got.shape)}"
            )
    for m in schema.multi:
        offsets, count = arrays[f"{m.name}.offsets"], len(arrays[f"{m.name}.values"])
        if offsets[0] != 0 or offsets[-1] != count:
            raise damaged(
                path, f"{m.name}.offsets must go from 0 to {count}, got {offsets[0]} to {offsets[-1]}"
            )


def check_lengths(name: str, lengths: Array, held: Array) -> None:
    """Raise ValueError unless the lists of a window have lengths >= 0, which together are the values held."""
    if (lengths < 0).any() or int(lengths.sum()) != len(held):
        raise ValueError(f"array '{name}.offsets' does not ascend: the log is damaged; prepare it again")


def read_table(file: Path, columns: Sequence[str]) -> pl.DataFrame:
    """Return a Parquet table of a log; ValueError for one that is damaged or lacks a column."""
    try:
        table = pl.read_parquet(file)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise damaged(file, f"the table cannot be read: {str(error).splitlines()[0]}") from None
    if missing := [name for name in columns if name not in table.columns]:
        raise damaged(file, f"the table has no column {missing[0]!r}")
    if table["value"].dtype not in (pl.String, pl.Int64, pl.UInt64):
        raise damaged(file, f"column 'value' must be text or whole numbers, got {table['value'].dtype}")
    return table


def damaged(path: Path, what: str) -> ValueError:
    """Return the error for a log that was written by nobody, or changed since."""
    return ValueError(f"log {str(path)!r} is damaged: {what}; prepare it again")
