"""Which negatives stay in a log, at which rate, and the weights that make up for the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl

from equipoise.data.draw import uniform
from equipoise.data.encode import column_of, label_values
from equipoise.data.schema import Negatives, Schema

Array = np.ndarray[Any, Any]
RATE = "\0rate"
"""A column that `sample` adds: the rate at which the row was kept, 1 where it was not drawn."""


def sample(frame: pl.DataFrame, schema: Schema, split: str, numbers: Array) -> pl.DataFrame:
    """Return the rows of a split that stay, with the column `RATE`.

    With `keep`, those of train whose label `of` is not positive stay if their key draws below it; a label that is not known is not
    positive, and all rows of other splits stay. With `sampling_rate` every row stays.

    Args:
        numbers: int64 [N] the rows' numbers in the split, for messages, and to draw by without `schema.key`.

    Raises:
        ValueError: a missing column, a rate outside (0, 1]; under `correct: logit`, positives with a rate below 1.
    """
    rule = schema.negatives
    assert rule is not None
    label = schema.label(rule.of)
    values, known = label_values(column_of(frame, label.column or label.name, f"label {rule.of!r}"), label)
    positive = known & (values > 0)
    if rule.keep is None:
        rates = _rates(frame, rule, numbers)
        wrong = positive & (rates < 1)
        if rule.correct == "logit" and wrong.any():
            row = int(wrong.argmax())
            raise ValueError(
                f"sampling_rate {rule.sampling_rate!r} must be 1 where {rule.of!r} is positive, for correct: logit, got {rates[row]:g} in "
                f"row {numbers[row]} of split {split!r}; take correct: weights"
            )
        return frame.with_columns(pl.Series(RATE, rates))
    if split != "train":
        return frame.with_columns(pl.lit(1.0).alias(RATE))
    frame = frame.with_columns(pl.Series(RATE, np.where(positive, 1.0, rule.keep)))
    keys = pl.Series(numbers) if schema.key is None else column_of(frame, schema.key, "key")
    return frame.filter(pl.Series(positive | (uniform(keys, rule.seed) < rule.keep)))


def _rates(frame: pl.DataFrame, rule: Negatives, numbers: Array) -> Array:
    series = column_of(frame, rule.sampling_rate or "", "sampling_rate")
    if not series.dtype.is_numeric():
        raise ValueError(f"sampling_rate {rule.sampling_rate!r} must hold numbers, got {series.dtype}")
    rates = series.cast(pl.Float64).fill_null(np.nan).to_numpy()
    wrong = ~((rates > 0) & (rates <= 1))
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(
            f"sampling_rate {rule.sampling_rate!r} must lie in (0, 1] in every row, got {rates[row]:g} in row {numbers[row]} and "
            f"{int(wrong.sum()) - 1} more"
        )
    return rates


class Rate:
    """The one rate of the negatives that a logit correction takes back, checked over all training rows."""

    def __init__(self, schema: Schema) -> None:
        self.schema, self.rule = schema, schema.negatives
        self.found: float | None = None if self.rule is None else self.rule.keep

    def check(self, frame: pl.DataFrame, numbers: Array) -> None:
        """Look at training rows from `sample`; ValueError for a negative of another rate than those before."""
        rule = self.rule
        if rule is None or rule.correct != "logit" or rule.keep is not None:
            return
        label = self.schema.label(rule.of)
        values, known = label_values(frame[label.column or label.name], label)
        negative = known & (values == 0)
        rates = frame[RATE].to_numpy()
        if self.found is None and negative.any():
            self.found = float(rates[int(negative.argmax())])
        wrong = negative & (rates != self.found)
        if wrong.any():
            row = int(wrong.argmax())
            raise ValueError(
                f"sampling_rate {rule.sampling_rate!r} must be the same in every negative row of {rule.of!r}, for correct: logit, got "
                f"{self.found:g} and {rates[row]:g} in row {numbers[row]}; take correct: weights"
            )

    def sampling(self) -> dict[str, float]:
        """Return {task: rate} for `Schema.sampling`."""
        if self.rule is None or self.rule.correct != "logit" or self.found is None:
            return {}
        return {self.rule.of: self.found}


def weighs_tasks(schema: Schema) -> bool:
    """Return whether a row's weight differs between tasks: a column a task, or a task whose sampling the loss makes up for."""
    return isinstance(schema.weight, dict) or (
        schema.negatives is not None and schema.negatives.correct == "logit"
    )


def row_weights(frame: pl.DataFrame, schema: Schema, read: Callable[[str], Array]) -> Array | None:
    """Return the sample weights: float32 [N], [N, T] where tasks differ, None where every row weighs 1.

    Args:
        frame: rows, with `RATE` where the schema has negatives. read: a column's name -> float32 [N] >= 0.
    """
    rate = None
    if schema.negatives is not None:
        rate = column_of(frame, RATE, "negatives").to_numpy()
    shared = schema.negatives is None or schema.negatives.correct == "weights"
    if weighs_tasks(schema):
        columns = [_weight(frame.height, schema, task, read) for task in schema.tasks]
        if rate is not None:
            drawn = [shared or task != schema.negatives.of for task in schema.tasks]  # type: ignore[union-attr]
            columns = [w / rate if yes else w for w, yes in zip(columns, drawn, strict=True)]
        return np.stack(columns, axis=1).astype(np.float32)
    base = read(schema.weight) if isinstance(schema.weight, str) else None
    if rate is None:
        return base
    return np.asarray((1.0 if base is None else base) / rate, np.float32)


def _weight(rows: int, schema: Schema, task: str, read: Callable[[str], Array]) -> Array:
    column = schema.weight.get(task) if isinstance(schema.weight, dict) else schema.weight
    return np.ones(rows, np.float32) if column is None else read(column)


def parse_weight(text: str | dict[str, str] | None) -> str | dict[str, str] | None:
    """Return the weight column, or {task: column} of `click=w1,like=w2`.

    Raises:
        ValueError: a mapping with a part that is no `task=column`.
    """
    if not isinstance(text, str) or "=" not in text:
        return text
    pairs = [part.partition("=") for part in text.split(",")]
    if bad := ["".join(pair) for pair in pairs if not (pair[0] and pair[2])]:
        raise ValueError(f"weight must be a column or task=column,task=column, got {bad[0]!r} in {text!r}")
    return {task: column for task, _, column in pairs}
