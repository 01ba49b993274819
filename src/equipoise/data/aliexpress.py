"""AliExpress search logs (Li et al., CIKM 2020; Tianchi 74690): a result page a group, click and purchase a product."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from equipoise.data.features import Categorical, Numerical
from equipoise.data.label import Label
from equipoise.data.published import Report
from equipoise.data.raw import LINE, Text, beside, check_domain, header_of, spill
from equipoise.data.schema import Schema
from equipoise.data.store import Log
from equipoise.data.tell import Tell, silent
from equipoise.data.write import hold_out, write_log

USER = [f"user_{i}" for i in range(1, 34)]
ITEM = [f"item_{i}" for i in range(1, 50)]
USER_IDS = [f"user_{i}" for i in (*range(2, 9), 32, 33)]
ITEM_IDS = [f"item_{i}" for i in (19, 34, 35, 36, 40, 41, 42)]
USER_NUMBERS = [f"user_{i}" for i in range(9, 32)]
ITEM_NUMBERS = [name for name in ITEM[1:-1] if name not in ITEM_IDS]
CATEGORICAL = [f"categorical_{i}" for i in range(1, 17)]
NUMERICAL = [f"numerical_{i}" for i in range(1, 64)]
NAMES = dict(
    zip([*USER_IDS, *ITEM_IDS, *USER_NUMBERS, *ITEM_NUMBERS], [*CATEGORICAL, *NUMERICAL], strict=True)
)
"""Raw column -> the name that the joined files give it (MTReclib's conversion)."""
SIZES = {
    "nl": (17_700_000, 382_000, 13_800),
    "es": (31_600_000, 841_000, 19_100),
    "fr": (27_400_000, 535_000, 14_400),
    "us": (27_400_000, 450_000, 10_900),
}
"""Impressions, clicks and purchases of train and test, as the publisher rounds them."""


def schema() -> Schema:
    """Return 16 categorical and 63 numerical features, click, and conversion over all impressions (CTCVR)."""
    return Schema(
        features=(*(Categorical(name=c) for c in CATEGORICAL), *(Numerical(name=n) for n in NUMERICAL)),
        labels=(Label(name="click"), Label(name="conversion", given="click")),
        group="search_id",
    )


def prepare(
    raw: str | Path,
    out: str | Path,
    *,
    country: str | None = None,
    seed: int = 0,
    overwrite: bool = False,
    tell: Tell = silent,
) -> Log:
    """Prepare a country: `{cc}_user_train.csv`, `{cc}_item_train.csv` and the same of test, or `train.csv` and `test.csv`.

    The published test rows are the test split; a seeded 10 % of the training pages are the validation split. Products
    keep the order of the item files. Pages without a product have no row, as in the public conversion.

    Args:
        raw: the folder. country: which, where the folder holds several ("nl").
        seed: of the draw of validation pages.

    Raises:
        ValueError: a missing file, a ragged line, a word for a number, a label outside its domain, a product whose page
            has no row in the user file or several that differ.
    """
    folder = Path(raw)
    chosen = _country(folder, country)
    with beside(out, _files(folder, chosen), overwrite, 3) as room:
        read = _joined if chosen is None else _pairs
        tell("reading and joining train", 0, None)
        train = read(folder, chosen or "", "train", seed, room)
        tell("reading and joining test", 0, None)
        test = read(folder, chosen or "", "test", None, room)
        parts = {"train": train[0], "valid": train[1], "test": test[0]}
        report = Report("AliExpress")
        size = SIZES.get(chosen or "", (None, None, None))
        for at, what in enumerate(("impressions", "clicks", "purchases")):
            found = sum(
                p.height if what == "impressions" else int(p[("click", "conversion")[at - 1]].sum())
                for p in parts.values()
            )
            report.count(what, found, size[at], rounded=True)
        report.listed(folder)
        notes = {"files": [f.name for f in _files(folder, chosen)], "country": chosen, "seed": seed}
        return write_log(out, parts, schema(), overwrite=overwrite, notes=notes | report.notes(), tell=tell)


def _country(folder: Path, country: str | None) -> str | None:
    """Return the country whose raw files are to be read, None for the joined form."""
    known = sorted(
        {p.name[:2].lower() for kind in ("user", "item") for p in folder.glob(f"??_{kind}_t*.csv")}
    )
    if country is not None:
        if country.lower() not in known:
            raise ValueError(f"country must be one of those in {str(folder)!r}, {known}, got {country!r}")
        return country.lower()
    if len(known) > 1:
        raise ValueError(f"country must say which of {known} in {str(folder)!r}; pass country (--country)")
    return known[0] if known else None


def _files(folder: Path, country: str | None) -> list[Path]:
    """Return the two or four files of a form; ValueError for one that is missing."""
    names = (
        ["train.csv", "test.csv"]
        if country is None
        else [f"{country}_{kind}_{split}.csv" for split in ("train", "test") for kind in ("user", "item")]
    )
    there = {path.name.lower(): path for path in folder.iterdir()} if folder.is_dir() else {}
    if missing := [name for name in names if name not in there]:
        raise ValueError(
            f"raw {str(folder)!r} must hold {' and '.join(names)}, {missing[0]} is missing; unpack the archives of one "
            "country there"
        )
    return [there[name] for name in names]


def _pairs(folder: Path, country: str, split: str, seed: int | None, room: Path) -> list[pl.DataFrame]:
    """Return the rows of a split, and with a seed the rows of the pages held out after them."""
    user_file, item_file = [f for f in _files(folder, country) if f.name.lower().endswith(f"_{split}.csv")]
    user = Text(user_file, {n: pl.Float32 if n in USER_NUMBERS else pl.String for n in USER})
    item = Text(
        item_file,
        {n: pl.String if n in (*ITEM_IDS, "item_1") else pl.Float32 for n in ITEM} | {"item_49": pl.Int16},
    )
    pages = _pages(user, room / f"{split}.pages", seed)
    rows = spill(
        item.scan()
        .join(pages.lazy(), left_on="item_1", right_on="user_1", how="left", maintain_order="left")
        .select(LINE, "item_49", "held", search_id="item_1", **{new: old for old, new in NAMES.items()}),
        room / f"{split}.rows",
        [item],
    )
    check_domain(rows, "item_49", (0, 1, 2), item_file)
    if rows["held"].null_count():
        lost = rows.row(int(rows["held"].is_null().arg_max() or 0), named=True)
        raise ValueError(
            f"raw {str(item_file)!r} must hold products of pages in {user_file.name}, search id {lost['search_id']!r} in "
            f"line {lost[LINE]} has no row there ({rows['held'].null_count()} rows lack theirs)"
        )
    answers = (
        (pl.col("item_49") >= 1).cast(pl.Int8).alias("click"),
        (pl.col("item_49") == 2).cast(pl.Int8).alias("conversion"),
    )
    return _cut(room / f"{split}.rows", rows.with_columns(answers), seed)


def _pages(user: Text, file: Path, seed: int | None) -> pl.DataFrame:
    """Return a user file with a column `held`: whether the page is drawn for validation."""
    pages = spill(user.scan(), file, [user]).drop(LINE)
    if pages["user_1"].n_unique() != pages.height:
        pages = pages.unique(maintain_order=True)  # the same page written twice does no harm
        if pages["user_1"].n_unique() != pages.height:
            name = pages.filter(pl.col("user_1").is_duplicated())["user_1"][0]
            raise ValueError(
                f"raw {str(user.path)!r} must have one row a page, search id {name!r} has several"
            )
    if seed is None:
        return pages.with_columns(held=pl.lit(False))
    held = hold_out(pages.select("user_1"), "user_1", 0.1, seed)[1]
    return pages.with_columns(held=pl.col("user_1").is_in(held["user_1"].implode()))


def _joined(folder: Path, country: str, split: str, seed: int | None, room: Path) -> list[pl.DataFrame]:
    """Return the rows of `train.csv` or `test.csv`, and with a seed the rows of the pages held out after them."""
    file = next(f for f in _files(folder, None) if f.name.lower() == f"{split}.csv")
    types: dict[str, type[pl.DataType]] = {"search_id": pl.String}
    types |= dict.fromkeys(CATEGORICAL, pl.String) | dict.fromkeys(NUMERICAL, pl.Float32)
    types |= {"click": pl.Int16, "conversion": pl.Int16}
    text = Text(file, {n: types.get(n, pl.String) for n in header_of(file, list(types))}, header=True)
    rows = spill(text.scan().select(LINE, *types), room / f"{split}.rows", [text])
    for task in ("click", "conversion"):
        check_domain(rows, task, (0, 1), file)
    if seed is not None:
        held = hold_out(rows.select("search_id").unique(maintain_order=True), "search_id", 0.1, seed)[1]
        rows = rows.with_columns(held=pl.col("search_id").is_in(held["search_id"].implode()).fill_null(False))
    return _cut(room / f"{split}.rows", rows, seed)


def _cut(file: Path, rows: pl.DataFrame, seed: int | None) -> list[pl.DataFrame]:
    """Return [kept, held] as tables on disk, or all rows without a seed; the file of all rows is let go."""
    if seed is None:
        return [rows]
    found = [
        spill(rows.lazy().filter(test), file.with_suffix(name))
        for name, test in ((".kept", ~pl.col("held")), (".held", pl.col("held")))
    ]
    file.unlink()
    return found
