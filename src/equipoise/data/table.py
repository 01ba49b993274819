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

import numpy as np
import polars as pl

from equipoise.data.encode import column_of, milliseconds
from equipoise.data.infer import Inferred, infer_schema
from equipoise.data.schema import Label, Schema, SplitRule
from equipoise.data.store import SPLITS, Log
from equipoise.data.write import hold_out, write_log


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
    rule = schema.split or SplitRule()
    if rule.by == "column":
        words = column_of(frame, rule.column or "", "split").cast(pl.String)
        if strange := sorted(set(words.unique().to_list()) - set(SPLITS), key=str):
            raise ValueError(
                f"split column {rule.column!r} must hold train, valid and test, got {strange[0]!r}"
            )
        parts = {name: frame.filter(words == name) for name in SPLITS}
        return {name: part for name, part in parts.items() if part.height or name != "valid"}
    if rule.by == "time":
        if schema.time is None:
            raise ValueError("split.by='time' needs a time column, the schema has none")
        times = milliseconds(column_of(frame, schema.time, "time"))
        late = np.quantile(times, 1 - rule.test, method="higher")
        rest = times[times < late]  # by what is left, else one busy last day would leave no validation rows
        middle = np.quantile(rest, 1 - rule.valid / (1 - rule.test), method="higher") if len(rest) else late
        test, valid = times >= late, (times >= middle) & (times < late)
        cut = {"train": ~test & ~valid, "valid": valid, "test": test}
        return {name: frame.filter(pl.Series(rows)) for name, rows in cut.items()}
    remaining, test_rows = hold_out(frame, schema.group, rule.test, rule.seed)
    train, valid_rows = hold_out(remaining, schema.group, rule.valid / (1 - rule.test), rule.seed + 1)
    return {"train": train, "valid": valid_rows, "test": test_rows}


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
) -> tuple[Log, list[str]]:
    """Prepare a table, with a schema or with one inferred from `labels`; return the log and the suspects' lines."""
    frame = raw if isinstance(raw, pl.DataFrame) else read_table(raw, max_rows)
    if max_rows is not None:
        frame = frame.head(max_rows)
    if frame.height == 0:
        raise ValueError("the table must have rows, got none")
    if schema is None:
        inferred = infer_schema(frame, labels, time=time, group=group, weight=weight, split=split)
    else:
        inferred = Inferred(schema if isinstance(schema, Schema) else Schema.load(schema), [])
    if as_of is not None:
        inferred = inferred._replace(schema=inferred.schema.model_copy(update={"as_of": as_of}))
    log = write_log(
        out,
        split_frame(frame, inferred.schema),
        inferred.schema,
        overwrite=overwrite,
        notes={"suspects": inferred.suspects},
    )
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
        except (TypeError, ValueError) as error:
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
