"""Labels that come late: what a split may know of them, and what is still open."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest

from equipoise.data import Label, Log, Numerical, Schema, SplitRule, infer_schema, parse_label, prepare_table
from equipoise.data.late import MOST, Delays, late_label
from equipoise.data.window import span

DAY = 86_400_000
BUY = Label(name="buy", event_time="conv", window="2d")


def schema(label=BUY, **own):
    own = {"time": "ts", "split": SplitRule(by="column", column="part"), **own}
    return Schema(features=(Numerical(name="x"),), labels=(Label(name="click"), label), **own)


def table(days, events, parts, unit=DAY):
    """Rows at these days; events in days, None without one. Times are dates, so that days stay exact."""
    n = len(days)
    at = [int(d * unit) for d in days]
    conv = [None if e is None else int(e * unit) for e in events]
    return pl.DataFrame(
        {
            "x": np.arange(n, dtype=float),
            "click": np.arange(n) % 2,
            "ts": pl.Series(at).cast(pl.Datetime("ms")),
            "conv": pl.Series(conv, dtype=pl.Int64).cast(pl.Datetime("ms")),
            "part": parts,
        }
    )


#        in time   too late for train   out of window   before   open   closed | valid: known in test's time  | test
DAYS = [1, 1, 1, 1, 4, 1, 5, 6, 8, 8]
EVENTS = [2, None, 3.5, 0.5, 5.5, None, 6.5, None, 9, None]
PARTS = ["train"] * 6 + ["valid"] * 2 + ["test"] * 2


def test_each_split_knows_what_had_happened_when_it_ended(tmp_path):
    log, suspects = prepare_table(table(DAYS, EVENTS, PARTS), tmp_path / "log", schema=schema())
    note = log.manifest["notes"]["late"]
    assert note["moments"] == {"train": 5 * DAY - 1, "valid": 8 * DAY - 1, "test": 9 * DAY}
    values, known = log.split("train").labels("buy")
    assert values.tolist() == [1, 0, 0, 0, 0, 0] and known.tolist() == [True] * 4 + [False, True]
    values, known = log.split("valid").labels("buy")
    assert values.tolist() == [1, 0] and known.tolist() == [True, False]
    values, known = log.split("test").labels("buy")
    assert values.tolist() == [1, 0] and known.tolist() == [True, False]
    own = note["tasks"]["buy"]
    assert own["splits"]["train"] == {
        "rows": 6, "positive": 1, "pending": 1, "late": 1, "outside": 1, "before": 1
    }  # fmt: skip
    assert own["days"]["train"]["1970-01-05"] == {
        "rows": 1, "positive": 0, "pending": 1, "late": 1, "outside": 0, "before": 0
    }  # fmt: skip
    assert own["delay"]["train"]["events"] == 1 and own["delay"]["train"]["quantiles"]["0.5"] == DAY
    assert own["delay"]["test"] == {"events": 0, "quantiles": {}}
    assert any("before its row in 1 rows" in line for line in suspects)
    json.dumps(note)


@pytest.mark.parametrize(
    ("pending", "rows", "known"), [("mask", 6, 5), ("negative", 6, 6), ("exclude", 5, 5)]
)
def test_pending(tmp_path, pending, rows, known):
    label = BUY.model_copy(update={"pending": pending})
    log, _ = prepare_table(table(DAYS, EVENTS, PARTS), tmp_path / "log", schema=schema(label))
    values, there = log.split("train").labels("buy")
    assert (len(values), there.sum(), values.sum()) == (rows, known, 1)
    assert len(log.split("train").labels("click")[0]) == rows


def test_an_event_after_the_end_of_train_changes_no_train_array(tmp_path):
    first = table(DAYS, EVENTS, PARTS)
    later = list(EVENTS)
    later[4], later[5], later[1] = None, 7, 6.25  # all after train's end, day 5
    second = table(DAYS, later, PARTS)
    logs = [
        prepare_table(frame, tmp_path / str(at), schema=schema(as_of="1970-01-20"))[0]
        for at, frame in enumerate((first, second))
    ]
    for name, array in logs[0].split("train").arrays.items():
        np.testing.assert_array_equal(array, logs[1].split("train").arrays[name])
    second = table(DAYS, [2, 2, *EVENTS[2:]], PARTS)
    changed, _ = prepare_table(second, tmp_path / "changed", schema=schema(as_of="1970-01-20"))
    assert changed.split("train").labels("buy")[0].sum() == 2  # so the comparison above can fail


@pytest.mark.parametrize("seed", range(5))
def test_against_row_by_row(tmp_path, seed):
    g = np.random.default_rng(seed)
    n = 300
    days = np.sort(np.round(g.uniform(0, 30, n), 3))
    delay = np.round(g.exponential(2, n) - 0.2, 3)
    events = [float(d + e) if g.random() < 0.6 else None for d, e in zip(days, delay, strict=True)]
    frame = table(days.tolist(), events, ["train"] * n).drop("part")
    log, _ = prepare_table(
        frame, tmp_path / "log", schema=schema(split=SplitRule(by="time")), as_of="1970-02-20"
    )
    ts = frame["ts"].cast(pl.Int64).to_list()
    conv = frame["conv"].cast(pl.Int64).to_list()
    ranges = {name: log.split(name).time_range() for name in log.splits}
    ends = {
        "train": ranges["valid"][0] - 1,
        "valid": ranges["test"][0] - 1,
        "test": 50 * DAY,  # 1970-02-20
    }
    for name, (low, high) in ranges.items():
        expected: list[float | None] = []
        for t, e in zip(ts, conv, strict=True):
            if low <= t <= high:
                yes = e is not None and t <= e <= t + 2 * DAY and e <= ends[name]
                expected.append(1.0 if yes else None if t + 2 * DAY > ends[name] else 0.0)
        values, known = log.split(name).labels("buy")
        assert [v if k else None for v, k in zip(values.tolist(), known, strict=True)] == expected


def test_random_and_overlapping_splits_end_at_as_of(tmp_path):
    parts = ["train", "valid", "test"] * 3 + ["train"]
    rule = SplitRule(by="column", column="part")
    log, _ = prepare_table(table(DAYS, EVENTS, parts), tmp_path / "a", schema=schema(split=rule))
    assert set(log.manifest["notes"]["late"]["moments"].values()) == {9 * DAY}
    days = list(range(60))
    frame = table(days, [d + 1 for d in days], ["train"] * 60)
    log, _ = prepare_table(frame, tmp_path / "b", schema=schema(split=SplitRule(by="random")))
    assert set(log.manifest["notes"]["late"]["moments"].values()) == {60 * DAY}


def test_the_table_is_the_same_in_seconds_text_and_with_a_missing_mark(tmp_path):
    frame = table(DAYS, EVENTS, PARTS, unit=DAY)
    seconds = frame.with_columns(
        pl.col("ts").dt.epoch("s"), pl.col("conv").dt.epoch("s").fill_null(-1).alias("conv")
    )
    text = frame.with_columns(pl.col("ts").cast(pl.String), pl.col("conv").cast(pl.String))
    marked = BUY.model_copy(update={"missing": -1})
    found = [
        prepare_table(f, tmp_path / str(at), schema=schema(label))[0].split("train").labels("buy")
        for at, (f, label) in enumerate([(frame, BUY), (seconds, marked), (text, BUY)])
    ]
    for values, known in found[1:]:
        assert values.tolist() == found[0][0].tolist() and known.tolist() == found[0][1].tolist()


def test_from_the_command_lines_label(tmp_path):
    label = parse_label("buy:event_time=conv:window=2d:pending=negative")
    assert label == Label(name="buy", event_time="conv", window="2d", pending="negative")
    g = np.random.default_rng(0)
    frame = table(np.arange(40).tolist(), [d + 0.5 if d % 3 else None for d in range(40)], ["train"] * 40)
    frame = frame.drop("part").with_columns(pl.Series("x", g.standard_normal(40)))
    inferred = infer_schema(frame, [label, "click"], time="ts")
    assert [f.name for f in inferred.schema.features] == ["x"]
    log, _ = prepare_table(frame, tmp_path / "log", labels=[label, "click"], time="ts", as_of="1970-03-01")
    assert Log.open(log.path).schema.as_of == "1970-03-01"
    assert log.split("test").labels("buy")[1].all()


def test_spans():
    assert [span(text) for text in ("7d", "12h", "30m", "45s")] == [7 * DAY, DAY // 2, 1_800_000, 45_000]


def test_delays_are_thinned_in_step():
    delays = Delays()
    for start in range(0, 3 * MOST, 70_001):
        delays.add(np.arange(start, min(start + 70_001, 3 * MOST)))
    kept = delays.kept()
    assert delays.count == 3 * MOST and len(kept) <= MOST
    assert set(np.diff(kept)) == {4} and kept[0] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"event_time": "conv"}, "both event_time and window"),
        ({"pending": "negative"}, "needs event_time and window"),
        ({"event_time": "conv", "window": "7x"}, "number > 0 with d, h, m or s"),
        ({"event_time": "conv", "window": "0d"}, "number > 0"),
        ({"event_time": "conv", "window": "1d", "kind": "regression"}, "needs kind='binary'"),
        ({"event_time": "conv", "window": "1d", "positive": 2}, "no positive=VALUE"),
    ],
)
def test_labels_that_cannot_be(change, message):
    with pytest.raises(ValueError, match=message):
        Label(name="buy", **change)


def test_schemas_that_cannot_be():
    with pytest.raises(ValueError, match="needs a time column"):
        schema(time=None)
    with pytest.raises(ValueError, match="another column than time"):
        schema(time="conv")
    with pytest.raises(ValueError, match="must not read the event_time column of task 'buy'"):
        Schema(features=(Numerical(name="conv"),), labels=(BUY,), time="ts")


def test_tables_that_cannot_be(tmp_path):
    frame = table(DAYS, EVENTS, PARTS)
    with pytest.raises(ValueError, match=r"as_of must not lie before the last row.*1970-01-09"):
        prepare_table(frame, tmp_path / "log", schema=schema(as_of="1970-01-05"))
    with pytest.raises(ValueError, match="as_of must be a date"):
        prepare_table(frame, tmp_path / "log", schema=schema(as_of="soon"))
    with pytest.raises(ValueError, match="event_time of label 'buy': column 'conv' is missing"):
        prepare_table(frame.drop("conv"), tmp_path / "log", schema=schema())
    text = frame.with_columns(pl.Series("conv", ["1970-01-03", None, "soon", *[None] * 7]))
    with pytest.raises(ValueError, match=r"column 'conv'.*first in row 2, 'soon'"):
        prepare_table(text, tmp_path / "log", schema=schema())
    assert list(tmp_path.iterdir()) == []


def test_the_edges_of_a_window():
    frame = table([1] * 4, [1, 3, 3.001, 0.999], ["train"] * 4)
    found = late_label(frame, BUY, "ts", 3 * DAY)
    assert found.values.tolist() == [True, True, False, False]
    assert not found.pending.any() and found.outside.tolist() == [False, False, True, False]
    assert found.before.tolist() == [False, False, False, True]
    assert late_label(frame, BUY, "ts", 3 * DAY - 1).pending.tolist() == [False, True, True, True]
