"""What is learned from training rows, a chunk at a time, and the encoding of every row by it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import polars as pl

from equipoise.data.counts import Counts, countable
from equipoise.data.encode import (
    BLOCK,
    CUT,
    FLOAT32,
    Lookup,
    check_classes,
    check_duration,
    column_of,
    label_values,
    milliseconds,
    numbers,
    quantiles,
    vocabulary,
)
from equipoise.data.encoders import Sample, lists_of, plain_text, quantile_ids, quantile_values
from equipoise.data.features import Categorical, Multi, Numerical
from equipoise.data.sampling import row_weights
from equipoise.data.schema import Schema
from equipoise.data.seen import seen_array
from equipoise.data.sharing import table_of

Array = np.ndarray[Any, Any]
MAX_CLASSES = 100
TURN = 2**11
"""Rows of numbers that are turned together: they fit a core's cache."""
Chunks = Callable[[], Iterable[pl.DataFrame]]
"""The training rows, in chunks, from the start at each call."""


class Spread:
    """Mean and standard deviation over chunks; of one chunk exactly numpy's (Chan, Golub, LeVeque 1983)."""

    def __init__(self) -> None:
        self.parts: list[tuple[int, float, float]] = []
        self.largest = 0.0

    def add(self, values: Array) -> None:
        """Add numbers, none of them NaN."""
        if len(values):
            with np.errstate(over="ignore", invalid="ignore"):
                mean = values.mean()
                off = values - mean
                std = np.sqrt(np.multiply(off, off, out=off).mean())
                self.parts.append((len(values), float(mean), float(std)))
            self.largest = max(self.largest, float(values.max()), -float(values.min()))

    def found(self, otherwise: tuple[float, float]) -> tuple[float, float]:
        """Return (mean, standard deviation), `otherwise` without a number."""
        if len(self.parts) < 2:
            return self.parts[0][1:] if self.parts else otherwise
        n = np.array([part[0] for part in self.parts], np.float64)
        mean, std = (np.array([part[i] for part in self.parts]) for i in (1, 2))
        with np.errstate(over="ignore", invalid="ignore"):
            middle = float((n * mean).sum() / n.sum())
            return middle, math.sqrt(float((n * (std**2 + (mean - middle) ** 2)).sum() / n.sum()))


class Encoder:
    """Vocabularies, scaling and label statistics of training rows, and the arrays that they make of any rows.

    Attributes:
        vocab: {table: {value: integers or text, count}}, row i has id i + 1; a feature's table is `sharing.table_of`, its own name by default. rare:
            {table: {value, count}} of those that have no id, kept so that tomorrow's counts go on. edges: {feature cut at
            quantiles: inner edges}. scaling: {numerical: (mean, standard deviation)}. label_scale, label_levels: see `Schema`.
        notes: counts of what was met, by split: see `note`.
    """

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.vocab: dict[str, pl.DataFrame] = {}
        self.rare: dict[str, pl.DataFrame] = {}
        self.scaling: dict[str, tuple[float, float]] = {}
        self.edges: dict[str, list[float]] = {}
        self.label_scale: dict[str, tuple[float, float]] = {}
        self.label_levels: dict[str, list[list[float]]] = {}
        self._lookups: dict[str, Lookup] = {}
        self._seen: dict[str, dict[str, Any]] = {}
        self._cut: dict[str, int] = {}

    @classmethod
    def fit(cls, schema: Schema, train: Chunks, known: Mapping[str, pl.DataFrame] | None = None) -> Encoder:
        """Return the encoder of training rows.

        Args:
            known: {table or feature: {value, count}} of days before, added to the counts; of features of one table, the first one's.

        Raises:
            ValueError: as the functions of `encode.py` say, without a position where a chunk cannot know it.
        """
        self = cls(schema)
        counts: dict[str, Counts] = {}
        kept = [n.name for n in schema.numerical if n.scale == "none"]
        spreads = {n.name: Spread() for n in schema.numerical}
        scales = {
            y.name: Spread() for y in schema.labels if y.kind in ("regression", "watch") and not y.by_quantile
        }
        levels: dict[str, dict[float, int]] = {y.name: {} for y in schema.labels if y.kind == "ordinal"}
        ranked = [y for y in schema.labels if y.by_quantile]
        pairs: dict[str, list[tuple[Array, Array]]] = {y.name: [] for y in ranked}
        samples = {f.name: Sample() for f in schema.categorical if f.quantiles is not None}
        owner = {f.name: table_of(f) for f in schema.with_table}
        for name, table in (known or {}).items():
            if owner.get(name, name) not in counts:  # features of one table bring the same values
                counts.setdefault(owner.get(name, name), Counts()).add(table)
        first = 0
        for chunk in train():
            self._count(chunk, counts, first)
            for f in schema.categorical:
                if f.name in samples:
                    samples[f.name].add(quantile_values(_of(chunk, f), f, first))
            first += chunk.height
            for n in schema.numerical:
                values = numbers(_of(chunk, n), n)
                missing = np.isnan(values)
                spreads[n.name].add(values[~missing] if missing.any() else values)
            for label in schema.labels:
                if label.kind == "binary":
                    continue
                column = column_of(chunk, label.column or label.name, f"label {label.name!r}")
                answers, there = label_values(column, label)
                seen = answers[there].astype(np.float64)
                if label.name in scales:
                    scales[label.name].add(np.log1p(seen) if label.transform == "log1p" else seen)
                elif label.name in levels:
                    for value, count in zip(*np.unique(seen, return_counts=True), strict=True):
                        held = levels[label.name]
                        held[float(value)] = held.get(float(value), 0) + int(count)
                elif label.duration is None:
                    pairs[label.name].append((np.zeros(len(seen)), seen))
                else:
                    feature = next(f for f in schema.numerical if (f.column or f.name) == label.duration)
                    pairs[label.name].append((numbers(_of(chunk, feature), feature)[there], seen))
        for keyed in schema.with_table:
            if (key := table_of(keyed)) in counts:
                self.vocab[key], self.rare[key] = vocabulary(counts.pop(key).total(), keyed)
        for f in schema.categorical:
            if f.name in samples:
                self.edges[f.name] = samples[f.name].edges(f.quantiles or 0)
        for name, spread in spreads.items():
            if name in kept:
                if spread.largest > FLOAT32:
                    raise ValueError(
                        f"feature {name!r} has scale none and must fit float32, got {spread.largest:g}"
                    )
                self.scaling[name] = (0.0, 1.0)
                continue
            mean, std = spread.found((0.0, 1.0))
            if not math.isfinite(std):
                raise ValueError(
                    f"feature {name!r} is too large to standardise, up to {spread.largest:g}; use transform log1p"
                )
            self.scaling[name] = (mean, std if std > 0 else 1.0)
        for name, spread in scales.items():
            mean, std = spread.found((0.0, 1.0))
            # a watch label is not centred: its loss needs times >= 0
            watch = schema.label(name).kind == "watch"
            self.label_scale[name] = (0.0, mean or 1.0) if watch else (mean, std if std > 0 else 1.0)
        self.label_levels = {name: _classes(name, held) for name, held in levels.items()}
        for label in ranked:
            durations, times = (
                np.concatenate([p[i] for p in pairs[label.name]] or [np.zeros(0)]) for i in (0, 1)
            )
            if label.duration is not None:
                feature = next(f for f in schema.numerical if (f.column or f.name) == label.duration)
                durations = self._standard(durations, feature)
            self.label_levels[label.name] = quantiles(times, durations)
        return self

    def _count(self, chunk: pl.DataFrame, counts: dict[str, Counts], first: int) -> None:
        for f in self.schema.categorical:
            if f.buckets is None and f.quantiles is None:
                column = _of(chunk, f)
                text = column if column.dtype.is_integer() else plain_text(column, f"feature {f.name!r}")
                counts.setdefault(table_of(f), Counts()).add(_counted(text))
        for m in self.schema.multi:
            counts.setdefault(table_of(m), Counts()).add(_counted(lists_of(chunk, m, first).values))

    @property
    def num_ids(self) -> dict[str, int]:
        """Rows of each feature's table, the unseen row 0 included."""
        sizes = {}
        for f in self.schema.with_table:
            fixed = (f.buckets or f.quantiles) if isinstance(f, Categorical) else None
            if fixed is not None or table_of(f) in self.vocab:
                sizes[f.name] = 1 + (self.vocab[table_of(f)].height if fixed is None else fixed)
        return sizes

    def encode(self, frame: pl.DataFrame, split: str) -> dict[str, Array]:
        """Return the arrays of a split's next rows; ValueErrors as the functions of `encode.py` say."""
        schema, n = self.schema, frame.height
        first = self._seen.get(split, {}).get("rows", 0)
        ids = np.zeros((n, len(schema.categorical)), np.int32)
        for at, f in enumerate(schema.categorical):
            ids[:, at] = self._ids(_of(frame, f), f, first)
        dense, missing = self._dense(frame)
        arrays: dict[str, Array] = {"ids": ids, "numerical": dense}
        arrays["row"] = first + np.arange(n, dtype=np.int64)
        for m in schema.multi:
            lists = lists_of(frame, m, first)
            some = len(lists.values) > 0
            arrays[f"{m.name}.values"] = self._lookup(m).ids(lists.values) if some else np.zeros(0, np.int32)
            arrays[f"{m.name}.offsets"] = lists.offsets
            if lists.weights is not None:
                arrays[f"{m.name}.weights"] = lists.weights
            self._cut[m.name] = self._cut.get(m.name, 0) + lists.cut
        found = []
        for label in schema.labels:
            values, known = label_values(
                column_of(frame, label.column or label.name, f"label {label.name!r}"), label, first
            )
            if label.kind == "ordinal":
                check_classes(values, known, label, self.label_levels[label.name], split, first)
            if label.duration is not None:
                duration = column_of(frame, label.duration, f"label {label.name!r}")
                check_duration(duration, label, known, split, first)
            found.append((values, known))
        arrays["labels"] = np.stack([values for values, _ in found], axis=1)
        arrays["valid"] = np.stack([known for _, known in found], axis=0)
        weight = row_weights(frame, schema, lambda name: _weight(column_of(frame, name, "weight"), name))
        if weight is not None:
            arrays["weight"] = weight
        if (seen := seen_array(frame, schema)) is not None:
            arrays["seen"] = seen
        if schema.time is not None:
            arrays["time"] = milliseconds(column_of(frame, schema.time, "time"))
        self._note(split, arrays, missing)
        return arrays

    def _lookup(self, feature: Categorical | Multi) -> Lookup:
        key = table_of(feature)
        if key not in self._lookups:
            buckets, seed = (feature.buckets, feature.seed) if isinstance(feature, Categorical) else (None, 0)
            self._lookups[key] = Lookup(self.vocab.get(key), buckets, seed)
        return self._lookups[key]

    def _ids(self, column: pl.Series, feature: Categorical, first: int) -> Array:
        if feature.quantiles is not None:
            return quantile_ids(quantile_values(column, feature, first), self.edges[feature.name])
        text = column if column.dtype.is_integer() else plain_text(column, f"feature {feature.name!r}")
        return self._lookup(feature).ids(text)

    def _standard(self, values: Array, feature: Numerical) -> Array:
        if feature.scale == "none":
            if (largest := float(np.nanmax(np.abs(values), initial=0.0))) > FLOAT32:
                raise ValueError(
                    f"feature {feature.name!r} has scale none and must fit float32, got {largest:g}"
                )
            return np.nan_to_num(values, nan=0.0).astype(np.float32)
        mean, std = self.scaling[feature.name]
        scaled = values - mean
        np.divide(scaled, std, out=scaled)
        np.clip(scaled, -CUT, CUT, out=scaled)
        found = scaled.astype(np.float32)
        found[np.isnan(found)] = 0.0
        return found

    def _dense(self, frame: pl.DataFrame) -> tuple[Array, dict[str, int]]:
        """Return float32 [N, D] standardised numbers and the count of missing ones by feature, where there are any.

        Column by column, then turned in blocks of rows: a column of the whole result is a write to every one of its cache lines.
        """
        schema, n = self.schema, frame.height
        columns = [_of(frame, d) for d in schema.numerical]
        dense = np.empty((n, len(columns)), np.float32)
        block = np.empty((len(columns), min(n, BLOCK)), np.float32)
        missing: dict[str, int] = {}
        for start in range(0, n, BLOCK):
            many = min(BLOCK, n - start)
            for at, (column, d) in enumerate(zip(columns, schema.numerical, strict=True)):
                try:
                    values = numbers(column[start : start + many], d)
                except ValueError:
                    numbers(column, d)  # says how many rows of all
                    raise
                if count := int(np.count_nonzero(np.isnan(values))):
                    missing[d.name] = missing.get(d.name, 0) + count
                block[at, :many] = self._standard(values, d)
            for turn in range(0, many, TURN):
                end = min(turn + TURN, many)
                dense[start + turn : start + end] = block[:, turn:end].T
        return dense, missing

    def _note(self, split: str, arrays: dict[str, Array], missing: dict[str, int]) -> None:
        held = self._seen.setdefault(split, {"rows": 0, "missing": {}, "unseen": {}, "against": {}})
        held["rows"] += len(arrays["labels"])
        for name, count in missing.items():
            held["missing"][name] = held["missing"].get(name, 0) + count
        for at, f in enumerate(self.schema.categorical):
            unseen = int((arrays["ids"][:, at] == 0).sum())
            held["unseen"][f.name] = held["unseen"].get(f.name, 0) + unseen
        tasks, labels, valid = self.schema.tasks, arrays["labels"], arrays["valid"]
        for t, y in enumerate(self.schema.labels):
            if y.given is not None:
                g = tasks.index(y.given)
                against = int(((labels[:, t] > 0) & valid[t] & valid[g] & (labels[:, g] == 0)).sum())
                held["against"][y.name] = held["against"].get(y.name, 0) + against

    @property
    def notes(self) -> dict[str, Any]:
        """{"missing_numbers": {split: {feature: count}}, "unseen": {split: {feature: share}}, "against_funnel": {split: {task: count}}}."""
        return {
            "missing_numbers": {split: held["missing"] for split, held in self._seen.items()},
            "unseen": {
                split: {name: count / max(1, held["rows"]) for name, count in held["unseen"].items()}
                for split, held in self._seen.items()
            },
            "against_funnel": {split: held["against"] for split, held in self._seen.items()},
        }

    def remarks(self) -> list[str]:
        """Return a line for each feature with missing numbers, lists that were cut and each funnel that rows contradict, over all splits."""
        lines = []
        for n in self.schema.numerical:
            if total := sum(held["missing"].get(n.name, 0) for held in self._seen.values()):
                lines.append(
                    f"{n.name}: missing (null or NaN) in {total} rows, read as {'0' if n.scale == 'none' else 'the training mean'}"
                )
        for m in self.schema.multi:
            if total := self._cut.get(m.name, 0):
                lines.append(f"{m.name}: cut to the last {m.max_length} values in {total} rows")
        for label in self.schema.labels:
            if total := sum(held["against"].get(label.name, 0) for held in self._seen.values()):
                lines.append(
                    f"{label.name}: positive in {total} rows where {label.given!r} is 0, against given"
                )
        return lines


def _of(frame: pl.DataFrame, feature: Categorical | Multi | Numerical) -> pl.Series:
    return column_of(frame, feature.column or feature.name, f"feature {feature.name!r}")


def _counted(values: pl.Series) -> pl.DataFrame:
    whole = countable(values)  # counted as they are, which is faster and smaller
    given = plain_text(values, "value") if whole is None else whole
    counts = given.drop_nulls().alias("value").value_counts(name="count")
    return counts.select("value", pl.col("count").cast(pl.Int64))


def _weight(raw: pl.Series, name: str) -> Array:
    if not raw.dtype.is_numeric():
        raise ValueError(f"weight {name!r} must be a number, got {raw.dtype}")
    weight = raw.cast(pl.Float64).fill_null(math.nan).to_numpy()
    if not ((weight >= 0) & (weight <= FLOAT32)).all():
        raise ValueError(f"weight {name!r} must be finite and >= 0 in every row")
    return weight.astype(np.float32)


def _classes(name: str, held: dict[float, int]) -> list[list[float]]:
    """Return [[class, share of known training rows at or below it], ...] of an ordinal label, ascending."""
    if not 2 <= len(held) <= MAX_CLASSES:
        raise ValueError(
            f"label {name!r} is ordinal and must have 2 to {MAX_CLASSES} classes in training, got {len(held)}; declare "
            f"{name}:regression"
        )
    found = np.array(sorted(held))
    counts = np.array([held[value] for value in found])
    return np.stack([found, np.cumsum(counts) / counts.sum()], axis=1).tolist()  # type: ignore[no-any-return]
