"""Tenrec (Yuan et al., NeurIPS 2022), QK-video: click, follow, like and share of a video shown in a feed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from equipoise.data.features import Categorical
from equipoise.data.label import Label
from equipoise.data.published import Report
from equipoise.data.raw import LINE, Text, beside, check_domain, header_of, spill
from equipoise.data.schema import Schema
from equipoise.data.store import Log
from equipoise.data.tell import Tell, silent
from equipoise.data.write import hold_out, write_log
from equipoise.names import nearest

LABELS = ("click", "follow", "like", "share")
FEATURES = ("user_id", "item_id", "video_category", "gender", "age")
ROWS = {"QK-video.csv": 493_458_970, "ctr_data_1M.csv": 120_342_306}
"""The files that hold QK-video's impressions, the second those of a million users, and their rows; others counted those."""
SPLITS = ("user", "row")


def schema(tasks: Sequence[str] = LABELS, split_by: str = "user") -> Schema:
    """Return the features and these labels; split by user, no user of validation or test is in training, so no user_id.

    Raises:
        ValueError: an unknown task or way to split.
    """
    if unknown := [task for task in tasks if task not in LABELS]:
        raise ValueError(f"tasks has {unknown[0]!r}, which Tenrec does not have{nearest(unknown[0], LABELS)}")
    if split_by not in SPLITS:
        raise ValueError(f"split_by must be user or row, got {split_by!r}{nearest(split_by, SPLITS)}")
    names = FEATURES if split_by == "row" else FEATURES[1:]
    features = tuple(Categorical(name=f, min_count=3 if f.endswith("_id") else 2) for f in names)
    return Schema(features=features, labels=tuple(Label(name=t) for t in tasks), group="user_id")


def prepare(
    raw: str | Path,
    out: str | Path,
    *,
    tasks: Sequence[str] = LABELS,
    split_by: str = "user",
    seed: int = 0,
    overwrite: bool = False,
    tell: Tell = silent,
) -> Log:
    r"""Prepare `QK-video.csv` or `ctr_data_1M.csv`, the file or a folder with one of them.

    The log has no time, so 80 / 10 / 10 % are drawn with a seed: of users, or with `split_by="row"` of rows as the
    published benchmark does, which lets a user's rows lie on both sides. `watching_times` comes after the click and
    `hist_*` is the same in all rows of a user (it may hold what came later), so neither is read. `\N` is missing.

    Raises:
        ValueError: no such file, several, an unknown task or way to split, a missing column, a ragged line, a label that
            is not 0 or 1.
    """
    described = schema(tasks, split_by)
    path = Path(raw)
    files = [path] if path.is_file() else [path / name for name in ROWS if (path / name).is_file()]
    if len(files) != 1:
        raise ValueError(
            f"raw {str(path)!r} must be or hold one of {' and '.join(ROWS)}, found {[f.name for f in files] or 'none'}"
        )
    types: dict[str, type[pl.DataType]] = dict.fromkeys(FEATURES, pl.String) | dict.fromkeys(tasks, pl.Int16)
    names = header_of(files[0], list(types))
    text = Text(files[0], {n: types.get(n, pl.String) for n in names}, header=True, null="\\N")
    report = Report("Tenrec")
    with beside(out, files, overwrite, 8) as room:
        tell(f"reading {files[0].name}", 0, None)
        rows = spill(text.scan().select(LINE, *types), room / "rows", [text])
        for task in tasks:
            check_domain(rows, task, (0, 1), files[0])
        by = "public code for Tenrec" if files[0].name == "ctr_data_1M.csv" else None
        report.count("rows", rows.height, ROWS.get(files[0].name), by=by)
        key = "user_id" if split_by == "user" else LINE
        rest, test = hold_out(rows.select(key).unique(maintain_order=True), None, 0.1, seed)
        keys = dict(zip(("train", "valid"), hold_out(rest, None, 1 / 9, seed + 1), strict=True)) | {
            "test": test
        }
        tell("drawing the splits", 0, None)
        parts = {
            name: spill(
                rows.lazy().filter(pl.col(key).is_in(part[key].implode(), nulls_equal=True)), room / name
            )
            for name, part in keys.items()
        }
        if split_by == "row":
            report.suspects.append(
                "split_by=row: a user's rows lie in training and test, as in the published benchmark"
            )
        notes = {"files": [files[0].name], "seed": seed, "split_by": split_by}
        return write_log(out, parts, described, overwrite=overwrite, notes=notes | report.notes(), tell=tell)
