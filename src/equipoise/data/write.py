"""Tables by split -> a prepared log on disk, whole or not there."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import polars as pl

from equipoise.data.encode import Encoder, column_of
from equipoise.data.schema import Schema
from equipoise.data.store import FORMAT, SPLITS, Log

Array = np.ndarray[Any, Any]


def write_log(
    path: str | Path,
    frames: Mapping[str, pl.DataFrame],
    schema: Schema,
    *,
    truth: Mapping[str, str] | None = None,
    overwrite: bool = False,
    notes: Mapping[str, Any] | None = None,
) -> Log:
    """Write a prepared log and return it. Built in a folder beside `path` and renamed, so it is whole or not there.

    Args:
        path: the new folder.
        frames: {"train": ..., "valid": ..., "test": ...}; without "valid", a seeded 10 % of train by group is it.
        schema: what to read from them.
        truth: {task: column} of true probabilities (simulated logs).
        overwrite: replace an existing log.
        notes: more facts for the manifest; its "suspects" are lines to show a person, and get the lines of
            `Encoder.remarks` (missing numbers, contradicted funnels) after them.

    Raises:
        ValueError: `path` exists, an empty split, columns as `encode.py` says.
        OSError: the disk is full or not writable; nothing is left behind.
    """
    path = Path(path)
    check_place(path, overwrite)
    frames = dict(frames)
    if "valid" not in frames and "train" in frames:
        frames["train"], frames["valid"] = hold_out(frames["train"], schema.group, 0.1, 0)
    for name in SPLITS:
        if name not in frames or frames[name].height == 0:
            raise ValueError(f"split {name!r} must have rows, got none; check the split rule of the schema")
    encoder = Encoder(schema, frames["train"])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        try:
            _fill(beside, frames, schema, encoder, truth, notes or {})
            _replace(path, beside)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise OSError(
                errno.ENOSPC, f"the disk is full, log {str(path)!r} was not written; free space"
            ) from error
        raise
    return Log.open(path)


def check_place(path: Path, overwrite: bool) -> None:
    """Raise ValueError unless a log may be written to `path`: nothing is there, or a log with `overwrite`."""
    if path.exists() and not overwrite:
        raise ValueError(
            f"out {str(path)!r} must not exist yet; choose another folder or pass overwrite=True (--overwrite)"
        )
    if path.exists() and not (path / "manifest.json").is_file():
        raise ValueError(
            f"out {str(path)!r} exists and is no prepared log, so it is not overwritten; choose another folder"
        )


def _fill(
    folder: Path,
    frames: Mapping[str, pl.DataFrame],
    schema: Schema,
    encoder: Encoder,
    truth: Mapping[str, str] | None,
    notes: Mapping[str, Any],
) -> None:
    """Write tables, then arrays, then the manifest into an empty folder."""
    learned = {
        "num_ids": encoder.num_ids,
        "label_scale": encoder.label_scale,
        "label_levels": encoder.label_levels,
    }
    schema = schema.model_copy(update=learned)
    groups = _groups(frames, schema.group)
    tables: dict[str, int] = {}
    digests: dict[str, str] = {}
    parts = {f"vocabulary/{quote(name, safe='')}": vocab for name, vocab in encoder.vocab.items()}
    for part, table in (parts if groups is None else parts | {"groups": groups}).items():
        content = io.BytesIO()
        table.write_parquet(content)  # to memory: on a full disk polars raises no OSError
        file = f"{part}.parquet"
        tables[file], digests[file] = _save(folder / file, b"", content.getbuffer())
    files: dict[str, dict[str, int]] = {}
    for name in SPLITS:
        arrays = encoder.encode(frames[name], name)
        if groups is not None and schema.group is not None:
            keyed = frames[name].select(value=pl.col(schema.group).cast(pl.String))
            found = keyed.join(groups, on="value", how="left", maintain_order="left", nulls_equal=True)
            arrays["group"] = found["code"].to_numpy().astype(np.int64)
        if truth is not None:
            columns = [column_of(frames[name], truth[t], "truth").to_numpy() for t in schema.tasks]
            arrays["truth"] = np.stack(columns, axis=1).astype(np.float32)
        files[name] = {}
        for key, array in arrays.items():
            file = f"{quote(key, safe='')}.npy"
            size, digest = _save_array(folder / name / file, array)
            files[name][file], digests[f"{name}/{file}"] = size, digest
    described = json.loads(schema.model_dump_json())
    arrays_only = {file: digest for file, digest in digests.items() if file not in tables}
    seal = hashlib.sha256(json.dumps([described, arrays_only], sort_keys=True).encode()).hexdigest()
    manifest = {
        "format": FORMAT,
        "schema": described,
        "fingerprint": seal[:16],
        "vocabulary_version": 1,
        "rows": {name: frames[name].height for name in SPLITS},
        "files": files,
        "tables": tables,
        "sha256": digests,
        "scaling": encoder.scaling,
        "notes": {
            **encoder.notes,
            **notes,
            "suspects": [*notes.get("suspects", []), *encoder.remarks()],
        },
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def _groups(frames: Mapping[str, pl.DataFrame], group: str | None) -> pl.DataFrame | None:
    """Return {code, value} of all groups; a missing group is one of them. None without a group column."""
    if group is None:
        return None
    values = pl.concat([column_of(frames[name], group, "group").cast(pl.String) for name in SPLITS])
    return pl.DataFrame({"value": values.unique(maintain_order=True)}).with_row_index("code")


def _save(file: Path, header: bytes, content: memoryview) -> tuple[int, str]:
    """Write a file; return its size and SHA-256."""
    file.parent.mkdir(exist_ok=True)
    digest = hashlib.sha256(header)
    digest.update(content)
    with file.open("wb") as out:
        out.write(header)
        out.write(content)
    return file.stat().st_size, digest.hexdigest()


def _save_array(file: Path, array: Array) -> tuple[int, str]:
    """Write a .npy file; by hand, since `numpy.save` on a disk that fills up raises an OSError without its number."""
    array = np.ascontiguousarray(array)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
    return _save(file, header.getvalue(), array.reshape(-1).view(np.uint8).data)


def _replace(path: Path, beside: Path) -> None:
    """Rename the finished folder to `path`; an older log is put back if that fails."""
    if not path.exists():
        beside.rename(path)
        return
    old = beside.with_name(beside.name + ".old")
    path.rename(old)
    try:
        beside.rename(path)
    except OSError:
        old.rename(path)
        raise
    shutil.rmtree(old)


def hold_out(
    frame: pl.DataFrame, group: str | None, share: float, seed: int
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return (rest, held out): a seeded share of groups, or of rows without a group; at least one of them."""
    generator = np.random.default_rng(seed)
    if group is None:
        codes = np.arange(frame.height)
    else:
        codes = column_of(frame, group, "group").cast(pl.String).fill_null("").rank("dense").to_numpy() - 1
    draw = generator.random(int(codes.max()) + 1 if len(codes) else 0)
    out = ((draw < share) | (draw == draw.min(initial=1.0)))[codes]
    return frame.filter(pl.Series(~out)), frame.filter(pl.Series(out))
