"""What a prepared log knows, for rows that come later: its encoder, and a new table read with its columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

import polars as pl

from equipoise.data.check import damaged, read_table
from equipoise.data.encoder import Encoder
from equipoise.data.faults import first_fault
from equipoise.data.schema import Schema
from equipoise.data.seen import known_delays
from equipoise.data.settle import Settled
from equipoise.data.sharing import table_of
from equipoise.data.source import Source, open_source
from equipoise.data.store import Log
from equipoise.data.stream import check_columns, columns_for, types_for
from equipoise.data.tell import Tell, silent
from equipoise.data.write import (
    vocabulary_digest,
)


class Sided(Protocol):
    """What parts a chunk into splits."""

    def parts(self, chunk: pl.DataFrame, first: int) -> Iterator[tuple[str, pl.DataFrame]]:
        """Yield (split, its rows)."""


def known_encoder(log: Log) -> Encoder:
    """Return the encoder that a log was written with: vocabularies, counts, scaling and label statistics.

    Raises:
        ValueError: tables that are not those of the manifest's lineage.
    """
    encoder = Encoder(log.schema)
    for feature in log.schema.with_table:
        file = f"{quote(table_of(feature), safe='')}.parquet"
        if log._table(f"vocabulary/{file}") in log.manifest["tables"]:
            for kind, into in (("vocabulary", encoder.vocab), ("rare", encoder.rare)):
                into[table_of(feature)] = read_table(
                    log.path / log._table(f"{kind}/{file}"), ("value", "count")
                )
    if vocabulary_digest(encoder.vocab) != log.manifest["lineage"][-1]["digest"]:
        raise damaged(log.path, "its vocabulary is that of another log")
    encoder.scaling = {name: (mean, std) for name, (mean, std) in log.manifest["scaling"].items()}
    encoder.edges = dict(log.manifest.get("edges", {}))
    encoder.label_scale = dict(log.schema.label_scale)
    encoder.label_levels = dict(log.schema.label_levels)
    return encoder


def open_table(log: Log, raw: str | Path | pl.DataFrame | Source, tell: Tell = silent) -> Source:
    """Return a new table with the columns of a log's schema; ids that were text on the first day are read as text again."""
    schema = log.schema
    if isinstance(raw, Source):
        source = raw
    else:
        text = {}
        for f in schema.with_table:
            file = log._table(f"vocabulary/{quote(table_of(f), safe='')}.parquet")
            if file in log.manifest["tables"] and not _numbers(pl.read_parquet(log.path / file)["value"]):
                text[f.column or f.name] = pl.String
        known = log.groups()
        if schema.group is not None and known is not None and not _numbers(known.drop_nulls()):
            text[schema.group] = pl.String
        source = open_source(raw, types=text, tell=tell)
    check_columns(schema, source)
    if any(part.bytes() for part in source.parts):
        source.declare(types_for(schema, source), columns_for(schema, source))
    if source.rows() == 0:
        raise ValueError(f"{source.name}: the table must have rows, got none")
    return source


def _numbers(values: pl.Series) -> bool:
    """Return whether every text is a number as `as_text` writes it: "7" and "1.5", not "007"."""
    if values.dtype.is_integer():
        return True
    whole = values.cast(pl.Int64, strict=False).cast(pl.String) == values
    part = values.cast(pl.Float64, strict=False).cast(pl.String) == values
    return bool((whole.fill_null(False) | part.fill_null(False)).all())


def settled(log: Log, source: Source, splitter: Sided, tell: Tell = silent) -> Settled:
    """Return a source's rows by split as a log's schema has them, late labels made and negatives thinned out; a value that breaks a rule is said with file, column and row.

    An `as_of` that the schema states was the first day's; these rows are as of their own end. How late events come (`seen.py`) was learned
    on the first day and stays: one more day may end before the window of any of its rows is over.
    """
    schema = log.schema
    columns = columns_for(schema, source)
    return Settled(
        schema.model_copy(update={"as_of": None}),
        lambda: _pieces(schema, source, splitter, columns),
        delays=known_delays(log.manifest, schema, log.path),
        rows=source.rows(),
        tell=tell,
    )


def _pieces(
    schema: Schema, source: Source, splitter: Sided, columns: Sequence[str]
) -> Iterator[tuple[str, pl.DataFrame]]:
    """Yield (split, rows) of a source; a value that breaks a rule is said with file, column and row."""
    first = 0
    for chunk in source.chunks(columns):
        try:
            fault = first_fault(chunk, schema)
        except ValueError:
            fault = None
        if fault is not None:
            found, column, row = fault
            where = source.where(first + row)
            raise ValueError(f"{found}; first in {where}, column {column!r}: {chunk[column][row]!r}")
        yield from splitter.parts(chunk, first)
        first += chunk.height
