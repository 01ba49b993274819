"""Numbers cut at quantiles, lists with weights: the encoders beside vocabularies and scaling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from equipoise.data.draw import uniform
from equipoise.data.encode import FLOAT32, as_text, column_of
from equipoise.data.features import Categorical, Multi

Array = np.ndarray[Any, Any]
SAMPLE = 1_000_000
"""Training values that quantiles are learned from, at most."""


class Sample:
    """At most `SAMPLE` numbers of a column: those of the rows with the smallest draws, whatever the chunks they came in.

    Args:
        size: numbers to keep. seed: of the draw, which depends on the row's number in the stream alone.
    """

    def __init__(self, size: int | None = None, seed: int = 0) -> None:
        self.size, self.seed = SAMPLE if size is None else size, seed
        self.rows, self.highest = 0, 1.0
        self.held: list[tuple[Array, Array]] = []

    def add(self, values: Array) -> None:
        """Add the next rows' numbers, NaN where missing."""
        draws = uniform(np.arange(self.rows, self.rows + len(values)), self.seed)
        self.rows += len(values)
        keep = (draws < self.highest) & ~np.isnan(values)
        self.held.append((draws[keep], values[keep]))
        if sum(len(part) for part, _ in self.held) > 2 * self.size:
            self._cut()

    def _cut(self) -> None:
        draws, values = (np.concatenate(each) for each in zip(*self.held, strict=True))
        if len(draws) > self.size:
            order = np.argsort(draws, kind="stable")
            self.highest = float(draws[order[self.size]])
            draws, values = draws[order[: self.size]], values[order[: self.size]]
        self.held = [(draws, values)]

    def edges(self, quantiles: int) -> list[float]:
        """Return the ascending inner edges, at most `quantiles` - 1: fewer where values repeat, none without a value.

        Each is a value of the sample, and no edge is the largest one: every interval holds a value.
        """
        if not self.held:
            return []
        self._cut()
        values = self.held[0][1]
        if not len(values):
            return []
        cut = np.unique(np.quantile(values, np.arange(1, quantiles) / quantiles, method="lower"))
        return [float(edge) for edge in cut[cut < values.max()]]


def quantile_values(series: pl.Series, feature: Categorical, first: int = 0) -> Array:
    """Return float64 [N] numbers of a column to be cut, NaN where missing; `first` is the number of the first row, for messages.

    Raises:
        ValueError: text that is no number, an infinite value.
    """
    try:
        values = series.cast(pl.Float64).fill_null(math.nan).to_numpy()
    except (pl.exceptions.InvalidOperationError, pl.exceptions.ComputeError):
        raise ValueError(
            f"feature {feature.name!r} has quantiles={feature.quantiles} and must hold numbers, got {series.dtype}; leave "
            "quantiles out to keep a vocabulary of its values"
        ) from None
    if np.isinf(values).any():
        row = first + int(np.isinf(values).argmax())
        raise ValueError(
            f"feature {feature.name!r} must be finite, got {values[row]} in {int(np.isinf(values).sum())} rows, first in row {row}"
        )
    return np.asarray(values)


def quantile_ids(values: Array, edges: Sequence[float]) -> Array:
    """Return int32 [N]: 1 + the number of edges below the value, so an edge belongs to the interval that it ends; NaN is 0."""
    ids = np.searchsorted(np.asarray(edges, np.float64), values, side="left") + 1
    return np.where(np.isnan(values), 0, ids).astype(np.int32)


def intervals(edges: Sequence[float]) -> pl.Series:
    """Return the text of each id's interval, row i of id i + 1: "(-inf, 2.5]", "(2.5, 7]", "(7, inf)"."""
    ends = [f"{edge!r}".removesuffix(".0") for edge in edges]
    lows, highs = ["-inf", *ends], [f"{end}]" for end in ends] + ["inf)"]
    return pl.Series("value", [f"({low}, {high}" for low, high in zip(lows, highs, strict=True)])


@dataclass(frozen=True)
class Lists:
    """The ids of a multi-valued column: row b has `values[offsets[b]:offsets[b + 1]]`.

    Attributes:
        values: text or whole numbers [nnz], none missing. offsets: int64 [B + 1]. weights: float32 [nnz] or None.
        cut: rows that had more than `max_length`.
    """

    values: pl.Series
    offsets: Array
    weights: Array | None
    cut: int


def lists_of(frame: pl.DataFrame, feature: Multi, first: int = 0) -> Lists:
    """Return the ids, and weights, of a multi-valued feature; missing and empty ids are left out, with their weights.

    `first` is the number of the first row in its split, for messages.

    Raises:
        ValueError: another number of weights than ids in a row, a weight that is no finite number >= 0 (the row is named).
    """
    what = f"feature {feature.name!r}"
    series = column_of(frame, feature.column or feature.name, what)
    flat, rows, lengths = _flat(series, feature.separator, what)
    weights: Array | None = None
    if feature.weights is not None:
        column = column_of(frame, feature.weights, f"weights of {what}")
        given, _, counts = _flat(column, feature.separator, f"weights of {what}", kept=True)
        if (wrong := counts != lengths).any():
            row = int(wrong.argmax())
            raise ValueError(
                f"weights {feature.weights!r} of {what} must be as many as its ids in every row, got {counts[row]} for "
                f"{lengths[row]} ids in row {first + row}"
            )
        weights = _weights(given, _there(flat), rows + first, feature)
    elif feature.weight_separator is not None:
        flat, given = _parted(flat, rows + first, feature)
        weights = _weights(given, _there(flat), rows + first, feature)
    keep = _there(flat)
    count = np.bincount(rows[keep], minlength=frame.height)
    cut = 0
    if feature.max_length is not None:
        ends = np.cumsum(count)
        place = np.cumsum(keep) - 1  # among the ids kept, of each id kept
        keep &= ends[rows] - place <= feature.max_length
        cut = int((count > feature.max_length).sum())
        count = np.minimum(count, feature.max_length)
    offsets = np.concatenate([[0], np.cumsum(count)]).astype(np.int64)
    values = flat if keep.all() else flat.filter(pl.Series(keep))
    return Lists(values, offsets, None if weights is None else weights[keep], cut)


def _flat(series: pl.Series, separator: str, what: str, kept: bool = False) -> tuple[pl.Series, Array, Array]:
    """Return (values of all rows one after the other, the row of each, how many each row has); numbers as text unless `kept`."""
    if isinstance(series.dtype, pl.Array):
        series = series.arr.to_list()
    if isinstance(series.dtype, pl.List):
        if isinstance(series.dtype.inner, (pl.List, pl.Array, pl.Struct)):
            raise ValueError(f"{what} must be lists of plain values or text, got {series.dtype}")
        lists, text = series, False
    else:
        lists, text = plain_text(series, what).str.split(separator), True
    lengths = lists.list.len().fill_null(0).to_numpy().astype(np.int64)
    flat = lists.filter(pl.Series(lengths > 0, dtype=pl.Boolean)).explode()
    if text:
        flat = flat.cast(pl.String).str.strip_chars()
    elif not (flat.dtype.is_integer() or (kept and flat.dtype.is_numeric())):
        flat = plain_text(flat, what)
    return flat, np.repeat(np.arange(len(lengths)), lengths), lengths


def plain_text(series: pl.Series, what: str) -> pl.Series:
    """Return a column as text (`encode.as_text`); ValueError for a type that has none: structs, lists, bytes that are no UTF-8."""
    try:
        if isinstance(series.dtype, (pl.List, pl.Array, pl.Struct, pl.Object)):
            raise ValueError(
                f"{what} must hold plain values, got {series.dtype}; give it kind multi, or cut it up"
            )
        return as_text(series)
    except pl.exceptions.PolarsError as error:
        raise ValueError(
            f"{what} must hold values that can be written as text, got {series.dtype}: {str(error).splitlines()[0]}"
        ) from None


def _there(flat: pl.Series) -> Array:
    there = flat.is_not_null()
    if flat.dtype == pl.String:
        there &= (flat != "").fill_null(False)
    return there.to_numpy().copy()


def _parted(flat: pl.Series, rows: Array, feature: Multi) -> tuple[pl.Series, pl.Series]:
    """Return (ids, weights as text) of "id:weight" pieces, cut at the last separator."""
    mark = feature.weight_separator or ""
    texts = flat.cast(pl.String).to_list()
    parts = [(text or "").rpartition(mark) for text in texts]
    for at, (text, (before, found, _)) in enumerate(zip(texts, parts, strict=True)):
        if text and not (found and before):
            raise ValueError(
                f"feature {feature.name!r} must hold id{mark}weight pieces, got {text!r} in row {rows[at]}; leave weight_separator "
                "out for ids alone"
            )
    ids, weights = ([part[i].strip() for part in parts] for i in (0, 2))
    return pl.Series("value", ids, dtype=pl.String), pl.Series("weight", weights, dtype=pl.String)


def _weights(given: pl.Series, there: Array, rows: Array, feature: Multi) -> Array:
    """Return float32 [nnz] weights, 0 where there is no id."""
    values = given.cast(pl.Float64, strict=False).fill_null(math.nan).to_numpy()
    wrong = there & ~((values >= 0) & (values <= FLOAT32))
    if wrong.any():
        at = int(wrong.argmax())
        raise ValueError(
            f"weights of feature {feature.name!r} must be finite numbers >= 0, got {given[at]!r} in row {rows[at]}"
        )
    return np.where(there, values, 0.0).astype(np.float32)
