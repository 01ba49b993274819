r"""Ali-CCP (Ma et al., SIGIR 2018; Tianchi 408): click and purchase in Taobao, features as `field\x02feature\x03value`."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from equipoise.data.features import Categorical, Feature, Multi
from equipoise.data.label import Label
from equipoise.data.published import Report
from equipoise.data.raw import LINE, Text, beside, check_domain, spill
from equipoise.data.schema import Schema
from equipoise.data.store import Log
from equipoise.data.tell import Tell, silent
from equipoise.data.write import hold_out, write_log

USER_FIELDS = ("101", "121", "122", "124", "125", "126", "127", "128", "129")
ITEM_FIELDS = ("205", "206", "207", "216", "508", "509", "702", "301")
ITEM_LISTS = ("210", "853")
HISTORY = ("109_14", "110_14", "127_14", "150_14")
ROWS = {"train": 42_300_135, "test": 43_016_840}
"""Lines of the files as others counted them; the publisher says 84 million in all."""
SKELETON = ("sample_id", "click", "purchase", "common", "num_features", "features")
COMMON = ("common", "num_features", "features")
NEXT, NAME, VALUE = "\x01", "\x02", "\x03"


def schema(history: int = 0) -> Schema:
    """Return 17 single-valued fields, 210 and 853 as lists, the four 14-day behaviour fields with `history`."""
    rare = ("101", "205")
    features: list[Feature] = [
        Categorical(name=f, min_count=10 if f in rare else 2) for f in (*USER_FIELDS, *ITEM_FIELDS)
    ]
    features += [Multi(name=f) for f in (*ITEM_LISTS, *(HISTORY if history else ()))]
    return Schema(
        features=tuple(features),
        labels=(Label(name="click"), Label(name="purchase", given="click")),
        group="101",
    )


def prepare(
    raw: str | Path,
    out: str | Path,
    *,
    history: int = 0,
    seed: int = 0,
    overwrite: bool = False,
    tell: Tell = silent,
) -> Log:
    """Prepare a folder with `sample_skeleton_train.csv`, `common_features_train.csv` and the same of test.

    The published test rows are the test split; a seeded 10 % of the training users (field 101) are the validation split.
    Values (the number after `\\x03`) are not used. A field that should be single takes its first feature. Rows with a
    purchase and no click are kept and counted.

    Args:
        raw: the folder. history: how many ids of each 14-day behaviour field to keep, the first in the file; 0 for none.
        seed: of the draw of validation users.

    Raises:
        ValueError: a missing file, a ragged line, features that are not `field\\x02feature\\x03value`, a label that is
            not 0 or 1, a common key that is missing from the common features or has several rows there.
    """
    if history < 0:
        raise ValueError(f"history must be 0 or more ids, got {history}")
    folder = Path(raw)
    names = [f"{kind}_{split}.csv" for split in ROWS for kind in ("sample_skeleton", "common_features")]
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise ValueError(f"raw {str(folder)!r} must hold {', '.join(names)}, {missing[0]} is missing")
    report = Report("Ali-CCP")
    with beside(out, [folder / name for name in names], overwrite, 10 if history else 3) as room:
        parts = {}
        for split in ROWS:
            tell(f"reading and joining {split}", 0, None)
            parts[split] = _read(folder, split, history, report, room)
        users = parts["train"].select("101").unique(maintain_order=True)
        held = hold_out(users, "101", 0.1, seed)[1]
        test = pl.col("101").is_in(held["101"].implode(), nulls_equal=True)
        whole = parts["train"].lazy()
        parts["train"], parts["valid"] = (
            spill(whole.filter(rows), room / name) for name, rows in (("kept", ~test), ("held", test))
        )
        report.listed(folder)
        notes = {"files": names, "seed": seed, "history": history}
        return write_log(
            out, parts, schema(history), overwrite=overwrite, notes=notes | report.notes(), tell=tell
        )


def _read(folder: Path, split: str, history: int, report: Report, room: Path) -> pl.DataFrame:
    """Return the joined rows of a split, on disk."""
    skeleton = Text(
        folder / f"sample_skeleton_{split}.csv",
        dict.fromkeys(SKELETON, pl.String) | dict.fromkeys(("click", "purchase"), pl.Int16),
    )
    shared = Text(folder / f"common_features_{split}.csv", dict.fromkeys(COMMON, pl.String))
    lists = HISTORY if history else ()
    common = _fields(shared, USER_FIELDS, lists, ["common"], room / f"{split}.common")
    if history:
        common = common.with_columns(pl.col(lists).list.head(history))
    if common["common"].n_unique() != common.height:
        twice = common.filter(pl.col("common").is_duplicated()).row(0, named=True)
        raise ValueError(
            f"raw {str(shared.path)!r} must have one row a key, {twice['common']!r} in line {twice[LINE]} has several"
        )
    samples = _fields(
        skeleton, ITEM_FIELDS, ITEM_LISTS, ["click", "purchase", "common"], room / f"{split}.samples"
    )
    for task in ("click", "purchase"):
        check_domain(samples, task, (0, 1), skeleton.path)
    lost = (
        samples.lazy()
        .select(LINE, "common")
        .join(common.lazy(), on="common", how="anti")
        .sort(LINE)
        .collect()
    )
    if lost.height:
        raise ValueError(
            f"raw {str(skeleton.path)!r} must name keys of {shared.path.name}, {lost['common'][0]!r} in line "
            f"{lost[LINE][0]} has no row there ({lost.height} rows lack theirs)"
        )
    report.count(f"{split} rows", samples.height, ROWS[split], by="public code for Ali-CCP")
    joined = samples.lazy().join(
        common.drop(LINE, "num_features", "pieces").lazy(), on="common", how="left", maintain_order="left"
    )
    for text, rows in ((skeleton, samples), (shared, common)):
        if wrong := rows.filter(pl.col("num_features") != pl.col("pieces").cast(pl.String)).height:
            report.suspects.append(
                f"{text.path.name}: {wrong} lines declare another number of features than they hold"
            )
    rows = spill(joined.drop(LINE, "common", "num_features", "pieces"), room / f"{split}.rows")
    (room / f"{split}.samples").unlink()
    return rows


def _fields(
    text: Text, single: tuple[str, ...], lists: tuple[str, ...], keep: list[str], file: Path
) -> pl.DataFrame:
    """Return the columns of `keep`, a text column a single field, a list column a multi-valued one, on disk."""
    words = pl.concat_str(pl.lit(NEXT), "features")
    marks = {mark: words.str.count_matches(mark, literal=True) for mark in (NEXT, NAME, VALUE)}
    rows = spill(
        text.scan().select(
            LINE,
            *keep,
            "num_features",
            pieces=marks[NEXT],
            whole=(marks[NEXT] == marks[NAME]) & (marks[NEXT] == marks[VALUE]),
            **{f: words.str.extract(f"{NEXT}{f}{NAME}([^{NEXT}{NAME}{VALUE}]*){VALUE}") for f in single},
            **{
                f: words.str.extract_all(f"{NEXT}{f}{NAME}[^{NEXT}{NAME}{VALUE}]*").list.eval(
                    pl.element().str.slice(len(f) + 2)
                )
                for f in lists
            },
        ),
        file,
        [text],
    )
    if not rows["whole"].all(ignore_nulls=False):
        line = rows[LINE][int(rows["whole"].fill_null(False).arg_min() or 0)]
        raise ValueError(
            f"raw {str(text.path)!r} must hold features as field\\x02feature\\x03value joined by \\x01 in column 'features', "
            f"it does not in line {line}; the file may be cut off or damaged"
        )
    return rows.drop("whole")
