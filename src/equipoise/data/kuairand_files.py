"""KuaiRand's raw files, CSV or Parquet, in parts or not -> tables; a release is whole and every id has its row."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from equipoise.data.history import last_before
from equipoise.data.raw import LINE, Text, header_of, spill
from equipoise.data.table import read_table
from equipoise.names import nearest

LOG_COLUMNS = ("user_id", "video_id", "date", "time_ms", "duration_ms", "tab")
TEXT = ("tag", "upload_dt", "upload_type", "video_type")
CONSUMED = ("is_click", "long_view")


def read_log(
    files: Sequence[Path], tasks: Sequence[str], history: int, room: Path, times: bool = False
) -> pl.DataFrame:
    """Return the wanted columns of all log files on disk, a hash of each whole row, and the history where asked for.

    `times` asks for play_time_ms, null where duration_ms is not above 0. `file` is a row's place in `files`, `line` its line there, or its row in a Parquet file, from 1.

    Raises:
        ValueError: a missing column, a ragged line, a word for a number, a missing id or time, a label that is not 0 or 1.
    """
    wanted = dict.fromkeys(
        [*LOG_COLUMNS, *tasks, *(("play_time_ms", *CONSUMED) if history else ("play_time_ms",) * times)]
    )
    floats = ("duration_ms", *tasks)  # labels, so that a Parquet file's .5 is not cut to 0
    types = {name: pl.Float64 if name in floats else pl.Int64 for name in wanted}
    sources: list[Text | Path] = []
    parts = []
    for at, file in enumerate(files):
        if file.suffix == ".csv":
            names = header_of(file, list(wanted))
            text = Text(file, {name: types.get(name, pl.String) for name in names}, header=True)
            sources.append(text)
            part = text.scan()
        else:
            part = _scan_parquet(file, list(wanted)).with_row_index(LINE, 1)
            sources.append(file)
        hashed = pl.struct(pl.exclude(LINE)).hash().alias("row_hash")
        place = pl.lit(at, pl.Int32).alias("file")
        parts.append(part.select(*(pl.col(n).cast(types[n]) for n in wanted), hashed, LINE, place))
    log = spill(pl.concat(parts), room / "log", sources)
    for name in ("user_id", "video_id", "date", "time_ms"):
        if missing := log[name].null_count():
            raise ValueError(f"{name} must be known in every row of the logs, it is missing in {missing}")
    for task in tasks:
        if (strange := log.lazy().filter(~pl.col(task).is_in([0.0, 1.0])).head(1).collect()).height:
            row = strange.row(0, named=True)
            raise ValueError(
                f"raw {str(files[row['file']])!r} must hold 0 or 1 in column {task!r}, got {row[task]:g} in line {row[LINE]}"
            )
    if times:
        there = (
            pl.col("duration_ms").is_not_null() & (pl.col("duration_ms") > 0) & (pl.col("play_time_ms") >= 0)
        )
        log = log.with_columns(pl.when(there).then(pl.col("play_time_ms")).alias("play_time_ms"))
    if not history:
        return log
    end = log["time_ms"] + log["play_time_ms"].clip(0, None).fill_null(0)
    consumed = log.select(
        ((pl.col(CONSUMED[0]) == 1) | (pl.col(CONSUMED[1]) == 1)).fill_null(False).alias("x")
    )["x"]
    known = last_before(log["user_id"], log["video_id"], log["time_ms"], end, consumed, history)
    return log.with_columns(known)


def read_features(files: Sequence[Path], wanted: Sequence[str]) -> pl.DataFrame:
    """Return the wanted columns of all files of a kind as one table; ValueError if one lacks a column."""
    frames = []
    for path in files:
        # a tag such as "12,65" may first come after thousands of single ones
        frame = read_table(path, types=dict.fromkeys(TEXT, pl.String))
        if missing := [name for name in wanted if name not in frame.columns]:
            raise ValueError(
                f"raw {str(path)!r} must have the column {missing[0]!r}, it has not{nearest(missing[0], frame.columns)}"
            )
        frames.append(frame.select(wanted))
    return pl.concat(frames, how="vertical_relaxed")


def _scan_parquet(path: Path, wanted: Sequence[str]) -> pl.LazyFrame:
    """Return a Parquet file's rows, not read yet; ValueError if it is damaged or lacks a column."""
    try:
        names = list(pl.read_parquet_schema(path))
    except (pl.exceptions.PolarsError, OSError) as error:
        raise ValueError(
            f"raw {str(path)!r} cannot be read to its end, it may be cut off or damaged: {str(error).splitlines()[0]}"
        ) from error
    if missing := [name for name in wanted if name not in names]:
        raise ValueError(
            f"raw {str(path)!r} must have the column {missing[0]!r}, it has not{nearest(missing[0], names)}"
        )
    return pl.scan_parquet(path)


def release_of(files: Sequence[Path]) -> str | None:
    """Return "pure", "1k" or "27k" by the files' names, None if they say none; ValueError if they say two."""
    found = {
        m[1].lower(): f.name for f in files if (m := re.search(r"_(pure|1k|27k)(_part\d+)?$", f.stem, re.I))
    }
    if len(found) > 1:
        raise ValueError(
            f"raw must hold the files of one release, found {' and '.join(sorted(found.values()))}"
        )
    return next(iter(found), None)


def check_ids(log: pl.DataFrame, table: pl.DataFrame, key: str, files: Sequence[Path]) -> None:
    """Raise ValueError unless every id of the log has exactly one row in its feature table."""
    if lost := log.select(key).unique().join(table, on=key, how="anti")[key].sort().to_list():
        row = log.lazy().filter(pl.col(key) == lost[0]).head(1).collect().row(0, named=True)
        raise ValueError(
            f"every {key} must have a row in its feature table, {len(lost)} have none, the first is {lost[0]} in line "
            f"{row[LINE]} of {str(files[row['file']])!r}; are all files of one release in the folder?"
        )
    if (twice := table.filter(pl.col(key).is_duplicated())).height:
        raise ValueError(f"{key} must have one row in its feature table, {twice[key][0]} has several")


def files_of(raw: str | Path, prefix: str) -> list[Path]:
    folder = Path(raw)
    if (folder / "data").is_dir():
        folder = folder / "data"
    found = sorted(p for p in folder.glob(f"{prefix}_*") if p.suffix in (".csv", ".parquet"))
    if not found:
        raise ValueError(
            f"raw {str(raw)!r} must hold {prefix}_*.csv or .parquet, found none; point at KuaiRand's data folder"
        )
    return found
