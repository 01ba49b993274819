"""Raw columns -> arrays: vocabularies and scaling from training rows only, then the same for every split."""

from __future__ import annotations

import math
import zlib
from typing import Any

import numpy as np
import polars as pl

from equipoise.data.counts import by_count
from equipoise.data.draw import uniform
from equipoise.data.features import Categorical, Multi, Numerical
from equipoise.data.label import Label
from equipoise.names import nearest

Array = np.ndarray[Any, Any]
LARGEST = 2**31 - 1
FLOAT32 = float(np.finfo(np.float32).max)
BLOCK = 2**14
"""Rows whose numbers are standardised together."""
CUT = 10.0
"""Standardised numbers are cut at +-CUT, so that one wild value of tomorrow cannot dominate a prediction."""


def column_of(frame: pl.DataFrame, name: str, what: str) -> pl.Series:
    """Return a column; ValueError with the nearest name when it is missing."""
    if name not in frame.columns:
        raise ValueError(f"{what}: column {name!r} is missing{nearest(name, frame.columns)}")
    return frame[name]


def as_text(series: pl.Series) -> pl.Series:
    """Return the values as text, null where missing (null, NaN).

    Whole floats lose their ".0" value by value, so that an id is the same text in every split and file.
    """
    if not series.dtype.is_float():
        return series.cast(pl.String)
    series = series.fill_nan(None)
    text = series.cast(pl.Float64).cast(pl.String)
    whole = ((series.round() == series) & (series.abs() < 2.0**63)).fill_null(False)
    return series.cast(pl.Int64, strict=False).cast(pl.String).zip_with(whole, text)


def plain(value: str | int | float) -> str:
    """Return a declared value as `as_text` writes it: "-1" for -1, -1.0, "-1" and "-1.0"."""
    try:
        number = float(value)
    except ValueError:
        return str(value)
    return str(int(number)) if number.is_integer() else str(value)


def vocabulary(
    counts: pl.DataFrame, feature: Categorical | Multi, kept: pl.DataFrame | None = None
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return ({value, count} of the values with an id, those without): most frequent first (ties by value), row i has id i + 1.

    Args:
        counts: {value, count}, each value once. kept: the vocabulary of days before, whose rows stay where they are; new values follow.

    Raises:
        ValueError: more ids than int32 holds.
    """
    old = counts.clear()
    if kept is not None and kept.height:
        before = kept.select(pl.col("value").cast(counts["value"].dtype))
        old = before.join(counts, on="value", how="left", maintain_order="left")
        old = old.with_columns(pl.col("count").fill_null(0))
        counts = counts.join(before, on="value", how="anti")
    enough = counts["count"] >= feature.min_count
    few, counts = counts.filter(~enough), counts.filter(enough)
    new = by_count(counts)
    del counts
    room = new.height if feature.max_size is None else max(0, feature.max_size - old.height)
    rare = pl.concat([new[room:], by_count(few)])
    found = pl.concat([old, new.head(room)]).with_columns(pl.col("count").cast(pl.Int64))
    if found.height >= LARGEST:
        raise ValueError(
            f"feature {feature.name!r} has {found.height} ids, more than int32 holds; raise min_count, or hash it (buckets)"
        )
    return found, rare


class Lookup:
    """Values -> int32 ids: their row in the vocabulary + 1 or their hash bucket, 0 for unseen and missing ones.

    Args:
        vocab: {value: integers or text, count}, or None with `buckets`. seed: 0 hashes by CRC-32 alone, any other by `draw.uniform`.
    """

    def __init__(self, vocab: pl.DataFrame | None, buckets: int | None, seed: int = 0) -> None:
        self.buckets, self.seed = buckets, seed
        self.known = None if vocab is None else vocab["value"]
        self.table: pl.DataFrame | None = None
        self.whole: tuple[Array, Array, Array | None] | None = None

    def ids(self, values: pl.Series) -> Array:
        """Return int32 [N]."""
        if self.buckets is None and values.dtype.is_integer():
            assert self.known is not None
            if self.known.dtype.is_integer() or values.dtype not in (pl.UInt64, pl.Int128, pl.UInt128):
                return self._of_integers(values)
        text = as_text(values)
        if self.buckets is not None:
            unique = text.drop_nulls().unique()
            if self.seed:
                codes = (np.floor(uniform(unique, self.seed) * self.buckets).astype(np.int64) + 1).tolist()
            else:
                codes = [zlib.crc32(v.encode()) % self.buckets + 1 for v in unique]
            table = pl.DataFrame({"value": unique, "id": pl.Series(codes, dtype=pl.Int32)})
        else:
            if self.table is None:
                assert self.known is not None
                ids = pl.int_range(1, len(self.known) + 1, dtype=pl.Int32, eager=True)
                self.table = pl.DataFrame({"value": self.known.cast(pl.String), "id": ids})
            table = self.table
        found = pl.DataFrame({"value": text}).join(table, on="value", how="left", maintain_order="left")
        return found["id"].fill_null(0).to_numpy().astype(np.int32, copy=False)

    def _of_integers(self, values: pl.Series) -> Array:
        """Look integers up among those of the vocabulary, by place or bisection: no text is made of every row."""
        if self.whole is None:
            self.whole = self._integers()
        sought, ids, first = self.whole
        dtype = pl.UInt64 if sought.dtype == np.uint64 else pl.Int64
        if values.dtype != dtype:
            values = values.cast(dtype, strict=False)  # what it does not hold is not in the vocabulary
        missing = values.is_null().to_numpy() if values.null_count() else None
        wanted = (values.fill_null(0) if missing is not None else values).to_numpy()
        if not len(sought):
            return np.zeros(len(wanted), np.int32)
        if first is not None:
            within = (wanted >= sought[0]) & (wanted <= sought[-1])
            found: Array = first[np.where(within, wanted, sought[0]) - sought[0]]
            found[~within] = 0
        else:
            at = np.minimum(np.searchsorted(sought, wanted), len(sought) - 1)
            found = np.where(sought[at] == wanted, ids[at], np.int32(0))
        if missing is not None:
            found[missing] = 0
        return found

    def _integers(self) -> tuple[Array, Array, Array | None]:
        """Return (integers of the vocabulary, ascending; their int32 ids; ids by value less the smallest, 0 for none, where they lie close)."""
        assert self.known is not None
        number, rows = self.known, pl.int_range(1, len(self.known) + 1, dtype=pl.Int32, eager=True)
        if not number.dtype.is_integer():
            number = number.cast(pl.Int64, strict=False)
            own = (number.cast(pl.String) == self.known).fill_null(False)  # "7", not "007"
            number, rows = number.filter(own), rows.filter(own)
        order = number.arg_sort()
        sought, ids = number.gather(order).to_numpy(), rows.gather(order).to_numpy()
        span = int(sought[-1]) - int(sought[0]) + 1 if len(sought) else 0
        if span > max(4 * len(sought), 2**16):
            return sought, ids, None
        first = np.zeros(span, np.int32)
        if span:
            first[sought - sought[0]] = ids
        return sought, ids, first


def numbers(series: pl.Series, feature: Numerical) -> Array:
    """Return float64 values after the transform, NaN where missing.

    Raises:
        ValueError: text that is no number, an infinite value, log1p of a value below -1.
    """
    try:
        values = series.cast(pl.Float64).to_numpy()  # null becomes NaN
    except (pl.exceptions.InvalidOperationError, pl.exceptions.ComputeError):
        raise ValueError(
            f"feature {feature.name!r} must hold numbers, got {series.dtype} such as {series.drop_nulls()[0]!r}; declare "
            "it categorical"
        ) from None
    with np.errstate(over="ignore", invalid="ignore"):
        suspect = not math.isfinite(values.sum())  # NaN, Inf or only large: a sum is the cheapest look
    if suspect and np.isinf(values).any():
        raise ValueError(
            f"feature {feature.name!r} must be finite, got Inf in {int(np.isinf(values).sum())} rows"
        )
    if feature.transform == "log1p":
        if (values <= -1).any():
            raise ValueError(
                f"feature {feature.name!r} has transform log1p and must be > -1, got {np.nanmin(values)}"
            )
        values = np.log1p(values)
    elif feature.transform == "signed_log1p":
        values = np.sign(values) * np.log1p(np.abs(values))
    return np.asarray(values)


def label_values(series: pl.Series, label: Label, first: int = 0) -> tuple[Array, Array]:
    """Return (float32 [N] with 0 where missing, bool [N] known); `first` is the number of the first row, for messages.

    Raises:
        ValueError: a binary label that is not 0/1, bool or declared by `positive`; a regression label that is no number
            or not finite.
    """
    known = series.is_not_null()
    if series.dtype.is_float():
        known &= series.is_not_nan().fill_null(False)
    if label.missing is not None and label.event_time is None:  # else it was missing in the event's time
        known &= (as_text(series) != plain(label.missing)).fill_null(False)
    if label.kind == "binary" and label.positive is not None:
        values = (as_text(series) == plain(label.positive)).fill_null(False).cast(pl.Float64)
    else:
        try:
            values = series.set(~known, None).cast(pl.Float64) if series.len() else series.cast(pl.Float64)
        except (pl.exceptions.InvalidOperationError, pl.exceptions.ComputeError):
            seen = series.drop_nulls().unique().head(3).to_list()
            raise ValueError(
                f"label {label.name!r} must be {'0 or 1' if label.kind == 'binary' else 'a number'}, got {series.dtype} "
                f"such as {seen}; declare positive=VALUE in the schema, or clean the column"
            ) from None
        if label.kind == "binary":
            strange = values.drop_nulls().filter(~values.drop_nulls().is_in([0.0, 1.0]))
            if strange.len():
                raise ValueError(
                    f"label {label.name!r} must be 0 or 1, got {strange[0]:g} in {strange.len()} rows; declare "
                    f"{label.name}:regression, positive=VALUE or missing=VALUE"
                )
    array = values.fill_null(0.0).fill_nan(0.0).to_numpy()
    if (largest := float(np.abs(array).max(initial=0.0))) > FLOAT32:
        raise ValueError(f"label {label.name!r} must be finite in float32 (below 3.4e38), got {largest:g}")
    if label.kind == "watch" and (array < 0).any():
        row = int((array < 0).argmax())
        raise ValueError(
            f"label {label.name!r} is a watch time and must be >= 0, got {array[row]:g} in column "
            f"{label.column or label.name!r}, row {first + row}; declare missing=VALUE, or clean the column"
        )
    if label.transform == "log1p" and (array[known.to_numpy()] <= -1).any():
        raise ValueError(f"label {label.name!r} has transform log1p and must be > -1, got {array.min():g}")
    keep = known.to_numpy()
    return np.where(keep, array, 0.0).astype(np.float32), keep


BUCKETS = 20
"""Duration buckets of d2q, of about the same number of training rows each."""


def check_classes(
    values: Array, known: Array, label: Label, levels: list[list[float]], split: str, first: int = 0
) -> None:
    """Raise ValueError for a label that is none of the classes of training."""
    there = np.array([level[0] for level in levels], np.float32)
    wrong = known & ~np.isin(values, there)
    if wrong.any():
        row = int(wrong.argmax())
        shown = ", ".join(f"{v:g}" for v in there[:10])
        raise ValueError(
            f"label {label.name!r} must be one of the classes of training ({shown}), got {values[row]:g} in row {first + row} of split "
            f"{split!r} and {int(wrong.sum()) - 1} more; declare missing=VALUE, or {label.name}:regression"
        )


def quantiles(times: Array, duration: Array) -> list[list[float]]:
    """Return [edges, quantiles of the first bucket, ...]: 101 quantiles of the time a duration bucket, from training rows.

    Args:
        times: float64 [N] known labels. duration: float32 [N] the standardised feature of the same rows; edges lie between its distinct
            quantiles, so there may be fewer than `BUCKETS` + 1.
    """
    if not len(times):
        return [[], [0.0] * 101]
    cut = np.unique(np.quantile(duration, np.arange(1, BUCKETS) / BUCKETS, method="lower"))
    edges = cut[cut < duration.max()]
    bucket = np.searchsorted(edges, duration, "left")  # as torch.bucketize has it
    rows = [np.quantile(times[bucket == b], np.linspace(0, 1, 101)).tolist() for b in range(len(edges) + 1)]
    return [edges.astype(np.float64).tolist(), *rows]


def check_duration(series: pl.Series, label: Label, known: Array, split: str, first: int = 0) -> None:
    """Raise ValueError unless the duration of a watch label is a finite number > 0 in every row whose label is known."""
    try:
        values = series.cast(pl.Float64).fill_null(math.nan).to_numpy()
    except (pl.exceptions.InvalidOperationError, pl.exceptions.ComputeError):
        raise ValueError(
            f"duration {label.duration!r} of label {label.name!r} must hold numbers, got {series.dtype}"
        ) from None
    wrong = known & ~((values > 0) & (values < math.inf))
    if wrong.any():
        row = int(wrong.argmax())
        came = "none" if math.isnan(values[row]) else f"{values[row]:g}"
        raise ValueError(
            f"duration {label.duration!r} of label {label.name!r} must be finite and > 0 where the label is known, got "
            f"{came} in row {first + row} of split {split!r} and {int(wrong.sum()) - 1} more; drop these rows or set their "
            "label to null"
        )


def _days(series: pl.Series) -> pl.Series | None:
    """Return milliseconds of integers that are all dates such as 20260131, None where they are not."""
    known = series.drop_nulls()
    if series.dtype.is_float() or not known.len() or not known.is_between(19000101, 21001231).all():
        return None
    days = series.cast(pl.String).str.to_date("%Y%m%d", strict=False)
    return days.cast(pl.Datetime("ms")).cast(pl.Int64) if days.null_count() == series.null_count() else None


def milliseconds(series: pl.Series) -> Array:
    """Return int64 milliseconds UTC: dates as they are, numbers by their size.

    Numbers are seconds below 1e11, milliseconds up to 1e14, microseconds up to 1e17, nanoseconds above; integers that are all dates such as
    20260131 are days.

    Raises:
        ValueError: a type or text that is no time, a missing time, texts such as 01/02/2026 whose day could be either number.
    """
    if series.dtype == pl.String:
        either = series.str.contains(r"^\s*(0?[1-9]|1[0-2])/(0?[1-9]|1[0-2])/\d{4}")
        if series.len() and either.all():
            raise ValueError(
                f"time must say which number is the day, got texts such as {series.drop_nulls()[0]!r} in which either could be; write dates as "
                "2026-01-31"
            )
        try:
            series = series.str.to_datetime(strict=False)
        except pl.exceptions.PolarsError:
            raise ValueError(
                f"time must be a date text such as 2026-01-31 or 2026-01-31 12:00:00, got {series.drop_nulls()[0]!r}"
            ) from None
    if series.dtype == pl.Date or isinstance(series.dtype, pl.Datetime):
        values = series.cast(pl.Datetime("ms")).cast(pl.Int64)
    elif series.dtype.is_numeric():
        wild = series.cast(pl.Float64).abs().max()
        if wild is not None and not float(wild) < 2.0**63:  # type: ignore[arg-type]
            raise ValueError(f"time must be seconds or milliseconds since 1970, got numbers up to {wild!r}")
        exact = series.fill_nan(None) if series.dtype.is_float() else series.cast(pl.Int64)
        largest = float(exact.cast(pl.Float64).abs().max() or 0)  # type: ignore[arg-type]
        if (days := _days(exact)) is not None:
            values = days
        elif largest < 1e11:
            values = (exact * 1000).cast(pl.Int64)
        else:
            values = exact.cast(pl.Int64) // (
                1 if largest <= 1e14 else 1000 if largest <= 1e17 else 1_000_000
            )
    else:
        raise ValueError(f"time must be a date, a date text or a number, got {series.dtype}")
    if values.null_count():
        raise ValueError(
            f"time must be known in every row, it is missing or unreadable in {values.null_count()}"
        )
    return values.to_numpy()
