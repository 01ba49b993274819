"""Rolling origins: one log -> a log for each of several test periods, and what their runs say together.

A test day with few positives decides nothing; K of them, each predicted from the days before it, decide more. Each fold is
encoded anew from its own training rows: vocabularies and scaling hold nothing of its future.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from equipoise.data.features import Categorical, Multi
from equipoise.data.schema import Schema, SplitRule
from equipoise.data.store import SPLITS, Log, Split
from equipoise.data.write import write_log
from equipoise.study.cells import Outcome

Array = np.ndarray[Any, Any]
HOUR = 3_600_000


STRAY = 0.02
"""Share of a split's rows that may lie on the wrong side of its edge: KuaiRand's date is up to an hour off its time for 1 % of rows."""


def boundaries(log: Log) -> tuple[int, int]:
    """Return (start of the log's test period, its length) in ms UTC.

    The length is the time from the start of the validation period to that of the test period. A start is the whole hour that parts the two
    splits best, or the first row's time where no whole hour lies between them.

    Raises:
        ValueError: a log without time, or one whose splits do not follow each other in time (but for `STRAY` of a split's rows).
    """
    if log.schema.time is None:
        raise ValueError(
            "origins need a log with a time column, the schema has none; declare time, or take one origin"
        )
    train, valid, test = (np.sort(np.asarray(log.split(name).arrays["time"])) for name in SPLITS)
    before, start = _edge(train, valid), _edge(valid, test)
    return start, round((start - before) / HOUR) * HOUR or start - before


def _edge(earlier: Array, later: Array) -> int:
    """Return the time that parts two splits, both sorted: the best whole hour, or the later's first row where that is better."""
    first, last = int(later[0]) // HOUR, int(earlier[-1]) // HOUR + 1
    hours = np.arange(min(first, last), max(first, last) + 1) * HOUR
    edges = np.append(hours, later[0])
    wrong = len(earlier) - np.searchsorted(earlier, edges) + np.searchsorted(later, edges)
    if wrong.min() > STRAY * min(len(earlier), len(later)):
        raise ValueError(
            "origins need a log split by time, but its training, validation and test rows overlap in time; prepare it with split: "
            "{by: time}, or take one origin"
        )
    return int(edges[wrong.argmin()])


def make_origins(log: Log, num: int, folder: str | Path) -> list[Log]:
    """Return `num` logs, the earliest first, the last with the log's own test period; written once, read when they are there.

    Fold k = 0 .. num - 1 has as test rows those of the period num - 1 - k periods before the log's own, as validation rows those of the
    period before, and as training rows all earlier ones. Ids that a fold's training rows hold fewer than `min_count` times are unseen
    there, numbers are standardised anew (those that the log cut at +-10 stay cut).

    Args:
        log: split by time. num: >= 2. folder: where they are written, as `0`, `1`, ...

    Raises:
        ValueError: num < 2, a fold without training rows, labels that were judged later than the fold ends (event_time), down-sampled
            training rows, what `boundaries` says.
    """
    if num < 2:
        raise ValueError(f"origins must be >= 2, got {num}; one origin is the log as it is")
    for label in log.schema.labels:
        if getattr(label, "event_time", None) is not None:
            raise ValueError(
                f"origins of label {label.name!r} would see events after a fold's end, since the log judged them at its own; prepare a "
                "log for each day"
            )
    if getattr(log.schema, "negatives", None) is not None:
        raise ValueError(
            "origins need every row of the days that become test days, but negatives of the training rows were left out; prepare "
            "the log without negatives"
        )
    start, period = boundaries(log)
    names = [str(k) for k in range(num)]
    places = [Path(folder) / name for name in names]
    if all((place / "manifest.json").is_file() for place in places):
        found = [Log.open(place) for place in places]
        if all(each.manifest["notes"].get("origin_of") == log.fingerprint for each in found):
            return found
    frame, times, schema = decode(log)
    truth = {task: f"truth {task}" for task in schema.tasks} if log.schema.simulated else None
    logs = []
    for at, place in enumerate(places):
        begin = start - (num - 1 - at) * period
        end = math.inf if at == num - 1 else begin + period
        cut = {
            "train": times < begin - period,
            "valid": (times >= begin - period) & (times < begin),
            "test": (times >= begin) & (times < end),
        }
        for name, rows in cut.items():
            if not rows.any():
                raise ValueError(
                    f"origin {at} of {num} has no {name} rows: the log does not reach {num - at} test periods back; take fewer"
                )
        parts = {name: frame.filter(pl.Series(rows)) for name, rows in cut.items()}
        notes = {"origin_of": log.fingerprint, "origin": at}
        logs.append(write_log(place, parts, schema, truth=truth, overwrite=True, notes=notes))
    return logs


def decode(log: Log) -> tuple[pl.DataFrame, Array, Schema]:
    """Return (the log's rows in raw form, their times [N], the schema that reads them), splits one after the other.

    Ids become the values of the vocabulary (null where unseen, the bucket's number where hashed), numbers lose scaling and transform.
    """
    schema, parts = log.schema, [log.split(name) for name in SPLITS]
    columns: dict[str, Any] = {}

    def joined(name: str, axis: int = 0) -> Array:
        return np.concatenate([np.asarray(part.arrays[name]) for part in parts], axis=axis)

    features: list[Any] = []
    ids, dense = joined("ids"), joined("numerical")
    for at, f in enumerate(schema.categorical):
        values = _values(log, f)
        columns[f.name] = (
            pl.Series(ids[:, at]).replace(0, None).cast(pl.String)
            if values is None
            else values.gather(pl.Series(ids[:, at]))
        )
    for at, n in enumerate(schema.numerical):
        mean, std = log.manifest["scaling"][n.name]
        raw = dense[:, at].astype(np.float64) * std + mean
        if n.transform == "log1p":
            raw = np.expm1(np.maximum(raw, -30.0))
        elif n.transform == "signed_log1p":
            raw = np.sign(raw) * np.expm1(np.abs(raw))
        if any(n.name in counts for counts in log.manifest["notes"]["missing_numbers"].values()):
            raw[dense[:, at] == 0.0] = math.nan  # what a missing number is read as
        columns[n.name] = raw
    for feature in schema.features:
        changed: dict[str, Any] = {"column": feature.name}
        if isinstance(feature, Categorical) and (feature.buckets or feature.quantiles):
            changed |= {"buckets": None, "quantiles": None, "seed": 0, "min_count": 1}
        features.append(feature.model_copy(update=changed))
        if isinstance(feature, Multi):
            words = _values(log, feature)
            assert words is not None
            lengths = np.concatenate([np.diff(part.arrays[f"{feature.name}.offsets"]) for part in parts])
            flat = words.gather(pl.Series(joined(f"{feature.name}.values")))
            rows = pl.DataFrame({"row": np.repeat(np.arange(len(lengths)), lengths), "value": flat})
            weighted = feature.weights is not None or feature.weight_separator is not None
            if weighted:
                rows = rows.with_columns(weight=pl.Series(joined(f"{feature.name}.weights")))
            lists = rows.drop_nulls().group_by("row", maintain_order=True).agg(pl.exclude("row"))
            every = pl.DataFrame({"row": np.arange(len(lengths))})
            both = every.join(lists, on="row", how="left", maintain_order="left")
            columns[feature.name] = both["value"]
            if weighted:
                columns[f"weights {feature.name}"] = both["weight"]
                place = {"weights": f"weights {feature.name}", "weight_separator": None}
                features[-1] = features[-1].model_copy(update=place)
    labels = []
    for label in schema.labels:
        pairs = [part.labels(label.name) for part in parts]
        answers, known = (np.concatenate(each) for each in zip(*pairs, strict=True))
        columns[f"label {label.name}"] = pl.Series(answers).set(pl.Series(~known), None)
        duration = label.duration if label.way == "d2q" else None
        if duration is not None:
            duration = next(f.name for f in schema.numerical if (f.column or f.name) == duration)
        plain = {"column": f"label {label.name}", "positive": None, "missing": None, "duration": duration}
        plain |= {"event_time": None, "window": None, "pending": "mask", "correction": None}
        labels.append(label.model_copy(update=plain))
        if log.schema.simulated:
            columns[f"truth {label.name}"] = np.concatenate([p.truth(label.name) for p in parts])
    times = joined("time")
    columns["time of row"] = pl.Series(times).cast(pl.Datetime("ms"))
    own: dict[str, Any] = {"time": "time of row", "split": SplitRule(by="time")}
    if schema.group is not None:
        values = log.groups()
        assert values is not None
        columns["group of row"] = values.gather(pl.Series(joined("group")))
        own["group"] = "group of row"
    if "weight" in parts[0].arrays:  # of a thinned log too, which has none of its own
        weights, own["weight"] = _weights(joined("weight"), schema)
        columns |= weights
    own |= {"negatives": None, "as_of": None, "key": None}
    own |= {"features": tuple(features), "labels": tuple(labels)}
    own |= {"num_ids": {}, "label_scale": {}, "label_levels": {}}
    return pl.DataFrame(columns), times, schema.model_copy(update=own)


def _weights(found: Array, schema: Schema) -> tuple[dict[str, Array], str | dict[str, str]]:
    """Return the columns of sample weights, and the schema's `weight` that names them."""
    if found.ndim == 1:
        return {"weight of row": found}, "weight of row"
    named = {task: f"weight of {task}" for task in schema.tasks}
    return {named[task]: found[:, t] for t, task in enumerate(schema.tasks)}, named


def _values(log: Log, feature: Categorical | Multi) -> pl.Series | None:
    """Return the value of each id, null for row 0; None for a feature that is hashed or cut at quantiles."""
    if isinstance(feature, Categorical) and (feature.buckets or feature.quantiles):
        return None
    table = log.vocabulary(feature.name)["value"]
    return pl.concat([pl.Series("value", [None], dtype=pl.String), table.cast(pl.String)])


class Pooled:
    """The test rows of several folds, one after the other, read as one split by the statistics.

    Attributes:
        schema: of the folds. strata: int64 [N] the fold of each row.
    """

    def __init__(self, tests: Sequence[Split]) -> None:
        self.tests = list(tests)
        self.schema = tests[0].schema
        self.strata = np.repeat(np.arange(len(tests)), [len(test) for test in tests])
        self._values: list[pl.Series] = []

    def __len__(self) -> int:
        return len(self.strata)

    def labels(self, task: str) -> tuple[Array, Array]:
        """Return (float32 [N], bool [N] known) of a task."""
        pairs = [test.labels(task) for test in self.tests]
        values, known = (np.concatenate(each) for each in zip(*pairs, strict=True))
        return values, known

    @property
    def group(self) -> Array | None:
        """int64 [N] group codes that mean the same group in every fold, None without a group."""
        if self.schema.group is None:
            return None
        if not self._values:
            for test in self.tests:
                table = pl.read_parquet(test.path / "groups.parquet")["value"]
                self._values.append(table.gather(pl.Series(np.asarray(test.arrays["group"]))))
        codes: Array = pl.concat(self._values).rank("dense").fill_null(0).to_numpy().astype(np.int64)
        return codes


def shares(labels: Array, known: Array, strata: Array) -> Array:
    """Return [K] each stratum's share of the positives, 0 for one with fewer than two rows of a class: what pools their AUCs.

    Args:
        labels: [N] of 0 and 1. known: bool [N]. strata: int [N], 0 .. K - 1.
    """
    num = int(strata.max(initial=0)) + 1
    y = labels > 0
    positives = np.bincount(strata[known & y], minlength=num).astype(np.float64)
    negatives = np.bincount(strata[known & ~y], minlength=num)
    positives[(positives < 2) | (negatives < 2)] = 0.0
    return positives / max(float(positives.sum()), 1.0)


def pool(outcomes: Sequence[Outcome], test: Pooled) -> Outcome:
    """Return the outcomes of one unit and seed in every fold as one: metrics are means over folds, weighted by `shares`.

    Of tasks that are not binary, by known rows. Seconds and steps are sums, memory the largest; `failed` is the first failure.
    """
    failed = next((o.failed for o in outcomes if o.failed), None)
    metrics: dict[str, Any] = {}
    if failed is None:
        for split in outcomes[0].metrics:
            metrics[split] = {}
            for task in outcomes[0].metrics[split]:
                values, known = test.labels(task)
                if test.schema.label(task).kind == "binary":
                    weights = shares(values, known, test.strata)
                else:
                    weights = np.bincount(test.strata[known], minlength=len(outcomes)) / max(known.sum(), 1)
                found = [o.metrics[split][task] for o in outcomes]
                metrics[split][task] = {key: _mean([f.get(key) for f in found], weights) for key in found[0]}
    memory = [o.memory for o in outcomes if o.memory is not None]
    return Outcome(
        value=float(np.mean([o.value for o in outcomes])),
        metrics=metrics,
        seconds=sum(o.seconds for o in outcomes),
        steps=sum(o.steps for o in outcomes),
        memory=max(memory) if memory else None,
        failed=failed,
        scores=None,
        parts=tuple(outcomes),
    )


def _mean(values: list[Any], weights: Array) -> float | None:
    """Return the weighted mean of the numbers among the values, None without any."""
    there = [(v, w) for v, w in zip(values, weights, strict=True) if isinstance(v, int | float) and w > 0]
    total = sum(w for _, w in there)
    return float(sum(v * w for v, w in there) / total) if total else None
