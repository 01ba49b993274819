"""MovieLens-1M (Harper and Konstan, TiiS 2015): the rating of a film, and whether it is 4 or 5, from `::` files."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from equipoise.data.features import Categorical, Multi, Numerical
from equipoise.data.label import Label
from equipoise.data.published import Report
from equipoise.data.schema import Schema, SplitRule
from equipoise.data.store import Log
from equipoise.data.table import split_frame
from equipoise.data.tell import Tell, silent
from equipoise.data.write import write_log

COLUMNS = {
    "ratings.dat": ("user_id", "movie_id", "rating", "timestamp"),
    "users.dat": ("user_id", "gender", "age", "occupation", "zip"),
    "movies.dat": ("movie_id", "title", "genres"),
}
ROWS = {"ratings.dat": 1_000_209, "users.dat": 6_040, "movies.dat": 3_900}
ARCHIVES = {"ml-1m.zip": "c4d9eecfca2ab87c1945afe126590906"}


def schema() -> Schema:
    """Return 7 categorical features, the genres, the film's year, and the labels rating (regression) and like (4 or 5)."""
    categorical = ("user_id", "movie_id", "gender", "age", "occupation", "zip", "hour")
    return Schema(
        features=(
            *(Categorical(name=c) for c in categorical),
            Multi(name="genres", separator="|"),
            Numerical(name="year"),
        ),
        labels=(Label(name="rating", kind="regression"), Label(name="like")),
        group="user_id",
        time="timestamp",
        split=SplitRule(by="time"),
    )


def prepare(raw: str | Path, out: str | Path, *, overwrite: bool = False, tell: Tell = silent) -> Log:
    """Prepare a folder with `ratings.dat`, `users.dat` and `movies.dat`.

    Splits by time: the last 10 % of ratings are the test split, the 10 % before them validation. `hour` is in UTC. Every
    row was rated by choice, so nothing here says what a user would not have watched: a demonstration, no benchmark.

    Raises:
        ValueError: a missing file, a line with another number of `::` fields, a word for a number, a rating that is not
            1 to 5, a user or film without a row in its table or with several.
    """
    folder = Path(raw)
    if missing := [name for name in COLUMNS if not (folder / name).is_file()]:
        raise ValueError(f"raw {str(folder)!r} must hold {', '.join(COLUMNS)}, {missing[0]} is missing")
    tell(f"reading {', '.join(COLUMNS)}", 0, None)
    tables = {name: _table(folder / name) for name in COLUMNS}
    ratings = tables["ratings.dat"]
    if (strange := ratings.filter(~pl.col("rating").is_between(1, 5))).height:
        raise ValueError(
            f"raw {str(folder / 'ratings.dat')!r} must hold 1 to 5 in column 'rating', got {strange['rating'][0]} in line "
            f"{strange['line'][0]}"
        )
    for name, key in (("users.dat", "user_id"), ("movies.dat", "movie_id")):
        if (twice := tables[name].filter(pl.col(key).is_duplicated())).height:
            raise ValueError(
                f"raw {str(folder / name)!r} must have one row a {key}, {twice[key][0]} in line {twice['line'][0]} has several"
            )
        if (lost := ratings.join(tables[name], on=key, how="anti", maintain_order="left")).height:
            raise ValueError(
                f"raw {str(folder / 'ratings.dat')!r} must name a {key} of {name}, {lost[key][0]} in line "
                f"{lost['line'][0]} has no row there"
            )
    frame = (
        ratings.join(tables["users.dat"].drop("line"), on="user_id", how="left", maintain_order="left")
        .join(tables["movies.dat"].drop("line"), on="movie_id", how="left", maintain_order="left")
        .with_columns(
            like=(pl.col("rating") >= 4).cast(pl.Int8),
            hour=pl.from_epoch("timestamp").dt.hour(),
            year=pl.col("title").str.extract(r"\((\d{4})\)\s*$").cast(pl.Float64),
        )
    )
    report = Report("GroupLens")
    for name, count in ROWS.items():
        report.count(name, tables[name].height, count, rounded=name == "movies.dat")
    for place in (folder, folder.parent):
        report.checksums(place, ARCHIVES)
    described = schema()
    parts = split_frame(frame, described)
    return write_log(
        out,
        parts,
        described,
        overwrite=overwrite,
        notes={"files": list(COLUMNS)} | report.notes(),
        tell=tell,
    )


def _table(path: Path) -> pl.DataFrame:
    """Return a `::` file in Latin-1 with the line numbers; ids and codes stay text."""
    names = COLUMNS[path.name]
    lines = pl.Series("text", path.read_text(encoding="latin-1").splitlines(), dtype=pl.String)
    if not len(lines):
        raise ValueError(f"raw {str(path)!r} must have rows, it is empty")
    fields = lines.str.split("::")
    lengths = fields.list.len()
    if (ragged := lengths != len(names)).any():
        line = int(ragged.arg_max() or 0)
        raise ValueError(
            f"raw {str(path)!r} must have {len(names)} fields between '::', got {lengths[line]} in line {line + 1}; the "
            "file may be cut off or damaged"
        )
    table = pl.DataFrame({name: fields.list.get(at) for at, name in enumerate(names)}).with_row_index(
        "line", 1
    )
    for name in ("rating", "timestamp"):
        if name in names:
            whole = table[name].cast(pl.Int64, strict=False)
            if whole.null_count():
                line = int(whole.is_null().arg_max() or 0)
                raise ValueError(
                    f"raw {str(path)!r} must hold an integer in column {name!r}, got {table[name][line]!r} in line {line + 1}"
                )
            table = table.with_columns(whole)
    return table
