"""Tables by split -> a prepared log on disk, whole or not there."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from equipoise.data.encode import column_of
from equipoise.data.encoder import Encoder
from equipoise.data.encoders import plain_text
from equipoise.data.schema import Schema
from equipoise.data.settle import Settled
from equipoise.data.shards import ShardWriter
from equipoise.data.store import FORMAT, SPLITS, Log
from equipoise.data.tell import Tell, silent

Array = np.ndarray[Any, Any]


Piece = tuple[str, pl.DataFrame]
Pieces = Callable[[], Iterable[Piece]]
"""(split, rows) one after the other, the same at each call: a log is read twice, to learn from its training rows and to write it."""
CHUNK = 2**18
"""Rows that are encoded together."""


def write_log(
    path: str | Path,
    frames: Mapping[str, pl.DataFrame],
    schema: Schema,
    *,
    truth: Mapping[str, str] | None = None,
    overwrite: bool = False,
    notes: Mapping[str, Any] | None = None,
    tell: Tell = silent,
) -> Log:
    """Write a prepared log and return it. Built in a folder beside `path` and renamed, so it is whole or not there.

    Args:
        path: the new folder.
        frames: {"train": ..., "valid": ..., "test": ...}; without "valid", a seeded 10 % of train is it, by group (by row with
            `allow_group_leak`). Frames that map a file may
            be larger than memory.
        schema: what to read from them.
        truth: {task: column} of true probabilities (simulated logs).
        overwrite: replace an existing log.
        notes: more facts for the manifest; its "suspects" are lines to show a person, and get the lines of
            `Encoder.remarks` (missing numbers, contradicted funnels) after them.
        tell: called with (what is being done, rows done, rows in all or None), see `data.tell`.

    Raises:
        ValueError: `path` exists, an empty split, columns as `encode.py` says.
        OSError: the disk is full or not writable; nothing is left behind.
    """
    path = Path(path)
    check_place(path, overwrite)
    frames = dict(frames)
    if "valid" not in frames and "train" in frames:
        frames["train"], frames["valid"] = hold_out(frames["train"], schema.kept_together, 0.1, 0)
    for name in SPLITS:
        if name not in frames or frames[name].height == 0:
            raise ValueError(f"split {name!r} must have rows, got none; check the split rule of the schema")

    def pieces() -> Iterator[Piece]:
        for name in SPLITS:
            for start in range(0, frames[name].height, CHUNK):
                yield name, frames[name].slice(start, CHUNK)

    rows = sum(frames[name].height for name in SPLITS)
    return write_pieces(path, pieces, schema, truth=truth, notes=notes, rows=rows, tell=tell)


def write_pieces(
    path: Path,
    pieces: Pieces,
    schema: Schema,
    *,
    truth: Mapping[str, str] | None = None,
    notes: Mapping[str, Any] | None = None,
    rows: int | None = None,
    tell: Tell = silent,
) -> Log:
    """Write a prepared log of rows that come in pieces; see `write_log`. A log that is there is replaced.

    `rows` of all pieces, where known, is for `tell`.
    """
    settled = Settled(schema, pieces, notes, rows=rows, tell=tell)
    learning = "learning ids and scaling"
    encoder = Encoder.fit(
        schema, lambda: (frame for name, frame in settled.pieces(learning) if name == "train")
    )
    schema = settled.described()
    with whole(path) as beside:
        _fill(beside, lambda: settled.pieces("writing the log"), schema, encoder, truth, settled.notes)
    return Log.open(path)


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path` that takes its place when the block ends; after an error `path` is as it was and nothing is left.

    Raises:
        OSError: the disk is full or not writable.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        try:
            yield beside
            beside.chmod(
                0o777 & ~_umask()
            )  # mkdtemp makes it ours alone; a log is as open as other files are
            _replace(path, beside)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    except OSError as error:
        raise full(error, path) from error


def _umask() -> int:
    """Return the process's umask, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def full(error: OSError, path: Path) -> OSError:
    """Return the error, said plainly where the disk is full."""
    if error.errno == errno.ENOSPC:
        return OSError(errno.ENOSPC, f"the disk is full, log {str(path)!r} was not written; free space")
    return error


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
    pieces: Pieces,
    schema: Schema,
    encoder: Encoder,
    truth: Mapping[str, str] | None,
    notes: Mapping[str, Any],
) -> None:
    """Write arrays, then tables, then the manifest into an empty folder."""
    schema = schema.model_copy(update=learned(encoder))
    groups = Groups() if schema.group is not None else None
    shards, digests = write_shards(
        folder, dict(zip(SPLITS, SPLITS, strict=True)), pieces, schema, encoder, truth, groups
    )
    for name in SPLITS:
        if not shards[name]:
            raise ValueError(f"split {name!r} must have rows, got none; check the split rule of the schema")
    tables, of_tables = write_tables(folder, "", encoder, groups)
    told = {**encoder.notes, **notes, "suspects": [*notes.get("suspects", []), *encoder.remarks()]}
    lineage = [{"version": 1, "digest": vocabulary_digest(encoder.vocab), "num_ids": encoder.num_ids}]
    manifest = make_manifest(schema, shards, tables, digests | of_tables, encoder, told, lineage)
    write_manifest(folder, manifest)


def learned(encoder: Encoder) -> dict[str, Any]:
    """Return what preparing fills in a schema."""
    return {
        "num_ids": encoder.num_ids,
        "label_scale": encoder.label_scale,
        "label_levels": encoder.label_levels,
    }


class Groups:
    """Codes of group values, in the order of their first row; a missing group is one of them."""

    def __init__(self, known: pl.Series | None = None) -> None:
        values = pl.Series("value", [], dtype=pl.String) if known is None else known
        self.table = pl.DataFrame({"value": values}).with_row_index("code")

    def codes(self, values: pl.Series) -> Array:
        """Return int64 [N] codes; new values get the next ones."""
        keyed = pl.DataFrame({"value": values})
        new = keyed.unique(maintain_order=True).join(
            self.table, on="value", how="anti", nulls_equal=True, maintain_order="left"
        )
        if new.height:
            self.table = pl.concat([self.table.drop("code"), new]).with_row_index("code")
        found = keyed.join(self.table, on="value", how="left", maintain_order="left", nulls_equal=True)
        return found["code"].to_numpy().astype(np.int64)


def write_shards(
    folder: Path,
    names: Mapping[str, str],
    pieces: Pieces,
    schema: Schema,
    encoder: Encoder,
    truth: Mapping[str, str] | None,
    groups: Groups | None,
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, str]]:
    """Encode every piece into shards; return ({split: its shards}, {file: SHA-256}). `names`: {split: name of its first shard}."""
    writers = {split: ShardWriter(folder, name) for split, name in names.items()}
    try:
        for split, frame in pieces():
            if not frame.height:
                continue
            arrays = encoder.encode(frame, split)
            if groups is not None and schema.group is not None:
                arrays["group"] = groups.codes(plain_text(column_of(frame, schema.group, "group"), "group"))
            if truth is not None:
                columns = [column_of(frame, truth[t], "truth").to_numpy() for t in schema.tasks]
                arrays["truth"] = np.stack(columns, axis=1).astype(np.float32)
            writers[split].append(arrays)
        for writer in writers.values():
            writer.close()
    finally:
        for writer in writers.values():
            writer.abandon()
    digests = {file: digest for writer in writers.values() for file, digest in writer.digests.items()}
    return {split: writer.shards for split, writer in writers.items()}, digests


def write_tables(
    folder: Path, below: str, encoder: Encoder, groups: Groups | None
) -> tuple[dict[str, int], dict[str, str]]:
    """Write vocabularies, counts of values without an id and group values; return ({file: bytes}, {file: SHA-256})."""
    parts = {f"{below}vocabulary/{quote(name, safe='')}": vocab for name, vocab in encoder.vocab.items()}
    parts |= {f"{below}rare/{quote(name, safe='')}": rare for name, rare in encoder.rare.items()}
    if groups is not None:
        parts[f"{below}groups"] = groups.table
    tables, digests = {}, {}
    for part, table in parts.items():
        file = f"{part}.parquet"
        tables[file], digests[file] = _save(folder / file, table)
    return tables, digests


def vocabulary_digest(vocab: Mapping[str, pl.DataFrame]) -> str:
    """Return a fingerprint of which value has which id."""
    digest = hashlib.sha256()
    for name in sorted(vocab):
        digest.update(name.encode() + b"\0")
        values = vocab[name]["value"]
        for start in range(0, len(values), CHUNK):
            part = values[start : start + CHUNK].cast(pl.String)
            digest.update((str(part.str.join("\0")[0]) + "\0").encode())
    return digest.hexdigest()[:16]


def make_manifest(
    schema: Schema,
    shards: Mapping[str, list[dict[str, Any]]],
    tables: Mapping[str, int],
    digests: Mapping[str, str],
    encoder: Encoder,
    notes: Mapping[str, Any],
    lineage: list[dict[str, Any]],
) -> dict[str, Any]:
    """Return the manifest of a log; `lineage`: of each vocabulary version its digest and table sizes, the newest last."""
    described = json.loads(schema.model_dump_json())
    arrays_only = {file: digest for file, digest in digests.items() if file not in tables}
    order = {name: [shard["name"] for shard in of] for name, of in shards.items()}
    sealed: list[Any] = [described, arrays_only]
    if len(lineage) > 1 or any(names != [name] for name, names in order.items()):
        sealed.append(order)
    version = lineage[-1]["version"]
    return {
        "format": FORMAT,
        "schema": described,
        "fingerprint": hashlib.sha256(json.dumps(sealed, sort_keys=True).encode()).hexdigest()[:16],
        "vocabulary_version": version,
        "lineage": lineage,
        "rows": {name: sum(shard["rows"] for shard in of) for name, of in shards.items()},
        "splits": {
            name: [
                {"vocabulary_version": version, **{k: v for k, v in s.items() if k != "files"}} for s in of
            ]
            for name, of in shards.items()
        },
        "files": {shard["name"]: shard["files"] for of in shards.values() for shard in of},
        "tables": dict(tables),
        "sha256": dict(digests),
        "scaling": encoder.scaling,
        "edges": encoder.edges,
        "notes": dict(notes),
    }


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write it beside and rename it: from then on the folder is a log, or the newer one."""
    beside = folder / "new-manifest.json"
    with beside.open("w", encoding="utf-8") as file:
        file.write(json.dumps(manifest, indent=1))
    beside.replace(folder / "manifest.json")


def _save(file: Path, table: pl.DataFrame) -> tuple[int, str]:
    """Write a Parquet file, a chunk at a time; return its size and SHA-256. By pyarrow: polars raises no OSError on a full disk."""
    file.parent.mkdir(parents=True, exist_ok=True)
    schema = table.clear().to_arrow().schema
    with file.open("wb") as out, pq.ParquetWriter(out, schema, compression="zstd") as writer:
        for start in range(0, table.height, 4 * CHUNK):
            writer.write_table(table[start : start + 4 * CHUNK].to_arrow().cast(schema))
    with file.open("rb") as written:
        return file.stat().st_size, hashlib.file_digest(written, "sha256").hexdigest()


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
