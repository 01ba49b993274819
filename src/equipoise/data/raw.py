"""Raw text of public logs: columns declared, read as a stream onto disk, mistakes named by file, line and column."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl
import pyarrow as pa
import pyarrow.ipc

from equipoise.data.write import check_place
from equipoise.names import nearest

LINE = "line"
"""Column that holds a row's line number in its file, from 1."""


@dataclass(frozen=True)
class Text:
    """A text file of known columns, without quotes.

    Attributes:
        path: the file. columns: {name: dtype}, in the order of the file.
        header: whether the first line holds names. null: the text that means missing, beside an empty field.
    """

    path: Path
    columns: Mapping[str, type[pl.DataType]]
    header: bool = False
    null: str | None = None

    def scan(self) -> pl.LazyFrame:
        """Return the rows with their line numbers, not read yet.

        Raises:
            ValueError: a line with another number of fields (bytes are counted, at about 1 GB a second), an empty file.
        """
        commas = lines = 0
        last = b"\n"
        with self.path.open("rb") as file:
            while chunk := file.read(2**22):
                commas += chunk.count(b",")
                lines += chunk.count(b"\n")
                last = chunk[-1:]
        lines += last != b"\n"
        if lines <= self.header:
            raise ValueError(f"raw {str(self.path)!r} must have rows, it is empty")
        if commas != lines * (len(self.columns) - 1):
            self._ragged()
        return self._scan(self.columns)

    def explain(self) -> None:
        """Raise ValueError for the first ragged line or value that does not fit its column, if there is one."""
        self._ragged()
        words = self._scan(dict.fromkeys(self.columns, pl.String))
        typed = {name: dtype for name, dtype in self.columns.items() if dtype != pl.String}
        wrong = {
            name: pl.col(name).is_not_null() & pl.col(name).cast(dtype, strict=False).is_null()
            for name, dtype in typed.items()
        }
        found = words.filter(pl.any_horizontal(wrong.values())).head(1).collect() if wrong else pl.DataFrame()
        if found.height:
            name = next(name for name, test in wrong.items() if found.select(test).item())
            raise ValueError(
                f"raw {str(self.path)!r} must hold {'an integer' if typed[name].is_integer() else 'a number'} in column "
                f"{name!r}, got {found[name][0]!r} in line {found[LINE][0]}"
            )

    def _scan(self, columns: Mapping[str, type[pl.DataType]]) -> pl.LazyFrame:
        return pl.scan_csv(
            self.path,
            has_header=self.header,
            schema=dict(columns),
            quote_char=None,
            null_values=[""] if self.null is None else ["", self.null],
            row_index_name=LINE,
            row_index_offset=1 + self.header,
        )

    def _ragged(self) -> None:
        """Raise ValueError for the first line with another number of fields than there are columns."""
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if (fields := line.count(b",") + 1) != len(self.columns):
                    raise ValueError(
                        f"raw {str(self.path)!r} must have {len(self.columns)} columns, got {fields} in line {number}; "
                        "the file may be cut off or damaged"
                    )


def header_of(path: Path, wanted: Sequence[str]) -> list[str]:
    """Return the names in a file's first line.

    Raises:
        ValueError: the file is empty, a name stands twice or a wanted one is missing.
    """
    with path.open("rb") as file:
        names = file.readline().decode("utf-8", "replace").rstrip("\r\n").removeprefix("\ufeff").split(",")
    for name in wanted:
        if names.count(name) != 1:
            others = [other for other in names if other not in wanted]
            fault = "has it twice" if name in names else f"has not{nearest(name, others)}"
            raise ValueError(f"raw {str(path)!r} must have the column {name!r} in its header, it {fault}")
    return names


@contextmanager
def beside(out: str | Path, sources: Sequence[Path], overwrite: bool, times: int) -> Iterator[Path]:
    """Yield an empty folder next to `out`, which is removed with its contents.

    Args:
        out: the log to come. sources: the raw files. overwrite: whether `out` may be a log already.
        times: how many times the size of the raw files the rows and the log take, as measured.

    Raises:
        ValueError: `out` is taken, said before hours of reading.
        OSError: the disk has less room than that.
    """
    check_place(Path(out), overwrite)
    parent = Path(out).absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    need, free = times * sum(source.stat().st_size for source in sources), shutil.disk_usage(parent).free
    if free < need:
        raise OSError(
            errno.ENOSPC,
            f"the disk of {str(parent)!r} must have {need / 2**30:.1f} GiB free to prepare this, it has "
            f"{free / 2**30:.1f}; choose another folder",
        )
    with TemporaryDirectory(prefix=f".{Path(out).name}.raw.", dir=parent) as folder:
        yield Path(folder)


def spill(rows: pl.LazyFrame, file: Path, sources: Sequence[Text | Path] = ()) -> pl.DataFrame:
    """Write rows to an Arrow file as they are read, and return them as a table that maps the file.

    Its pages belong to the system's cache, so a table larger than memory does no harm. The file must stay as long as the
    table is used.

    Raises:
        ValueError: a value of a source that does not fit its column.
    """
    try:
        rows.sink_ipc(file, compression="uncompressed", maintain_order=True)
    except pl.exceptions.PolarsError as error:
        if shutil.disk_usage(file.parent).free < 2**24:
            raise OSError(
                errno.ENOSPC, f"the disk is full, {str(file.parent.parent)!r} needs more space"
            ) from error
        for source in sources:
            if isinstance(source, Text):
                source.explain()
        names = ", ".join(repr(str(s.path if isinstance(s, Text) else s)) for s in sources)
        raise ValueError(
            f"raw {names} cannot be read to its end, it may be cut off or damaged: {str(error).splitlines()[0]}"
        ) from error
    table = pl.from_arrow(pa.ipc.open_file(pa.memory_map(str(file))).read_all(), rechunk=False)
    assert isinstance(table, pl.DataFrame)
    return table


def check_domain(rows: pl.DataFrame, column: str, allowed: Sequence[int], path: Path) -> None:
    """Raise ValueError unless every row's value is one of `allowed`; a missing one is not."""
    strange = rows.select((~pl.col(column).is_in(list(allowed))).fill_null(True).arg_max().alias("first"))[
        "first"
    ][0]
    if strange is not None and rows[column][strange] not in allowed:
        raise ValueError(
            f"raw {str(path)!r} must hold one of {list(allowed)} in column {column!r}, got {rows[column][strange]} in line "
            f"{rows[LINE][strange]}"
        )
