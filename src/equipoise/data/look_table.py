"""A raw table -> what its columns hold: type, role, values, missing share, examples, and what each alone tells of a label."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from equipoise.data.encode import label_values
from equipoise.data.infer import Inferred, looks_like_label
from equipoise.data.telltale import Answer, alone

ROWS, EXAMPLES, LETTERS = 100_000, 3, 24
"""Rows looked at, examples of a column, letters of an example."""


def look_table(
    frame: pl.DataFrame, found: Inferred | None, roles: Mapping[str, str | None], *, name: str = "table"
) -> dict[str, Any]:
    """Return the facts of a table's first 100,000 rows, in plain types.

    Args:
        found: what `infer_schema` made of the table, None without labels. roles: {"time": column, "group": column, ...}.

    Returns:
        {"name", "rows", "labels", "columns": {column: {"type", "role", "distinct", "missing", "examples", "auc": {task: AUC or None}}},
        "suspects": lines, "look_like_labels": columns}.
    """
    sample = frame.head(ROWS)
    labels = found.schema.labels if found is not None else ()
    answers = [Answer(y, *label_values(sample[y.column or y.name], y)) for y in labels]
    binary = [answer for answer in answers if answer.label.kind == "binary"]
    given = {column: role for role, column in roles.items() if column is not None}
    given |= {y.column or y.name: f"label {y.name}, {y.kind}" for y in labels}
    features = {} if found is None else {f.column or f.name: f.kind for f in found.schema.features}
    columns: dict[str, Any] = {}
    for column in frame.columns:
        series = sample[column]
        words = [given[column]] if column in given else []
        words += [features[column]] if column in features else []
        free = column in features or column not in given
        columns[column] = {
            "type": str(series.dtype),
            "role": ", ".join(words) or ("left out" if found is not None else _guess(series, column)),
            "distinct": _distinct(series),
            "missing": _missing(series),
            "examples": _examples(series),
            "auc": {a.label.name: alone(series, a) for a in binary} if free else {},
        }
    like = [column for column in frame.columns if columns[column]["role"] == "looks like a label"]
    suspects = list(found.suspects) if found is not None else _suspects(columns, sample.height)
    return {
        "name": name,
        "rows": sample.height,
        "labels": [answer.label.name for answer in binary],
        "columns": columns,
        "suspects": suspects,
        "look_like_labels": like,
    }


def _guess(series: pl.Series, name: str) -> str:
    """Return what a column may be, without a label to tell it by: a label is 0/1 or boolean, or is called like one."""
    return "looks like a label" if looks_like_label(series, name, either=True) else "-"


def _suspects(columns: Mapping[str, Any], rows: int) -> list[str]:
    lines = []
    for name, column in columns.items():
        if column["distinct"] <= 1:
            lines.append(f"{name}: constant")
        elif column["distinct"] == rows > 200 and not column["type"].startswith("Float"):
            lines.append(f"{name}: differs in every row")
    return lines


def _distinct(series: pl.Series) -> int:
    """Return how many values there are, null not counted; of lists of the whole list."""
    known = series.drop_nulls()
    return (
        known.n_unique()
        if series.dtype != pl.List
        else known.list.eval(pl.element().cast(pl.String)).list.join(",").n_unique()
    )


def _missing(series: pl.Series) -> float:
    count = series.null_count()
    if series.dtype.is_float():
        count += int(series.is_nan().sum() or 0)
    return count / max(1, len(series))


def _examples(series: pl.Series) -> list[str]:
    """Return the first different values as text."""
    known = series.drop_nulls().head(1000)
    values = known.to_list() if series.dtype == pl.List else known.unique(maintain_order=True).to_list()
    shown = [str(value) if not isinstance(value, float) else f"{value:g}" for value in values[:EXAMPLES]]
    return [text if len(text) <= LETTERS else f"{text[: LETTERS - 1]}\u2026" for text in shown]
