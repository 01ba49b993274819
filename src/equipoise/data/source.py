"""A raw table of any size as chunks of rows: a data frame, files, a folder, a glob or a remote path."""

from __future__ import annotations

import bisect
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from equipoise.data.parts import CsvPart, FramePart, ParquetPart, Part
from equipoise.data.paths import CSV, PARQUET, copied, local
from equipoise.data.tell import Tell, silent
from equipoise.data.write import CHUNK


class Source:
    """A raw table: the same rows in the same order at each reading, a chunk in memory at a time.

    Attributes:
        name: what messages call it. columns: names, in order. types: {name: polars dtype}, of the first file.
    """

    def __init__(self, name: str, parts: Sequence[Part], max_rows: int | None, keep: Any = None) -> None:
        self.name, self.parts, self.max_rows, self._keep = name, list(parts), max_rows, keep
        self.columns = self.parts[0].columns
        for part in self.parts[1:]:
            _same_columns(self.parts[0], part)

    @property
    def types(self) -> dict[str, Any]:
        """{name: dtype} of the first file; a CSV's are inferred and may become text while it is read."""
        return self.parts[0].types

    def head(self, rows: int) -> pl.DataFrame:
        """Return the first rows."""
        rows = rows if self.max_rows is None else min(rows, self.max_rows)
        found, held = [], 0
        for part in self.parts:
            frame = part.head(rows - held)
            found.append(frame)
            held += frame.height
            if held >= rows:
                break
        return pl.concat([f for f in found if f.height] or found[:1], how="vertical_relaxed").head(rows)

    def chunks(self, columns: Sequence[str] | None = None) -> Iterator[pl.DataFrame]:
        """Yield the rows in order, `CHUNK` at a time (the last may have fewer).

        Args:
            columns: which, default all.

        Raises:
            ValueError: a file that cannot be read to its end, a CSV line of another number of fields, files of different types in a column.
        """
        held: list[pl.DataFrame] = []
        rows, left = 0, self.max_rows
        for frame in self._frames(columns):
            if left is not None:
                frame = frame.head(left)
                left -= frame.height
            while frame.height:
                take = frame.head(CHUNK - rows)
                held.append(take)
                rows, frame = rows + take.height, frame.slice(take.height)
                if rows == CHUNK:
                    yield held[0] if len(held) == 1 else pl.concat(held, how="vertical_relaxed")
                    held, rows = [], 0
            if left == 0:
                break
        if held:
            yield held[0] if len(held) == 1 else pl.concat(held, how="vertical_relaxed")

    def _frames(self, columns: Sequence[str] | None) -> Iterator[pl.DataFrame]:
        wanted = self.columns if columns is None else list(columns)
        self._agree()
        for part in self.parts:
            for frame in part.frames(wanted):
                yield frame.select(wanted)  # the order of the first file

    def _agree(self) -> None:
        """Read CSVs again in which a column is a number that another one has as text."""
        texts = [part for part in self.parts if isinstance(part, CsvPart)]
        if len(texts) < 2:
            return
        while True:
            for part in texts:
                part.count()
            exact = {name for part in texts for name in part.text.exact}
            words = {n for part in texts for n, t in part.types.items() if t == pl.String} - exact
            words |= {n for part in texts for n in exact - part.text.exact if part.types[n] == pl.String}
            exact -= words
            behind = [
                part
                for part in texts
                if part.text.exact != exact or any(part.types[name] != pl.String for name in words)
            ]
            if not behind:
                return
            for part in behind:
                part.widen(words, exact)

    def rows(self) -> int:
        """Return the number of rows; a CSV is read for it."""
        total = sum(part.count() for part in self.parts)
        return total if self.max_rows is None else min(total, self.max_rows)

    def bytes(self) -> int:
        """Return the bytes of disk, about, that reading it needs beside the log: the typed rows of a CSV."""
        return sum(part.bytes() for part in self.parts)

    def where(self, row: int) -> str:
        """Return "FILE, row N" of a row counted from 0 over all files; N counts a file's rows from 1."""
        starts = [0]
        for part in self.parts[:-1]:
            starts.append(starts[-1] + part.count())
        at = bisect.bisect_right(starts, row) - 1
        return f"{self.parts[at].name}, row {row - starts[at] + 1}"

    def declare(self, types: Mapping[str, Any], columns: Sequence[str]) -> None:
        """Say which types the columns of a CSV have and which columns will be read; without effect once it was."""
        for part in self.parts:
            if isinstance(part, CsvPart):
                part.declare(types, columns)


FAMILIES = ("is_integer", "is_float", "is_temporal", "is_nested")


def _family(dtype: Any) -> str:
    for test in FAMILIES:
        if getattr(dtype, test)():
            return test.removeprefix("is_")
    return "text" if dtype in (pl.String, pl.Categorical, pl.Enum) else str(dtype)


def _same_columns(first: Part, part: Part) -> None:
    """Raise ValueError unless a file has the columns of the first; types of Parquet must be of one family."""
    for one, other, name in ((first, part, part.name), (part, first, part.name)):
        if lacking := [column for column in one.columns if column not in other.columns]:
            what = "lacks" if one is first else "has, and the first has not,"
            raise ValueError(
                f"data {name!r} must have the columns of {first.name!r}, it {what} {lacking[0]!r}; prepare such files apart"
            )
    if isinstance(part, CsvPart) and isinstance(first, CsvPart):
        for column in part.columns:  # what differs is text in all of the files
            if first.text.types[column] != part.text.types[column]:
                both = {_family(first.text.types[column]), _family(part.text.types[column])}
                dtype = pl.Float64 if both == {"integer", "float"} else pl.String
                first.text.types[column] = part.text.types[column] = dtype
        return
    for column in first.columns:
        a, b = first.types[column], part.types[column]
        if pl.Null not in (a, b) and _family(a) != _family(b):
            raise ValueError(
                f"data {part.name!r} must have the types of {first.name!r}, column {column!r} is {b} and not {a}; cast one of them"
            )


def open_source(
    raw: str | Path | pl.DataFrame,
    types: Mapping[str, Any] | None = None,
    *,
    room: Path | None = None,
    max_rows: int | None = None,
    tell: Tell = silent,
) -> Source:
    """Return the rows of a data frame, a file, a folder or glob of files (sorted by name) or a remote path, as a stream.

    Files are CSV (`.csv`, `.tsv`, `.txt`, also `.gz`) or Parquet. Remote paths (`s3://...`, `memory://...`, what fsspec knows) are copied to
    `room` first.

    Args:
        types: of some columns of a CSV; the others are inferred. room: an existing folder for copies and typed rows; default a temporary one
            that lives as long as the source. max_rows: how many rows to read at most. tell: hears how far the
            reading of a CSV is, which is done once, and when files are copied.

    Raises:
        ValueError: no such file, another kind of file, files of different columns or types, a file that cannot be read.
    """
    if isinstance(raw, pl.DataFrame):
        return Source("the table", [FramePart(raw)], max_rows)
    keep = None if room is not None else _Room()
    room = room if room is not None else keep.path  # type: ignore[union-attr]
    remote = "://" in str(raw)
    if remote:
        tell(f"copying {raw}", 0, None)
    found = copied(str(raw), room) if remote else [(path, str(path)) for path in local(str(raw))]
    parts: list[Part] = []
    for number, (path, name) in enumerate(found):
        kind = path.name.lower().removesuffix(".gz")
        try:
            if kind.endswith(PARQUET):
                parts.append(ParquetPart(path, name))
            elif kind.endswith(CSV):
                parts.append(CsvPart(path, name, room, number, types, max_rows, tell))
            else:
                raise ValueError(f"data {name!r} must end in .csv, .tsv or .parquet (or .csv.gz)")
        except pl.exceptions.PolarsError as error:
            raise ValueError(
                f"data {name!r} cannot be read to its end, it may be cut off or damaged: {str(error).splitlines()[0]}"
            ) from error
    return Source(str(raw), parts, max_rows, keep)


class _Room:
    """A temporary folder that lives as long as this object."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="equipoise-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)
