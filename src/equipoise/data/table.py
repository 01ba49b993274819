"""A user's own table -> prepared log: CSV, Parquet or a data frame, with a schema or without."""

from __future__ import annotations

import csv
import gzip
import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from equipoise.data.infer import Inferred
from equipoise.data.label import Label
from equipoise.data.leaks import asked_for
from equipoise.data.schema import Schema
from equipoise.data.source import open_source
from equipoise.data.splits import Splitter
from equipoise.data.store import SPLITS, Log
from equipoise.data.stream import inferred_schema, workplace, write_source
from equipoise.data.tell import Tell, silent
from equipoise.data.write import check_place


def read_table(
    path: str | Path, max_rows: int | None = None, types: Mapping[str, type[pl.DataType]] | None = None
) -> pl.DataFrame:
    """Return the rows of a CSV (`.csv`, `.tsv`, `.csv.gz`) or Parquet file.

    `types` are those of some columns of a CSV; the others are inferred from 10,000 rows.

    Raises:
        ValueError: no such file, another kind of file, a file that is empty or cut off in the middle, a CSV line with
            more or fewer fields than the header (polars would fill up with nulls).
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"data {str(path)!r} must be a file or a prepared log, found neither")
    name = path.name.lower().removesuffix(".gz")
    try:
        if name.endswith((".parquet", ".pq")):
            return pl.read_parquet(path, n_rows=max_rows)
        if name.endswith((".csv", ".tsv", ".txt")):
            separator = "\t" if name.endswith(".tsv") else ","
            if max_rows is None:
                _check_lines(path, separator)
            return pl.read_csv(
                path,
                separator=separator,
                n_rows=max_rows,
                infer_schema_length=10_000,
                schema_overrides=types,
                null_values=["", "NA", "null"],
            )
    except (pl.exceptions.PolarsError, OSError, EOFError) as error:
        raise ValueError(
            f"data {str(path)!r} cannot be read to its end, it may be cut off or damaged: {str(error).splitlines()[0]}"
        ) from error
    raise ValueError(f"data {str(path)!r} must end in .csv, .tsv or .parquet (or .csv.gz)")


def _check_lines(path: Path, separator: str) -> None:
    """Raise ValueError for a CSV with a line of another number of fields than the header.

    Bytes are counted, at about 1 GB a second; only a file with quotes or a wrong count is parsed line by line.
    """
    opened = gzip.open if path.name.lower().endswith(".gz") else open
    mark = separator.encode()
    with opened(path, "rb") as file:
        width = file.readline().count(mark)
        marks = lines = quotes = 0
        last = b"\n"
        while chunk := file.read(2**22):
            marks += chunk.count(mark)
            lines += chunk.count(b"\n")
            quotes += chunk.count(b'"')
            last = chunk[-1:]
    lines += last != b"\n"
    if not quotes and marks == lines * width:
        return
    if quotes % 2 and last != b"\n":
        raise ValueError(f"data {str(path)!r} ends inside a quoted field; the file may be cut off")
    with opened(path, "rt", encoding="utf-8", errors="replace", newline="") as text:
        rows = csv.reader(text, delimiter=separator)
        wanted = len(next(rows, []))
        try:
            for row in rows:
                if row and len(row) != wanted:
                    raise ValueError(
                        f"data {str(path)!r} must have {wanted} fields in every line, got {len(row)} in line "
                        f"{rows.line_num}; the file may be cut off or damaged"
                    )
        except csv.Error as error:
            raise ValueError(
                f"data {str(path)!r} cannot be read, line {rows.line_num}: {error}; the file may be cut off"
            ) from None


def split_frame(frame: pl.DataFrame, schema: Schema) -> dict[str, pl.DataFrame]:
    """Return {"train", "valid", "test"} by the schema's rule; see `SplitRule`."""
    source = open_source(frame)
    splitter = Splitter.fit(schema, source)
    found: dict[str, list[pl.DataFrame]] = {name: [] for name in SPLITS}
    first = 0
    for chunk in source.chunks():
        for name, rows in splitter.parts(chunk, first):
            found[name].append(rows)
        first += chunk.height
    return {name: pl.concat(parts) if parts else frame.clear() for name, parts in found.items()}


def prepare_table(
    raw: str | Path | pl.DataFrame,
    out: str | Path,
    *,
    schema: Schema | str | Path | None = None,
    labels: Sequence[str | Label] = (),
    time: str | None = None,
    group: str | None = None,
    weight: str | None = None,
    split: str | None = None,
    as_of: str | int | None = None,
    max_rows: int | None = None,
    overwrite: bool = False,
    tell: Tell = silent,
) -> tuple[Log, list[str]]:
    """Prepare a table, with a schema or with one inferred from `labels`; return the log and the suspects' lines.

    Read a chunk at a time, so that it may be larger than memory.

    Args:
        raw: a data frame, file, folder, glob or remote path, see `open_source`. out: folder of the log.
        max_rows: how many rows to read at most. tell: see `write_log`.

    Raises:
        ValueError: as `open_source`, `infer_schema`, `Splitter` and `write_log` say, with file, column and row where one is at fault.
        OSError: too little free disk; nothing is left behind.
    """
    if isinstance(labels, str):
        raise ValueError(f"labels must be a list, got the text {labels!r}; pass labels=[{labels!r}]")
    out = Path(out)
    check_place(out, overwrite)
    with workplace(out) as room:
        source = open_source(raw, room=room, max_rows=max_rows, tell=tell)
        if schema is None:
            inferred = inferred_schema(source, labels, time=time, group=group, weight=weight, split=split)
        else:
            asked = {"labels": labels, "time": time, "group": group, "weight": weight, "split": split}
            if given := [name for name, value in asked.items() if value]:
                raise ValueError(
                    f"{given[0]} must not be given with a schema, which declares it, got {asked[given[0]]!r}; write it into the schema"
                )
            inferred = Inferred(schema if isinstance(schema, Schema) else Schema.load(schema), [])
        if as_of is not None:
            inferred = inferred._replace(schema=inferred.schema.model_copy(update={"as_of": as_of}))
        notes = {"suspects": [*inferred.suspects, *asked_for(inferred.schema)]}
        log = write_source(out, source, inferred.schema, notes=notes, tell=tell)
    return log, list(log.manifest["notes"]["suspects"])


def from_frame(
    frame: Any,
    labels: Sequence[str | Label] = (),
    out: str | Path | None = None,
    *,
    time: str | None = None,
    group: str | None = None,
    weight: str | None = None,
    split: str | None = None,
    schema: Schema | str | Path | None = None,
    overwrite: bool = False,
) -> Log:
    """Return a log made of a data frame (polars, pandas, pyarrow or a dict of columns).

    Args:
        frame: the rows. labels: "click", "purchase:given=click", "dwell:regression" or `Label`s.
        out: folder to keep the log in; default a temporary one, deleted with the returned log and its views.
        time, group, weight, split: column names. schema: instead of inferring one from `labels`.

    Raises:
        ValueError: `frame` is no table, columns as `infer_schema` and `write_log` say.

    Example:
        >>> log = from_frame(df, labels=["click"], time="ts", group="user_id")  # doctest: +SKIP
    """
    if isinstance(frame, pl.LazyFrame):
        frame = frame.collect()
    if not isinstance(frame, pl.DataFrame):
        try:
            frame = pl.DataFrame(frame)
        except (TypeError, ValueError, pl.exceptions.PolarsError) as error:
            raise ValueError(
                f"frame must be a data frame or a dict of columns, got {type(frame).__name__}: {error}"
            ) from None
    keep = _Folder() if out is None else None
    folder = keep.path / "log" if keep is not None else Path(str(out))
    log, _ = prepare_table(
        frame,
        folder,
        schema=schema,
        labels=labels,
        time=time,
        group=group,
        weight=weight,
        split=split,
        overwrite=overwrite,
    )
    log._keep = keep
    return log


class _Folder:
    """A temporary folder that lives as long as this object."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="equipoise-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)
