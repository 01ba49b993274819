"""A prepared log -> what it holds, in numbers: label rates by split and day, unseen ids, drift, groups, funnels."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from equipoise.data.drift import distance
from equipoise.data.schema import Schema
from equipoise.data.store import Log, Split
from equipoise.data.tell import Tell, silent, told

Array = np.ndarray[Any, Any]
Facts = dict[str, Any]
BLOCK = 2**18
"""Rows read at once."""
RUN = 256
"""Rows of a sample that lie side by side: a sample touches few pages of the memory maps."""
SAMPLE, MOST = 250_000, 1_000_000
"""Rows of a split that drift is measured on: by default, and at most."""
COLUMNS = 16
"""Numbers or ids sampled together: the memory of a sample does not grow with the number of features."""
DAY = 86_400_000
FEW = 500
"""Fewer positives than this in a split: the standard error of an AUC is about .013 or more."""
DRIFTED, UNSEEN = 0.1, 0.2
"""Shares from which a line says so: of rows that would have to move (beyond chance), of unseen ids beyond training's."""


def look(log: Log, *, max_rows: int = SAMPLE, seed: int = 0, tell: Tell = silent) -> Facts:
    """Return what a log holds, in plain types, in bounded memory.

    Labels, times and groups are read whole, a block at a time (memory: a block, and a number a group); ids and numbers
    only of a sample of runs of rows, spread evenly over the shards of train and test.

    Args:
        max_rows: of the sample of a split, 1 to 1,000,000. seed: of the chance level of the drift. tell: see `write_log`.

    Returns:
        {"path", "fingerprint", "simulated", "vocabulary": version and lineage, "shards", "splits": {split: {"rows",
        "time", "groups"}}, "labels": {task: {split: rates}}, "days": {split: {day: {"rows", task: {"known", "mean"}}}}, "features":
        {name: {"kind", "ids", "unseen", "missing", "drift"}}, "sampled": {split: rows}, "notes", "remarks"}.

    Raises:
        ValueError: max_rows outside its range.
    """
    if not 1 <= max_rows <= MOST:
        raise ValueError(f"max_rows must be 1 to {MOST:,}, got {max_rows}; the default is {SAMPLE:,}")
    manifest, schema = log.manifest, log.schema
    counted = {name: _count(split, name, tell) for name, split in log.splits.items()}
    facts: Facts = {
        "path": str(log.path),
        "fingerprint": log.fingerprint,
        "simulated": schema.simulated,
        "vocabulary": {
            "version": manifest.get("vocabulary_version"),
            "versions": [
                {"version": entry.get("version"), "ids": sum(entry.get("num_ids", {}).values())}
                for entry in manifest.get("lineage", [])
            ],
        },
        "shards": [
            {"split": name, **{key: shard.get(key) for key in ("name", "rows", "time", "vocabulary_version")}}
            for name, shards in manifest["splits"].items()
            for shard in shards
        ],
        "splits": {name: {"rows": len(s), "time": s.time_range()} for name, s in log.splits.items()},
        "labels": {t: {name: found["labels"][t] for name, found in counted.items()} for t in schema.tasks},
        "days": {name: found["days"] for name, found in counted.items() if found["days"]},
        "features": _features(log),
    }
    tell("counting groups", 0, None)
    _groups(facts, log)
    tell("measuring drift", 0, None)
    facts["sampled"] = _drift(facts["features"], log, max_rows, seed)
    facts["notes"] = {k: v for k, v in manifest["notes"].items() if k not in ("unseen", "missing_numbers")}
    facts["remarks"] = remarks(facts)
    return facts


def _blocks(split: Split) -> Any:
    """Yield (part, first row, end row) of blocks of rows."""
    for part in split.parts:
        rows = len(part["labels"])
        for start in range(0, rows, BLOCK):
            yield part, start, min(rows, start + BLOCK)


def _count(split: Split, name: str, tell: Tell) -> Facts:
    """Return {"labels": {task: {...}}, "days": {day: {...}}} of a split, read a block at a time."""
    schema, tasks = split.schema, split.schema.tasks
    sums = np.zeros((len(tasks), 3))  # known rows, sum, sum of squares about `middle`
    middle: Array | None = None
    against = dict.fromkeys([y.name for y in schema.labels if y.given is not None], 0)
    days: dict[int, Array] = {}
    what = f"counting the labels of {name}"
    for part, start, end in told(_blocks(split), tell, what, len(split), lambda block: block[2] - block[1]):
        values = np.asarray(part["labels"][start:end], np.float64)
        first = start // 8 * 8
        bits = np.asarray(part["valid"][:, first // 8 : (end + 7) // 8])
        known = np.unpackbits(bits, axis=1, count=end - first)[:, start - first :].astype(bool).T
        if middle is None:
            middle = np.where(known, values, 0).sum(0) / np.maximum(known.sum(0), 1)
        away = np.where(known, values - middle, 0)
        sums += np.stack([known.sum(0), away.sum(0), (away**2).sum(0)], axis=1)
        for later in against:
            t, g = tasks.index(later), tasks.index(schema.label(later).given or "")
            wrong = (values[:, t] > 0) & known[:, t] & known[:, g] & (values[:, g] == 0)
            against[later] += int(wrong.sum())
        if "time" in part:
            here, at = np.unique(part["time"][start:end] // DAY, return_inverse=True)
            for i, day in enumerate(here.tolist()):
                days[day] = days.get(day, 0) + _of_day(values, known, at == i)
    labels = {y.name: _label(y.kind, sums[t], middle, t, len(split)) for t, y in enumerate(schema.labels)}
    for later, count in against.items():
        labels[later] |= {"given": schema.label(later).given, "against_given": count}
    return {"labels": labels, "days": {_date(day): _means(days[day], tasks) for day in sorted(days)}}


def _of_day(values: Array, known: Array, rows: Array) -> Array:
    """Return [T, 3]: rows, known rows and the sum of known labels."""
    there = known[rows]
    count = np.full(there.shape[1], rows.sum())
    return np.stack([count, there.sum(0), np.where(there, values[rows], 0).sum(0)], axis=1)


def _means(day: Array, tasks: Sequence[str]) -> Facts:
    found = {
        task: {"known": int(day[t, 1]), "mean": float(day[t, 2] / day[t, 1]) if day[t, 1] else None}
        for t, task in enumerate(tasks)
    }
    return {"rows": int(day[0, 0]), "tasks": found}


def _label(kind: str, sums: Array, middle: Array | None, t: int, rows: int) -> Facts:
    known = int(sums[0])
    entry: Facts = {"kind": kind, "known": known, "missing_rate": 1 - known / rows if rows else 0.0}
    mean = float(middle[t] + sums[1] / known) if known and middle is not None else None
    if kind == "binary":
        return entry | {"positives": round((mean or 0.0) * known), "positive_rate": mean}
    spread = math.sqrt(max(0.0, sums[2] / known - (sums[1] / known) ** 2)) if known else None
    return entry | {"mean": mean, "std": spread}


def _date(day: int) -> str:
    return str(np.datetime64(day, "D"))


def _groups(facts: Facts, log: Log) -> None:
    """Fill {"groups": ...} of each split: how many, their sizes, the share of rows whose group training has."""
    trained: Array | None = None
    for name, split in log.splits.items():
        if "group" not in split.parts[0]:
            return
        counts = np.zeros(0, np.int64)
        for part, start, end in _blocks(split):
            codes, found = np.unique(part["group"][start:end], return_counts=True)
            if len(codes) and codes[-1] >= len(counts):
                counts = np.concatenate(
                    [counts, np.zeros(int(codes[-1]) * 5 // 4 + 1 - len(counts), np.int64)]
                )
            counts[codes] += found
        there = np.flatnonzero(counts)
        sizes = counts[there]
        trained = counts if trained is None else trained
        old = (there < len(trained)) & (trained[np.minimum(there, len(trained) - 1)] > 0)
        steps = (0, 0.5, 0.9, 0.99, 1)
        facts["splits"][name]["groups"] = {
            "groups": len(there),
            "mean": float(sizes.mean()),
            "sizes": {f"{q:g}": float(np.quantile(sizes, q)) for q in steps},
            "one_row": float((sizes == 1).mean()),
            "rows_of_training_groups": float(sizes[old].sum() / sizes.sum()),
        }


def _features(log: Log) -> dict[str, Facts]:
    """Return {feature: kind, ids, unseen share and missing share by split}, as they were counted when the log was made."""
    notes, found = log.manifest["notes"], {}
    for feature in log.schema.features:
        entry: Facts = {"kind": feature.kind, "ids": log.schema.num_ids.get(feature.name)}
        unseen = {s: of[feature.name] for s, of in notes.get("unseen", {}).items() if feature.name in of}
        if unseen:
            entry["unseen"] = unseen
        if feature.kind == "numerical":
            missing = notes.get("missing_numbers", {})
            rows = {name: max(1, len(split)) for name, split in log.splits.items()}
            entry["missing"] = {s: missing.get(s, {}).get(feature.name, 0) / rows[s] for s in rows}
        found[feature.name] = entry
    return found


def sample_runs(parts: Sequence[Mapping[str, Array]], max_rows: int) -> list[tuple[int, int, int]]:
    """Return (shard, first row, end row) of runs of at most `RUN` rows, spread evenly: all rows where they are few enough."""
    runs = [
        (at, start, min(len(part["labels"]), start + RUN))
        for at, part in enumerate(parts)
        for start in range(0, len(part["labels"]), RUN)
    ]
    most = max(1, max_rows // RUN)
    if sum(end - start for _, start, end in runs) <= max_rows or len(runs) <= most:
        return runs
    return [runs[i] for i in np.linspace(0, len(runs) - 1, most).round().astype(int)]


def _drift(features: dict[str, Facts], log: Log, max_rows: int, seed: int) -> dict[str, int]:
    """Fill "drift" of every feature, and "unseen" where it was not counted; return {split: sampled rows}."""
    schema = log.schema
    splits = {name: log.splits[name].parts for name in ("train", "test")}
    runs = {name: sample_runs(parts, max_rows) for name, parts in splits.items()}
    generator = np.random.default_rng(seed)

    def gather(name: str, array: str, columns: slice) -> Array:
        parts = splits[name]
        return np.concatenate([parts[p][array][a:b, columns] for p, a, b in runs[name]])

    for array, names in (("ids", [f.name for f in schema.categorical]), ("numerical", _numbers(schema))):
        for first in range(0, len(names), COLUMNS):
            old, new = (gather(name, array, slice(first, first + COLUMNS)) for name in splits)
            for at, name in enumerate(names[first : first + COLUMNS]):
                entry = features[name]
                if array == "ids":
                    shares = {
                        "train": float((old[:, at] == 0).mean()),
                        "test": float((new[:, at] == 0).mean()),
                    }
                    entry.setdefault("unseen", shares)
                entry["drift"] = distance(old[:, at], new[:, at], array == "ids", generator)
    for m in schema.multi:
        old, new = (_pieces(parts, runs[name], m.name) for name, parts in splits.items())
        entry = features[m.name]
        entry["drift"] = distance(old, new, True, generator)
        shares = {
            name: float((v == 0).mean()) if len(v) else 0.0
            for name, v in zip(splits, (old, new), strict=True)
        }
        entry.setdefault("unseen", shares)
    return {name: sum(end - start for _, start, end in of) for name, of in runs.items()}


def _numbers(schema: Schema) -> list[str]:
    return [f.name for f in schema.numerical]


def _pieces(parts: Sequence[Mapping[str, Array]], runs: Sequence[tuple[int, int, int]], name: str) -> Array:
    """Return the ids of a multi-valued feature in the runs, of fewer runs where rows hold many."""
    spans = [
        (p, int(parts[p][f"{name}.offsets"][start]), int(parts[p][f"{name}.offsets"][end]))
        for p, start, end in runs
    ]
    step = math.ceil(sum(end - start for _, start, end in spans) / MOST) or 1
    return np.concatenate([parts[p][f"{name}.values"][start:end] for p, start, end in spans[::step]])


def remarks(facts: Facts) -> list[str]:
    """Return what to look at, a sentence each: labels, funnels, features that drifted, ids that training did not see."""
    lines = [*_of_labels(facts)]
    for name, feature in facts["features"].items():
        drift = feature.get("drift")
        if drift is not None and drift["distance"] - drift["chance"] > DRIFTED:
            what = "ids" if feature["kind"] != "numerical" else "rows"
            lines.append(
                f"{name} drifted: {drift['distance']:.0%} of {what} in test would have to move to look like training "
                f"({drift['chance']:.0%} by chance)"
            )
        unseen = feature.get("unseen", {})
        if unseen.get("test", 0) - unseen.get("train", 0) > UNSEEN:
            lines.append(
                f"{name}: {unseen['test']:.0%} of ids in test were not seen in training ({unseen['train']:.0%} of "
                "training's own are too rare)"
            )
        missing = feature.get("missing", {})
        if missing and max(missing.values()) - min(missing.values()) > 0.05:
            told = ", ".join(f"{share:.0%} in {split}" for split, share in missing.items())
            lines.append(f"{name}: missing in {told}; a model reads it as the training mean")
    groups = facts["splits"].get("test", {}).get("groups")
    if groups is not None and groups["one_row"] > 0.5:
        lines.append(
            f"groups: {groups['one_row']:.0%} of test's have one row, within which GAUC ranks nothing"
        )
    return lines


def _of_labels(facts: Facts) -> list[str]:
    lines = []
    for task, splits in facts["labels"].items():
        for split, found in splits.items():
            if found.get("against_given"):
                lines.append(
                    f"{task}: positive in {found['against_given']:,} rows of {split} where {found['given']} is 0, against given"
                )
            if found["known"] == 0:
                lines.append(f"{task} is known in no row of {split}")
            elif "positives" in found and split != "train":
                rare = min(found["positives"], found["known"] - found["positives"])
                kind = "positives" if rare == found["positives"] else "negatives"
                if rare < FEW:
                    lines.append(f"{task} has {rare:,} {kind} in {split}: too few to decide between models")
        old, new = splits["train"], splits.get("test", splits["train"])
        if (rate := old.get("positive_rate")) and new.get("positive_rate") is not None:
            error = math.sqrt(rate * (1 - rate) * (1 / max(1, old["known"]) + 1 / max(1, new["known"])))
            apart = new["positive_rate"] - rate
            if abs(apart) > max(0.2 * rate, 4 * error):
                lines.append(
                    f"{task}: {new['positive_rate']:.3%} positive in test, {rate:.3%} in training "
                    f"({apart / rate:+.0%}): calibration will be off"
                )
    return lines


def when(ms: int) -> str:
    """Return a time in ms UTC as text, to the minute."""
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(ms / 1000))
