"""One file of a table, or a data frame, as frames of rows: Parquet by batches, a CSV by way of an Arrow file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import polars as pl
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet

from equipoise.data.delimited import Delimited, check_names
from equipoise.data.tell import Tell, silent, told
from equipoise.data.write import CHUNK

OLDEST = pl.CompatLevel.oldest()
DAMAGE = (pa.ArrowException, UnicodeDecodeError, pl.exceptions.PanicException)
"""What a damaged Parquet file raises; the last two for names that are no UTF-8."""


class Part(Protocol):
    """One file, or a data frame."""

    name: str
    columns: list[str]
    types: dict[str, Any]

    def head(self, rows: int) -> pl.DataFrame: ...
    def frames(self, columns: Sequence[str] | None) -> Iterator[pl.DataFrame]: ...
    def count(self) -> int: ...
    def bytes(self) -> int: ...


class FramePart:
    """A data frame."""

    def __init__(self, frame: pl.DataFrame) -> None:
        self.name, self.frame = "the table", frame
        self.columns, self.types = frame.columns, dict(frame.schema)

    def head(self, rows: int) -> pl.DataFrame:
        return self.frame.head(rows)

    def frames(self, columns: Sequence[str] | None) -> Iterator[pl.DataFrame]:
        frame = self.frame if columns is None else self.frame.select(columns)
        for start in range(0, frame.height, CHUNK):
            yield frame.slice(start, CHUNK)

    def count(self) -> int:
        return self.frame.height

    def bytes(self) -> int:
        return 0


class ParquetPart:
    """A Parquet file, read by batches: never all of it, nor all of a row group, is in memory.

    By pyarrow: polars takes half the CPU time, but a damaged file can end its process.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        try:
            with pa.parquet.ParquetFile(path) as file:
                self._count = file.metadata.num_rows
                fields, names = file.schema_arrow, file.schema_arrow.names
            check_names(names, name)
            self.types = dict(pl.Schema(fields))
        except (*DAMAGE, OSError) as error:
            raise self._damaged(error) from error
        self.columns = list(self.types)

    def head(self, rows: int) -> pl.DataFrame:
        found, held = [pl.DataFrame(schema=self.types)], 0
        for frame in self._read(None, max(1, min(rows, CHUNK))):
            found.append(frame)
            held += frame.height
            if held >= rows:
                break
        return pl.concat(found).head(rows)

    def frames(self, columns: Sequence[str] | None) -> Iterator[pl.DataFrame]:
        return self._read(columns, CHUNK)

    def _read(self, columns: Sequence[str] | None, size: int) -> Iterator[pl.DataFrame]:
        names = None if columns is None else list(columns)
        try:
            with pa.parquet.ParquetFile(self.path, buffer_size=2**20, pre_buffer=False) as file:
                # one thread: two took as long together and twice the CPU time
                for batch in file.iter_batches(size, columns=names, use_threads=False):
                    batch.validate(full=True)  # text is UTF-8, lists have their lengths: polars trusts them
                    yield pl.DataFrame(pl.from_arrow(batch))
        except (*DAMAGE, OSError) as error:
            raise self._damaged(error) from error

    def _damaged(self, error: BaseException) -> ValueError:
        return ValueError(
            f"data {self.name!r} cannot be read to its end, it may be cut off or damaged: {str(error).splitlines()[0]}"
        )

    def count(self) -> int:
        return int(self._count)

    def bytes(self) -> int:
        return 0


class CsvPart:
    """A CSV: its text is read once, onto an Arrow file in `room`, which is then read as often as wanted."""

    def __init__(
        self,
        path: Path,
        name: str,
        room: Path,
        number: int,
        types: Mapping[str, Any] | None,
        most: int | None,
        tell: Tell = silent,
    ) -> None:
        self.text, self.name, self.most, self.tell = Delimited(path, name, types), name, most, tell
        self.file = room / f"{number}.arrow"
        self.columns, self.types = self.text.columns, self.text.types
        self.kept: list[str] = list(self.columns)
        self._count: int | None = None

    def declare(self, types: Mapping[str, Any], columns: Sequence[str]) -> None:
        if self._count is not None:
            return
        self.text.types |= {name: dtype for name, dtype in types.items() if name in self.text.types}
        self.text.declared |= set(types)
        self.kept = [name for name in self.columns if name in set(columns)]

    def widen(self, columns: set[str], exact: set[str]) -> None:
        """Make columns text, those of `exact` with whole floats as whole numbers, and read the file again when it is needed."""
        self.text.types |= dict.fromkeys(columns | exact, pl.String)
        self.text.exact = (self.text.exact | exact) - columns
        self._count = None

    def head(self, rows: int) -> pl.DataFrame:
        return self.text.head(rows)

    def frames(self, columns: Sequence[str] | None) -> Iterator[pl.DataFrame]:
        if not self.count():
            return
        names = self.kept if columns is None else list(columns)
        with pa.OSFile(str(self.file)) as file:  # read, not mapped: pages of a map would count as ours
            fields = pa.ipc.open_file(file).schema.names
            file.seek(0)
            options = pa.ipc.IpcReadOptions(included_fields=[fields.index(name) for name in names])
            reader = pa.ipc.open_file(file, options=options)
            for number in range(reader.num_record_batches):
                yield pl.DataFrame(pl.from_arrow(reader.get_batch(number)))

    def count(self) -> int:
        if self._count is None:
            self._count = self._spill()
        return self._count

    def _spill(self) -> int:
        """Write the typed rows; return how many. Read again, once, if a column turned out to be text."""
        while True:
            before, rows, frames = self.text.state, 0, self.text.frames(self.kept)
            with self.file.open("wb") as file:
                writer = None
                for frame in told(frames, self.tell, f"reading {self.name}", self.most, pl.DataFrame.__len__):
                    if self.most is not None:
                        frame = frame.head(self.most - rows)
                    rows += frame.height
                    if self.text.state == before:
                        table = frame.to_arrow(compat_level=OLDEST)
                        writer = writer or pa.ipc.new_file(file, table.schema)
                        writer.write_table(table, max_chunksize=CHUNK)
                    if self.most is not None and rows >= self.most:
                        break
                if writer is not None:
                    writer.close()
            if self.text.state == before:
                return rows

    def bytes(self) -> int:
        size = self.text.path.stat().st_size * (8 if self.text.path.name.lower().endswith(".gz") else 1)
        return int(1.2 * size) if self.most is None else 0
