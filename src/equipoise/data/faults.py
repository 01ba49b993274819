"""The first row of a chunk that breaks a rule of the schema, so that an error can name file, column and row."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import polars as pl

from equipoise.data.encode import check_duration, column_of, label_values, milliseconds, numbers
from equipoise.data.schema import Schema

Check = Callable[[pl.DataFrame], object]


def first_fault(chunk: pl.DataFrame, schema: Schema) -> tuple[ValueError, str, int] | None:
    """Return (what is wrong, column, row of the chunk) of the first column with a value that breaks a rule, None without one."""
    for column, check in _checks(schema):
        if column not in chunk.columns:
            continue
        try:
            check(chunk)
        except ValueError as error:
            return error, column, _first(chunk, check)
    return None


def _first(chunk: pl.DataFrame, check: Check) -> int:
    """Return the row that makes a check fail which rows 0 .. it - 1 pass, by bisection."""
    good, bad = 0, chunk.height
    while bad - good > 1:
        middle = (good + bad) // 2
        try:
            check(chunk[good:middle])
            good = middle
        except ValueError:
            bad = middle
    return good


def _checks(schema: Schema) -> Iterator[tuple[str, Check]]:
    for n in schema.numerical:
        name = n.column or n.name
        yield name, lambda rows, n=n, name=name: numbers(rows[name], n)  # type: ignore[misc]
    for y in schema.labels:
        if y.event_time is not None:
            continue  # made of another column, which says its own rows
        name = y.column or y.name
        yield name, lambda rows, y=y, name=name: label_values(rows[name], y)  # type: ignore[misc]
        if y.duration is not None:
            yield (
                y.duration,
                lambda rows, y=y, name=name: check_duration(  # type: ignore[misc]
                    column_of(rows, y.duration, "duration"), y, label_values(rows[name], y)[1], "of the table"
                ),
            )
    if schema.time is not None:
        yield schema.time, lambda rows: milliseconds(rows[schema.time or ""])
    for name in schema.weight_columns:
        yield name, lambda rows, name=name: _weights(rows[name])  # type: ignore[misc]
    rule = schema.negatives
    if rule is not None and rule.sampling_rate is not None:
        yield (
            rule.sampling_rate,
            lambda rows: _rates(rows[rule.sampling_rate or ""], rule.sampling_rate or ""),
        )


def _weights(values: pl.Series) -> None:
    if not values.dtype.is_numeric() or not bool((values.is_finite() & (values >= 0)).fill_null(False).all()):
        raise ValueError("weight must be finite and >= 0")


def _rates(values: pl.Series, name: str) -> None:
    if not values.dtype.is_numeric() or not bool(((values > 0) & (values <= 1)).fill_null(False).all()):
        raise ValueError(f"sampling_rate {name!r} must be a number in (0, 1] in every row")
