"""Raw columns -> arrays: vocabularies and scaling from training rows only, then the same for every split."""

from __future__ import annotations

import math
import zlib
from typing import Any

import numpy as np
import polars as pl

from equipoise.data.schema import Categorical, Label, Multi, Numerical, Schema
from equipoise.names import nearest

Array = np.ndarray[Any, Any]
LARGEST = 2**31 - 1
FLOAT32 = float(np.finfo(np.float32).max)
BLOCK = 2**16
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
    whole = ((series.round() == series) & (series.abs() < 2**53)).fill_null(False)
    return series.cast(pl.Int64, strict=False).cast(pl.String).zip_with(whole, text)


def plain(value: str | int | float) -> str:
    """Return a declared value as `as_text` writes it: "-1" for -1, -1.0, "-1" and "-1.0"."""
    try:
        number = float(value)
    except ValueError:
        return str(value)
    return str(int(number)) if number.is_integer() else str(value)


def pieces(series: pl.Series, feature: Multi) -> pl.Series:
    """Return a list-of-text column: lists as they are, text cut at the separator, empty pieces left out."""
    if series.dtype == pl.List:
        lists = series.cast(pl.List(pl.String))
    else:
        lists = series.cast(pl.String).str.split(feature.separator).list.eval(pl.element().str.strip_chars())
    return lists.fill_null([]).list.eval(
        pl.element().filter(pl.element().is_not_null() & (pl.element() != ""))
    )


def vocabulary(values: pl.Series, feature: Categorical | Multi) -> pl.DataFrame:
    """Return {value, count} of the kept values, most frequent first (ties by value); row i has id i + 1."""
    counts = values.drop_nulls().alias("value").value_counts(name="count")
    counts = counts.filter(pl.col("count") >= feature.min_count).sort(
        ["count", "value"], descending=[True, False]
    )
    kept = counts if feature.max_size is None else counts.head(feature.max_size)
    if kept.height >= LARGEST:
        raise ValueError(
            f"feature {feature.name!r} has {kept.height} ids, more than int32 holds; raise min_count"
        )
    return kept.with_columns(pl.col("count").cast(pl.Int64))


def to_ids(values: pl.Series, vocab: pl.DataFrame | None, buckets: int | None) -> Array:
    """Return int32 ids of text values: their row in the vocabulary or hash bucket, 0 for unseen and missing."""
    if buckets is not None:
        unique = values.drop_nulls().unique()
        codes = [zlib.crc32(v.encode()) % buckets + 1 for v in unique]
        vocab = pl.DataFrame({"value": unique, "id": pl.Series(codes, dtype=pl.Int32)})
    else:
        assert vocab is not None
        vocab = vocab.select("value", id=pl.int_range(1, pl.len() + 1, dtype=pl.Int32))
    found = pl.DataFrame({"value": values}).join(vocab, on="value", how="left", maintain_order="left")
    return found["id"].fill_null(0).to_numpy().astype(np.int32, copy=False)


def numbers(series: pl.Series, feature: Numerical) -> Array:
    """Return float64 values after the transform, NaN where missing.

    Raises:
        ValueError: text that is no number, an infinite value, log1p of a value below -1.
    """
    try:
        values = series.cast(pl.Float64).fill_null(math.nan).to_numpy()
    except pl.exceptions.InvalidOperationError:
        raise ValueError(
            f"feature {feature.name!r} must hold numbers, got {series.dtype} such as {series.drop_nulls()[0]!r}; declare "
            "it categorical"
        ) from None
    if np.isinf(values).any():
        raise ValueError(
            f"feature {feature.name!r} must be finite, got Inf in {int(np.isinf(values).sum())} rows"
        )
    if feature.transform == "log1p":
        if (values <= -1).any():
            raise ValueError(
                f"feature {feature.name!r} has transform log1p and must be > -1, got {np.nanmin(values)}"
            )
        values = np.log1p(values)
    return np.asarray(values)


def label_values(series: pl.Series, label: Label) -> tuple[Array, Array]:
    """Return (float32 [N] with 0 where missing, bool [N] known).

    Raises:
        ValueError: a binary label that is not 0/1, bool or declared by `positive`; a regression label that is no number
            or not finite.
    """
    known = series.is_not_null()
    if series.dtype.is_float():
        known &= series.is_not_nan().fill_null(False)
    if label.missing is not None:
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
        raise ValueError(
            f"label {label.name!r} is a watch time and must be >= 0, got {array.min():g} in column "
            f"{label.column or label.name!r}, row {int((array < 0).argmax())}; declare missing=VALUE, or clean the column"
        )
    if label.transform == "log1p" and (array[known.to_numpy()] <= -1).any():
        raise ValueError(f"label {label.name!r} has transform log1p and must be > -1, got {array.min():g}")
    keep = known.to_numpy()
    return np.where(keep, array, 0.0).astype(np.float32), keep


MAX_CLASSES = 100
BUCKETS = 20
"""Duration buckets of d2q, of about the same number of training rows each."""


def classes(train: pl.DataFrame, label: Label) -> list[list[float]]:
    """Return [[class, share of known training rows at or below it], ...] of an ordinal label, ascending.

    Raises:
        ValueError: fewer than two classes in training, or more than `MAX_CLASSES`.
    """
    values, known = label_values(column_of(train, label.column or label.name, f"label {label.name!r}"), label)
    found, counts = np.unique(values[known].astype(np.float64), return_counts=True)
    if not 2 <= len(found) <= MAX_CLASSES:
        raise ValueError(
            f"label {label.name!r} is ordinal and must have 2 to {MAX_CLASSES} classes in training, got {len(found)}; declare "
            f"{label.name}:regression"
        )
    return np.stack([found, np.cumsum(counts) / counts.sum()], axis=1).tolist()  # type: ignore[no-any-return]


def check_classes(values: Array, known: Array, label: Label, levels: list[list[float]], split: str) -> None:
    """Raise ValueError for a label that is none of the classes of training."""
    there = np.array([level[0] for level in levels], np.float32)
    wrong = known & ~np.isin(values, there)
    if wrong.any():
        row = int(wrong.argmax())
        shown = ", ".join(f"{v:g}" for v in there[:10])
        raise ValueError(
            f"label {label.name!r} must be one of the classes of training ({shown}), got {values[row]:g} in row {row} of split "
            f"{split!r} and {int(wrong.sum()) - 1} more; declare missing=VALUE, or {label.name}:regression"
        )


def quantiles(train: pl.DataFrame, label: Label, duration: Array) -> list[list[float]]:
    """Return [edges, quantiles of the first bucket, ...]: 101 quantiles of the time a duration bucket, from training rows.

    Args:
        duration: [N] the standardised feature; edges lie between its distinct quantiles, so there may be fewer than `BUCKETS` + 1.
    """
    values, known = label_values(column_of(train, label.column or label.name, f"label {label.name!r}"), label)
    inside, times = duration[known].astype(np.float32), values[known].astype(np.float64)
    if not len(times):
        return [[], [0.0] * 101]
    cut = np.unique(np.quantile(inside, np.arange(1, BUCKETS) / BUCKETS, method="lower"))
    edges = cut[cut < inside.max()]
    bucket = np.searchsorted(edges, inside, "left")  # as torch.bucketize has it
    rows = [np.quantile(times[bucket == b], np.linspace(0, 1, 101)).tolist() for b in range(len(edges) + 1)]
    return [edges.astype(np.float64).tolist(), *rows]


def check_duration(series: pl.Series, label: Label, known: Array, split: str) -> None:
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
            f"{came} in row {row} of split {split!r} and {int(wrong.sum()) - 1} more; drop these rows or set their "
            "label to null"
        )


def milliseconds(series: pl.Series) -> Array:
    """Return int64 milliseconds UTC: dates as they are, numbers as seconds below 1e11 and milliseconds above.

    Raises:
        ValueError: a type or text that is no time, a missing time.
    """
    if series.dtype == pl.String:
        try:
            series = series.str.to_datetime(strict=False)
        except pl.exceptions.PolarsError:
            raise ValueError(
                f"time must be a date text such as 2026-01-31 or 2026-01-31 12:00:00, got {series.drop_nulls()[0]!r}"
            ) from None
    if series.dtype == pl.Date or isinstance(series.dtype, pl.Datetime):
        values = series.cast(pl.Datetime("ms")).cast(pl.Int64)
    elif series.dtype.is_numeric():
        exact = series.fill_nan(None) if series.dtype.is_float() else series.cast(pl.Int64)
        largest = float(exact.cast(pl.Float64).abs().max() or 0)  # type: ignore[arg-type]
        values = (exact * 1000 if largest < 1e11 else exact).cast(pl.Int64)
    else:
        raise ValueError(f"time must be a date, a date text or a number, got {series.dtype}")
    if values.null_count():
        raise ValueError(
            f"time must be known in every row, it is missing or unreadable in {values.null_count()}"
        )
    return values.to_numpy()


class Encoder:
    """Vocabularies, scaling and group codes learned from training rows."""

    def __init__(self, schema: Schema, train: pl.DataFrame) -> None:
        self.schema = schema
        self.vocab: dict[str, pl.DataFrame] = {}
        self.scaling: dict[str, tuple[float, float]] = {}
        self.notes: dict[str, Any] = {"missing_numbers": {}, "unseen": {}, "against_funnel": {}}
        for f in schema.categorical:
            text = as_text(column_of(train, f.column or f.name, f"feature {f.name!r}"))
            if f.buckets is None:
                self.vocab[f.name] = vocabulary(text, f)
        for m in schema.multi:
            lists = pieces(column_of(train, m.column or m.name, f"feature {m.name!r}"), m)
            self.vocab[m.name] = vocabulary(lists.explode(), m)
        for n in schema.numerical:
            values = numbers(column_of(train, n.column or n.name, f"feature {n.name!r}"), n)
            known = values[~np.isnan(values)]
            with np.errstate(over="ignore", invalid="ignore"):
                mean, std = (float(known.mean()), float(known.std())) if len(known) else (0.0, 1.0)
            if not math.isfinite(std):
                raise ValueError(
                    f"feature {n.name!r} is too large to standardise, up to {np.abs(known).max():g}; use transform log1p"
                )
            self.scaling[n.name] = (mean, std if std > 0 else 1.0)

        scaled = [y for y in schema.labels if y.kind in ("regression", "watch") and y.way != "d2q"]
        self.label_scale = {y.name: self._scale(train, y) for y in scaled}
        self.label_levels = {y.name: classes(train, y) for y in schema.labels if y.kind == "ordinal"}
        for label in schema.labels:
            if label.way == "d2q":
                at = [f.column or f.name for f in schema.numerical].index(str(label.duration))
                self.label_levels[label.name] = quantiles(train, label, self._dense(train)[0][:, at])

    @staticmethod
    def _scale(train: pl.DataFrame, label: Label) -> tuple[float, float]:
        """Return mean and standard deviation of a regression label after its transform, (0, 1) without a label.

        Of a watch label 0 and its mean (1 where that is 0): its loss needs times >= 0, so they are not centred.
        """
        values, known = label_values(
            column_of(train, label.column or label.name, f"label {label.name!r}"), label
        )
        seen = values[known].astype(np.float64)
        if label.kind == "watch":
            return (0.0, (float(seen.mean()) if len(seen) else 0.0) or 1.0)
        seen = np.log1p(seen) if label.transform == "log1p" else seen
        std = float(seen.std()) if len(seen) else 1.0
        return (float(seen.mean()) if len(seen) else 0.0, std if std > 0 else 1.0)

    @property
    def num_ids(self) -> dict[str, int]:
        """Rows of each feature's table, the unseen row 0 included."""
        sizes = {name: vocab.height + 1 for name, vocab in self.vocab.items()}
        return sizes | {f.name: f.buckets + 1 for f in self.schema.categorical if f.buckets is not None}

    def encode(self, frame: pl.DataFrame, split: str) -> dict[str, Array]:
        """Return the split's arrays by name; ValueErrors as the functions above say."""
        schema, n = self.schema, frame.height
        ids = np.zeros((n, len(schema.categorical)), np.int32)
        for at, f in enumerate(schema.categorical):
            text = as_text(column_of(frame, f.column or f.name, f"feature {f.name!r}"))
            ids[:, at] = to_ids(text, self.vocab.get(f.name), f.buckets)
        dense, missing = self._dense(frame)
        arrays: dict[str, Array] = {"ids": ids, "numerical": dense, "row": np.arange(n, dtype=np.int64)}
        for m in schema.multi:
            lists = pieces(column_of(frame, m.column or m.name, f"feature {m.name!r}"), m)
            lengths = lists.list.len().to_numpy().astype(np.int64)
            flat = lists.filter(pl.Series(lengths > 0)).explode()
            arrays[f"{m.name}.values"] = (
                to_ids(flat, self.vocab[m.name], None) if len(flat) else np.zeros(0, np.int32)
            )
            arrays[f"{m.name}.offsets"] = np.concatenate([[0], np.cumsum(lengths)])
        pairs = [
            label_values(column_of(frame, y.column or y.name, f"label {y.name!r}"), y) for y in schema.labels
        ]
        for label, (values, known) in zip(schema.labels, pairs, strict=True):
            if label.kind == "ordinal":
                check_classes(values, known, label, self.label_levels[label.name], split)
            if label.duration is not None:
                check_duration(column_of(frame, label.duration, f"label {label.name!r}"), label, known, split)
        arrays["labels"] = np.stack([values for values, _ in pairs], axis=1)
        valid = np.stack([known for _, known in pairs], axis=0)
        arrays["valid"] = np.packbits(valid, axis=1)
        if schema.weight is not None:
            raw = column_of(frame, schema.weight, "weight")
            if not raw.dtype.is_numeric():
                raise ValueError(f"weight {schema.weight!r} must be a number, got {raw.dtype}")
            weight = raw.cast(pl.Float64).fill_null(math.nan).to_numpy()
            if not ((weight >= 0) & (weight <= FLOAT32)).all():
                raise ValueError(f"weight {schema.weight!r} must be finite and >= 0 in every row")
            arrays["weight"] = weight.astype(np.float32)
        if schema.time is not None:
            arrays["time"] = milliseconds(column_of(frame, schema.time, "time"))
        self._note(split, arrays, valid, missing)
        return arrays

    def _dense(self, frame: pl.DataFrame) -> tuple[Array, dict[str, int]]:
        """Return float32 [N, D] standardised numbers and the count of missing ones by feature, where there are any.

        In blocks of rows: a column of the whole result is a write to every one of its cache lines.
        """
        schema = self.schema
        dense = np.zeros((frame.height, len(schema.numerical)), np.float32)
        columns = [column_of(frame, d.column or d.name, f"feature {d.name!r}") for d in schema.numerical]
        missing: dict[str, int] = {}
        for start in range(0, frame.height, BLOCK):
            for at, (column, d) in enumerate(zip(columns, schema.numerical, strict=True)):
                try:
                    values = numbers(column[start : start + BLOCK], d)
                except ValueError:
                    numbers(column, d)  # says how many rows of all
                    raise
                mean, std = self.scaling[d.name]
                if count := int(np.isnan(values).sum()):
                    missing[d.name] = missing.get(d.name, 0) + count
                block = np.nan_to_num(np.clip((values - mean) / std, -CUT, CUT), nan=0.0)
                dense[start : start + BLOCK, at] = block
        return dense, missing

    def remarks(self) -> list[str]:
        """Return a line for each feature with missing numbers and each funnel that rows contradict, over all splits."""
        lines = []
        for name in [n.name for n in self.schema.numerical]:
            if total := sum(counts.get(name, 0) for counts in self.notes["missing_numbers"].values()):
                lines.append(f"{name}: missing (null or NaN) in {total} rows, read as the training mean")
        for label in self.schema.labels:
            if total := sum(counts.get(label.name, 0) for counts in self.notes["against_funnel"].values()):
                lines.append(
                    f"{label.name}: positive in {total} rows where {label.given!r} is 0, against given"
                )
        return lines

    def _note(self, split: str, arrays: dict[str, Array], valid: Array, missing: dict[str, int]) -> None:
        self.notes["missing_numbers"][split] = missing
        self.notes["unseen"][split] = {
            f.name: float((arrays["ids"][:, at] == 0).mean()) for at, f in enumerate(self.schema.categorical)
        }
        tasks, labels = self.schema.tasks, arrays["labels"]
        self.notes["against_funnel"][split] = {
            y.name: int(((labels[:, t] > 0) & valid[t] & valid[g] & (labels[:, g] == 0)).sum())
            for t, y in enumerate(self.schema.labels)
            if y.given is not None and (g := tasks.index(y.given)) >= 0
        }
