"""Columns that know the answer: what one column alone tells of each label, by its values and by being missing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from equipoise.data.encode import milliseconds
from equipoise.data.label import Label

Array = np.ndarray[Any, Any]
SUSPECT, SURE = 0.95, 0.99
"""AUC of one column alone: from the first it is named, above the second left out."""
FEW, CLASS = 200, 20
"""A column of at most FEW values is ranked by its mean label; rows that each class must have before an AUC says anything."""
LATER = 0.1
"""Share of rows from which a time after the impression is no accident."""
YEARS = 20 * 365 * 86_400_000
"""A number within this many milliseconds of the time column may be a time."""


class Answer(NamedTuple):
    """A label with its values (float32 [N]) and whether they are known (bool [N])."""

    label: Label
    values: Array
    known: Array


class Leak(NamedTuple):
    """What a column tells, in words, and whether it is kept all the same."""

    why: str
    kept: bool


def leaks(sample: pl.DataFrame, name: str, answers: Sequence[Answer], time: str | None) -> Leak | None:
    """Return the worst that a column tells of the labels or of the time after the impression; None for an honest one."""
    column = sample[name]
    if time is not None and (share := later(column, sample[time])) > LATER:
        return Leak(
            f"it is a time later than {time} in {share:.0%} of the rows that have it (after the impression?)",
            False,
        )
    found = [leak for answer in answers if (leak := _of_label(column, answer)) is not None]
    return min(found, key=lambda leak: leak.kept, default=None)


def _of_label(column: pl.Series, answer: Answer) -> Leak | None:
    task = answer.label.name
    if answer.label.kind != "binary":
        rho = alone(column, answer)
        if rho is not None and rho > SURE:
            return Leak(f"its rank correlation with {task!r} is above .99 (a leak?)", True)
        return None
    there, area = presence(column, answer)
    if area > SUSPECT:
        told = f"it is missing almost only where {task!r} is {'negative' if there > 0.5 else 'positive'}, AUC {area:.3f} (after the impression?)"
        return Leak(told, area <= SURE)
    value = alone(column, answer)
    if value is not None and value > SURE:
        return Leak(f"alone it ranks {task!r} with AUC above .99 (a leak?)", False)
    if value is not None and value > SUSPECT:
        return Leak(f"alone it ranks {task!r} with AUC {value:.3f} (a leak?)", True)
    rate = float(answer.values[answer.known].mean()) if answer.known.any() else 0.0
    if there > SURE and rate < 0.9:
        return Leak(f"it is there only where {task!r} is positive (after the impression?)", True)
    return None


def alone(column: pl.Series, answer: Answer) -> float | None:
    """Return how well a column alone ranks a label: max(AUC, 1 - AUC), of other kinds than binary |rank correlation|.

    Columns of few values are ranked by their mean label (in sample, so a little high). None for text of many values, lists, too few rows.
    """
    from equipoise.metrics import auc

    if column.dtype == pl.List:
        return None
    most = min(FEW, len(column) // 20)
    if column.head(4 * FEW).n_unique() <= most and column.n_unique() <= most:
        table = pl.DataFrame({"x": column, "y": answer.values, "known": answer.known})
        mean = pl.col("y").filter(pl.col("known")).mean().over("x").fill_null(0.0)
        scores = table.select(mean.alias("mean"))["mean"].to_numpy()
    elif column.dtype.is_numeric():
        exact = column if column.dtype == pl.Float32 else column.cast(pl.Float64)
        scores = exact.fill_null(0.0).fill_nan(0.0).to_numpy()
    else:
        return None
    values, scores = answer.values[answer.known], scores[answer.known]
    if answer.label.kind == "binary":
        if min(values.sum(), len(values) - values.sum()) < CLASS:
            return None
        area = auc(values, scores)
        return max(area, 1 - area)
    ranks = pl.DataFrame({"x": scores, "y": values}).select(pl.all().rank())
    if len(values) < 2 * CLASS or min(ranks["x"].n_unique(), ranks["y"].n_unique()) < 2:
        return None
    return abs(float(np.corrcoef(ranks["x"].to_numpy(), ranks["y"].to_numpy())[0, 1]))


def presence(column: pl.Series, answer: Answer) -> tuple[float, float]:
    """Return (share of positives among the rows that have a value, AUC of having one, at least .5); (0, .5) for too few rows."""
    there = column.is_not_null()
    if column.dtype.is_float():
        there &= column.is_not_nan().fill_null(False)
    has, values = there.to_numpy()[answer.known], answer.values[answer.known] > 0
    if min(has.sum(), (~has).sum(), values.sum(), (~values).sum()) < CLASS:
        return 0.0, 0.5
    area = float((has[values].mean() + 1 - has[~values].mean()) / 2)
    return float(values[has].mean()), max(area, 1 - area)


def later(column: pl.Series, time: pl.Series) -> float:
    """Return the share of a column's known rows that are a time after `time`; 0 for a column that is no time."""
    known = column.is_not_null()
    if column.dtype.is_float():
        known &= column.is_not_nan().fill_null(False)
    date = column.dtype == pl.Date or isinstance(column.dtype, pl.Datetime)
    if not known.any() or not (date or column.dtype == pl.String or column.dtype.is_numeric()):
        return 0.0
    try:
        own, now = milliseconds(column.filter(known)), milliseconds(time.filter(known))
    except (ValueError, pl.exceptions.PolarsError):  # text or a number that is no time: no suspect
        return 0.0
    middle = float(np.median(now))
    if not math.isfinite(middle) or abs(float(np.median(own)) - middle) > YEARS or middle < YEARS:
        return 0.0
    return float((own > now).mean())
