"""A table -> a log with another log's vocabulary and scaling, to be scored."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from equipoise.data.known import known_encoder, open_table, settled
from equipoise.data.source import Source
from equipoise.data.splits import Splitter
from equipoise.data.store import SPLITS, Log
from equipoise.data.tell import Tell, silent
from equipoise.data.write import (
    Groups,
    check_place,
    make_manifest,
    whole,
    write_manifest,
    write_shards,
    write_tables,
)


def prepare_like(
    log: str | Path | Log,
    raw: str | Path | pl.DataFrame | Source,
    out: str | Path,
    *,
    overwrite: bool = False,
    tell: Tell = silent,
) -> Log:
    """Return a new log of a table with another log's vocabulary, scaling and label statistics, unchanged: a day to score.

    All rows are its test split, unless the schema has a split column; it cannot be trained on.

    Args:
        log: the log to be like. raw: the table. out: the new folder. overwrite: replace a log in `out`. tell: see `write_log`.

    Raises:
        ValueError: `out` exists, columns and values as `prepare_table` says. OSError: the disk is full; nothing is left behind.
    """
    like = Log.open(log.path if isinstance(log, Log) else log)
    path = Path(out)
    check_place(path, overwrite)
    if path.resolve() == like.path.resolve():
        raise ValueError(f"out {str(path)!r} must be another folder than the log it is like")
    source, encoder = open_table(like, raw, tell), known_encoder(like)
    schema = like.schema
    by_column = schema.split is not None and schema.split.by == "column"
    splitter = dataclasses.replace(Splitter.fit(schema, source), held=None) if by_column else _AllTest()
    rows = settled(like, source, splitter, tell)
    groups = Groups(like.groups()) if schema.group is not None else None
    version = like.vocabulary_version
    with whole(path) as beside:
        splits = dict(zip(SPLITS, SPLITS, strict=True))
        shards, digests = write_shards(
            beside, splits, lambda: rows.pieces("writing the log"), schema, encoder, None, groups
        )
        below = "" if version == 1 else f"tables-{version}/"
        tables, of_tables = write_tables(beside, below, encoder, groups)
        there = {name: of for name, of in shards.items() if of}
        suspects = [*rows.notes.get("suspects", []), *encoder.remarks()]
        notes = {**encoder.notes, **rows.notes, "suspects": suspects}
        lineage = like.manifest["lineage"]
        manifest = make_manifest(schema, there, tables, digests | of_tables, encoder, notes, lineage)
        manifest["like"] = {"fingerprint": like.fingerprint, "vocabulary_version": version}
        write_manifest(beside, manifest)
    return Log.open(path)


class _AllTest:
    """Every row is for the test."""

    def parts(self, chunk: pl.DataFrame, first: int) -> Iterator[tuple[str, pl.DataFrame]]:
        """Yield ("test", the chunk)."""
        yield "test", chunk
