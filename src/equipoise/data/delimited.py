"""A CSV as a stream: blocks of whole lines, each checked and parsed with types that a later block may widen to text."""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import polars as pl

from equipoise.data.digits import DECIMAL, EXACT, PADDED, are_numbers, canonical, has_padded, loses

BLOCK = 2**25
"""Bytes of text that are parsed together."""
SAMPLE = 10_000
"""Rows that types are inferred from."""
NULLS = ["", "NA", "null"]
Types = Mapping[str, Any]


class Delimited:
    """The rows of a CSV or TSV, plain or .gz, whose first line holds the names.

    Attributes:
        path: the file. name: what messages call it. columns: names, in order. types: {name: dtype}, inferred from the first rows; a column
            that turns out to hold something else becomes text, see `frames`. declared: columns whose types were given. exact: columns
            of numbers that are text, since a float would lose digits of a whole one; "7.0" is "7" there.

    Raises:
        ValueError: an empty file, a name that stands twice, a file that cannot be read.
    """

    def __init__(self, path: Path, name: str, types: Types | None = None) -> None:
        self.path, self.name = path, name
        self.separator = "\t" if path.name.lower().removesuffix(".gz").endswith(".tsv") else ","
        self.columns = self._header()
        self.declared, self.exact = set(types or {}), set[str]()
        self.types = self._infer(types or {})

    @property
    def state(self) -> tuple[dict[str, Any], frozenset[str]]:
        """What `frames` may change: read again from the start when it did."""
        return dict(self.types), frozenset(self.exact)

    def frames(self, keep: Sequence[str] | None = None) -> Iterator[pl.DataFrame]:
        """Yield the rows in order, `keep` the columns.

        A value that does not fit its column's type makes it text in `types` from that block on: compare `state` before and after, and read
        again to have all of it as text, with no digit lost. So does a leading zero, and a whole number that a float would not hold.

        Raises:
            ValueError: a line with more or fewer fields than the header, a quoted field that does not end, text that is not UTF-8.
        """
        for block, line in self._blocks():
            yield self._parse(block, line, keep)

    def head(self, rows: int) -> pl.DataFrame:
        """Return the first rows."""
        while True:  # until the types are those of all of them
            before, found, held = self.state, [], 0
            for frame in self.frames():
                found.append(frame)
                held += frame.height
                if held >= rows:
                    break
            if self.state == before:
                break
        return pl.concat(found).head(rows) if found else pl.DataFrame(schema=dict(self.types))

    @contextmanager
    def _opened(self) -> Iterator[IO[bytes]]:
        try:
            with (gzip.open if self.path.name.lower().endswith(".gz") else open)(self.path, "rb") as file:
                yield file  # type: ignore[misc]
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(
                f"data {self.name!r} cannot be read to its end, it may be cut off or damaged: {error}"
            ) from None

    def _header(self) -> list[str]:
        with self._opened() as file:
            first = file.readline(BLOCK)
        text = first.decode("utf-8-sig", "replace")
        try:
            names = next(csv.reader([text], delimiter=self.separator), [])
        except csv.Error as error:
            raise ValueError(
                f"data {self.name!r} cannot be read, line 1: {error}; the file may be damaged"
            ) from None
        if not text.strip():
            raise ValueError(
                f"data {self.name!r} must have rows under a line of names, cannot be read: it is empty"
            )
        check_names(names, self.name)
        return names

    def _blocks(self) -> Iterator[tuple[bytes, int]]:
        """Yield (whole lines, number of the first one from 1), without the header."""
        with self._opened() as file:
            file.readline()
            held, line, more = b"", 2, b"."
            while more:
                more = file.read(BLOCK)
                text = held + more
                end = _last_line(text) if more else len(text)
                if more and not end and len(text) > 2 * BLOCK:
                    raise ValueError(
                        f"data {self.name!r} has a line or quoted field of more than {BLOCK} bytes at line {line}; a quote may be missing"
                    )
                if not more and text.count(b'"') % 2:
                    raise ValueError(
                        f"data {self.name!r} ends inside a quoted field that begins after line {line - 1}; the file may be cut off"
                    )
                if end:
                    yield text[:end], line
                    line += text.count(b"\n", 0, end)
                held = text[end:]

    def _infer(self, declared: Types) -> dict[str, Any]:
        block = next(self._blocks(), (b"", 2))[0]
        if not block:
            return {name: declared.get(name, pl.String) for name in self.columns}
        self._check(block, 2, all_of_it=False)
        words = self._read(block, dict.fromkeys(self.columns, pl.String), None, SAMPLE).head(SAMPLE)
        sample = words.write_csv(include_header=False, separator=self.separator).encode()
        typed = self._read(sample, None, None)  # of these rows only: polars reads on after n_rows
        types = {}
        for name, series in zip(self.columns, typed, strict=True):
            padded = series.dtype.is_numeric() and words[name].str.contains(PADDED).any()
            beyond = (
                series.dtype.is_integer() and series.dtype != pl.Int64
            )  # more digits than Arrow's integers hold
            types[name] = declared.get(name, pl.String if padded or beyond else series.dtype)
        return types

    def _read(
        self, block: bytes, types: Types | None, keep: Sequence[str] | None, rows: int | None = None
    ) -> pl.DataFrame:
        return pl.read_csv(
            io.BytesIO(block),
            has_header=False,
            schema=None if types is None else dict(types),
            columns=None if keep is None else [self.columns.index(name) for name in keep],
            separator=self.separator,
            quote_char='"' if b'"' in block else None,
            null_values=NULLS,
            infer_schema_length=SAMPLE,
            n_rows=rows,
        )

    def _parse(self, block: bytes, line: int, keep: Sequence[str] | None) -> pl.DataFrame:
        block = self._check(block, line)
        try:
            frame = self._read(block, self.types, keep)
        except pl.exceptions.PolarsError as error:
            self._explain(block, line, error)
            frame = self._read(block, self.types, keep)
        return self._whole(block, frame, keep)

    def _whole(self, block: bytes, frame: pl.DataFrame, keep: Sequence[str] | None) -> pl.DataFrame:
        """Return the frame with no digit lost: what a number would lose is text, also in `types`."""
        numbers = [c.name for c in frame if c.dtype.is_numeric() and c.name not in self.declared]
        padded = bool(numbers) and has_padded(block, self.separator.encode())
        large = [n for n in numbers if frame[n].dtype.is_float() and _large(frame[n])]
        before = self.state
        if doubtful := numbers if padded else large:
            words = self._read(block, dict.fromkeys(self.columns, pl.String), doubtful)
            for name in doubtful:
                if padded and words[name].str.contains(PADDED).any():
                    self.types[name] = pl.String
                elif name in large and loses(words[name]):
                    self.types[name] = pl.String
                    self.exact.add(name)
        if self.state != before:
            frame = self._read(block, self.types, keep)
        for name in [n for n in frame.columns if n in self.exact]:
            if are_numbers(frame[name]):
                frame = frame.with_columns(canonical(frame[name]))
            else:
                self.exact.discard(name)
        return frame

    def _explain(self, block: bytes, line: int, error: Exception) -> None:
        """Make the columns text that hold something else; ValueError if it is not that."""
        self._fields(block, line)
        for at, row in enumerate(block.split(b"\n")):
            try:
                row.decode("utf-8")
            except UnicodeDecodeError as wrong:
                raise ValueError(
                    f"data {self.name!r} must be UTF-8 text, got byte {row[wrong.start]:#x} in line {line + at}"
                ) from None
        words = self._read(block, dict.fromkeys(self.columns, pl.String), None)
        strange = [name for name, dtype in self.types.items() if not _fits(words[name], dtype)]
        if not strange:
            raise ValueError(
                f"data {self.name!r} cannot be read to its end, it may be cut off or damaged after line {line}: "
                f"{str(error).splitlines()[0]}"
            ) from error
        self.exact |= {n for n in strange if self.types[n].is_integer() and are_numbers(words[n], DECIMAL)}
        self.types |= dict.fromkeys(strange, pl.String)

    def _check(self, block: bytes, line: int, all_of_it: bool = True) -> bytes:
        """Return the lines without blank ones; bytes are counted, only quotes or a wrong count need a look at each line."""
        mark, lines = self.separator.encode(), block.count(b"\n") + (not block.endswith(b"\n"))
        if b'"' not in block and block.count(mark) == lines * (len(self.columns) - 1):
            return block
        self._fields(block if all_of_it else block[: _last_line(block[: 2**22])] or block, line)
        if b'"' not in block and len(self.columns) > 1:
            block = re.sub(rb"(?m)^\r?\n", b"", block)
        return block

    def _fields(self, block: bytes, line: int) -> None:
        """Raise ValueError for the first line with another number of fields than the header."""
        text = io.StringIO(block.decode("utf-8", "replace"), newline="")
        rows = csv.reader(text, delimiter=self.separator)
        try:
            for row in rows:
                if row and len(row) != len(self.columns):
                    raise ValueError(
                        f"data {self.name!r} must have {len(self.columns)} fields in every line, got {len(row)} in line "
                        f"{line + rows.line_num - 1}; the file may be cut off or damaged"
                    )
        except csv.Error as error:
            raise ValueError(
                f"data {self.name!r} cannot be read, line {line + rows.line_num - 1}: {error}; the file may be cut off"
            ) from None


def check_names(names: Sequence[str], file: str) -> None:
    """Raise ValueError for a column name that stands twice or holds a NUL, which Arrow does not take."""
    seen: set[str] = set()
    for name in names:
        if "\0" in name:
            raise ValueError(f"data {file!r} must have column names without NUL bytes, got {name!r}")
        if name in seen:
            raise ValueError(
                f"data {file!r} must have different column names, has {name!r} twice; rename one of them"
            )
        seen.add(name)


def _last_line(text: bytes) -> int:
    """Return where the last whole line ends, 0 without one; a line break between quotes is none."""
    end = text.rfind(b"\n") + 1
    if not end or b'"' not in text:
        return end
    codes = np.frombuffer(text, np.uint8)
    breaks = np.flatnonzero(codes == 10)
    outside = breaks[np.searchsorted(np.flatnonzero(codes == 34), breaks) % 2 == 0]
    return int(outside[-1]) + 1 if len(outside) else 0


def _large(values: pl.Series) -> bool:
    largest = values.abs().max()
    return isinstance(largest, float) and not largest <= EXACT


def _fits(words: pl.Series, dtype: Any) -> bool:
    """Return whether each text is one of a type's values."""
    if dtype == pl.String:
        return True
    if dtype == pl.Boolean:
        return bool(words.drop_nulls().str.to_lowercase().is_in(["true", "false"]).all())
    return words.cast(dtype, strict=False).null_count() == words.null_count()
