"""A source -> prepared log, a chunk in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl

from equipoise.data.faults import first_fault
from equipoise.data.features import Numerical
from equipoise.data.infer import Inferred, infer_schema
from equipoise.data.label import Label
from equipoise.data.parts import FramePart
from equipoise.data.paths import NoRoom, check_room
from equipoise.data.schema import Schema
from equipoise.data.source import Source
from equipoise.data.splits import Splitter
from equipoise.data.store import SPLITS, Log
from equipoise.data.tell import Tell, silent, told
from equipoise.data.write import Piece, full, write_pieces
from equipoise.names import nearest

SAMPLE = 100_000
"""Rows that a schema is inferred from."""


@contextmanager
def workplace(out: Path) -> Iterator[Path]:
    """Yield an empty folder beside `out`, removed with its contents; OSError where it may not be written, or the disk is full."""
    parent = out.absolute().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{out.name}.raw.", dir=parent) as folder:
            yield Path(folder)
    except NoRoom:
        raise
    except OSError as error:
        raise full(error, out) from error


def inferred_schema(source: Source, labels: Sequence[str | Label], **columns: str | None) -> Inferred:
    """Return a schema inferred from a source's first rows; only `log1p` is tried on all of them."""
    whole = len(source.parts) == 1 and isinstance(source.parts[0], FramePart)
    sample = source.head(SAMPLE)
    if sample.height == 0:
        raise ValueError(f"{source.name}: the table must have rows, got none")
    found = infer_schema(source.head(source.rows()) if whole else sample, labels, **columns)
    logs = [] if whole else [n for n in found.schema.numerical if n.transform == "log1p"]
    if not logs:
        return found
    source.declare(types_for(found.schema, source), columns_for(found.schema, source))
    names = [n.column or n.name for n in logs]
    below: set[str] = set()
    for chunk in source.chunks(names):
        below |= {name for name in names if chunk[name].dtype.is_numeric() and (chunk[name] <= -1).any()}
    features = tuple(Numerical(name=f.name) if f.name in below else f for f in found.schema.features)
    return Inferred(found.schema.model_copy(update={"features": features}), found.suspects)


def columns_for(schema: Schema, source: Source) -> list[str]:
    """Return the columns of a source that a schema names anywhere."""
    words: set[str] = set()

    def walk(content: Any) -> None:
        if isinstance(content, str):
            words.add(content)
        elif isinstance(content, Mapping):
            for key, value in content.items():
                words.add(str(key))
                walk(value)
        elif isinstance(content, (list, tuple)):
            for value in content:
                walk(value)

    walk(schema.model_dump(exclude={"num_ids", "label_scale", "label_levels"}))
    return [name for name in source.columns if name in words]


def types_for(schema: Schema, source: Source) -> dict[str, Any]:
    """Return Float64 for the columns of a CSV that are numbers only, so that 1.5 after 10,000 whole ones is one too."""
    ids = {f.column or f.name for f in schema.features if f.kind != "numerical"} | {schema.group, schema.time}
    names = {n.column or n.name for n in schema.numerical} | {y.column or y.name for y in schema.labels}
    types = source.types
    return {
        name: pl.Float64
        for name in names | set(schema.weight_columns)
        if name not in ids and name in types and types[name].is_numeric()
    }


def check_columns(schema: Schema, source: Source) -> None:
    """Raise ValueError for a column that the schema names and the source has not."""
    wanted = [(f"feature {f.name!r}", f.column or f.name) for f in schema.features]
    for y in schema.labels:
        if y.event_time is not None:
            wanted.append((f"event_time of label {y.name!r}", y.event_time))
            continue
        wanted += [(f"label {y.name!r}", c) for c in (y.column or y.name, y.duration) if c is not None]
    single = ("group", "time", "key")
    wanted += [(what, c) for what in single if (c := getattr(schema, what)) is not None]
    wanted += [("weight", c) for c in schema.weight_columns]
    if schema.negatives is not None and schema.negatives.sampling_rate is not None:
        wanted.append(("negatives", schema.negatives.sampling_rate))
    if schema.split is not None and schema.split.by == "column":
        wanted.append(("split", schema.split.column or ""))
    for what, column in wanted:
        if column not in source.columns:
            near = nearest(column, source.columns)
            raise ValueError(f"{what}: column {column!r} is missing in {source.parts[0].name}{near}")


def log_bytes(schema: Schema, rows: int) -> int:
    """Return the bytes, about, of a log of that many rows, without vocabularies."""
    width = 4 * len(schema.features) + 5 * len(schema.labels) + 16 * len(schema.multi)
    return rows * (width + 8 * (1 + (schema.group is not None) + (schema.time is not None)))


def write_source(
    out: Path,
    source: Source,
    schema: Schema,
    *,
    notes: Mapping[str, Any] | None = None,
    tell: Tell = silent,
) -> Log:
    """Write the prepared log of a source and return it; `out` must be checked before. A log that is there is replaced.

    Raises:
        ValueError: an empty source or split, a missing column, a value that breaks a rule, with file, column and row.
        OSError: too little free disk.
    """
    check_columns(schema, source)
    parent = out.absolute().parent
    check_room(parent, source.bytes(), f"read {source.name!r}")
    columns = columns_for(schema, source)
    if any(part.bytes() for part in source.parts):
        source.declare(types_for(schema, source), columns)
    rows = source.rows()
    if rows == 0:
        raise ValueError(f"{source.name}: the table must have rows, got none")
    check_room(parent, log_bytes(schema, rows), f"write {str(out)!r}")
    at: tuple[pl.DataFrame, int] | None = None

    def chunks(wanted: Sequence[str]) -> Iterator[tuple[pl.DataFrame, int]]:
        nonlocal at
        first = 0
        for chunk in Source.chunks(source, wanted):
            at = chunk, first
            yield chunk, first
            first += chunk.height

    try:

        def times_or_groups(wanted: Sequence[str]) -> Iterator[tuple[pl.DataFrame, int]]:
            return told(chunks(wanted), tell, "finding the splits", rows, lambda found: found[0].height)

        splitter = Splitter.fit(schema, _Watched(source, times_or_groups))

        def pieces() -> Iterator[Piece]:
            seen: set[str] = set()
            for chunk, first in chunks(columns):
                for name, part in splitter.parts(chunk, first):
                    seen.add(name)
                    yield name, part
            if empty := [name for name in SPLITS if name not in seen]:
                raise ValueError(
                    f"split {empty[0]!r} must have rows, got none; check the split rule of the schema"
                )

        return write_pieces(out, pieces, schema, notes=notes, rows=rows, tell=tell)
    except ValueError as error:
        fault = None if at is None else first_fault(at[0], schema)
        if fault is None or at is None:
            raise
        found, column, row = fault
        value = at[0][column][row]
        raise ValueError(
            f"{found}; first in {source.where(at[1] + row)}, column {column!r}: {value!r}"
        ) from error


class _Watched(Source):
    """A source whose chunks are remembered while they are used."""

    def __init__(self, source: Source, chunks: Any) -> None:
        super().__init__(source.name, source.parts, source.max_rows)
        self._watched = chunks

    def chunks(self, columns: Sequence[str] | None = None) -> Iterator[pl.DataFrame]:
        for chunk, _ in self._watched(self.columns if columns is None else columns):
            yield chunk
