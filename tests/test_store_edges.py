"""The prepared log where it hurts: damage, full disks, bad values, odd names, ids and times in every type."""

import errno
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from equipoise.data import Label, Log, Schema, write_log
from equipoise.data.encode import as_text, label_values, milliseconds
from equipoise.data.schema import SplitRule
from equipoise.data.write import hold_out

SCHEMA = Schema.read(
    {
        "features": [
            {"kind": "categorical", "name": "city"},
            {"kind": "categorical", "name": "hashed", "column": "city", "buckets": 7},
            {"kind": "numerical", "name": "price"},
            {"kind": "multi", "name": "tags", "min_count": 1},
        ],
        "labels": [
            {"name": "click"},
            {"name": "purchase", "given": "click"},
            {"name": "dwell", "kind": "regression", "transform": "log1p"},
        ],
        "group": "user",
        "time": "ts",
        "weight": "importance",
    }
)


def frame(n, start=0):
    i = np.arange(start, start + n)
    return pl.DataFrame(
        {
            "city": [("a", "a", "b", None)[k % 4] for k in i],
            "price": [math.nan if k % 5 == 0 else float(k % 3) for k in i],
            "tags": [("x,y", "", "y", None)[k % 4] for k in i],
            "click": (i % 2).tolist(),
            "purchase": [None if k % 3 == 0 else int(k % 4 == 1) for k in i],
            "dwell": [None if k % 2 else float(k) for k in i],
            "user": [f"u{k // 4}" for k in i],
            "ts": 1_700_000_000 + i,
            "importance": np.ones(n),
        }
    )


def frames():
    return {"train": frame(20), "valid": frame(8, 20), "test": frame(6, 28).with_columns(city=pl.lit("zz"))}


@pytest.fixture
def log(tmp_path):
    return write_log(tmp_path / "log", frames(), SCHEMA)


def test_what_is_written_comes_back(log):
    train = Log.open(log.path, verify=True).split("train")
    city = train.arrays["ids"][:, 0]
    assert city[:4].tolist() == [1, 1, 2, 0]  # most frequent first, missing is 0
    assert (train.arrays["ids"][:, 1] > 0).tolist() == (city > 0).tolist()
    assert log.schema.num_ids == {"city": 3, "hashed": 8, "tags": 3}
    assert np.diff(train.arrays["tags.offsets"])[:4].tolist() == [2, 0, 1, 0]
    labels, known = train.labels("purchase")
    assert known.tolist() == [k % 3 != 0 for k in range(20)]
    assert labels.tolist() == [float(k % 4 == 1 and k % 3 != 0) for k in range(20)]
    assert train.group.tolist() == [k // 4 for k in range(20)]
    assert train.time_range() == (1_700_000_000_000, 1_700_000_019_000)
    groups = pl.read_parquet(log.path / "groups.parquet")
    assert groups["value"].to_list()[:2] == ["u0", "u1"]
    assert not list(log.path.rglob("*.pkl"))


def test_the_summary_by_hand(log):
    found = log.summary()
    assert {name: entry["rows"] for name, entry in found.items()} == {"train": 20, "valid": 8, "test": 6}
    click, purchase, dwell = (found["train"]["tasks"][t] for t in ("click", "purchase", "dwell"))
    assert (click["positives"], click["positive_rate"], click["missing_rate"]) == (10, 0.5, 0.0)
    assert purchase["missing_rate"] == pytest.approx(7 / 20)
    assert purchase["against_given"] == 0
    assert dwell["mean"] == pytest.approx(9.0)
    assert found["train"]["missing_numbers"] == {"price": 4}
    assert found["test"]["unseen"] == 0.5 * (1 + (log.split("test").arrays["ids"][:, 1] == 0).mean())
    assert any("price: missing (null or NaN) in 7 rows" in s for s in log.manifest["notes"]["suspects"])


def test_a_contradicted_funnel_is_counted_not_masked(tmp_path):
    parts = frames()
    parts["train"] = parts["train"].with_columns(purchase=pl.lit(1))
    log = write_log(tmp_path / "log", parts, SCHEMA)
    assert log.summary()["train"]["tasks"]["purchase"]["against_given"] == 10
    assert log.split("train").labels("purchase")[1].all()
    assert "purchase: positive in 10 rows where 'click' is 0" in log.manifest["notes"]["suspects"][-1]


def test_a_split_without_any_label_has_no_mean(tmp_path):
    parts = frames()
    parts["valid"] = parts["valid"].with_columns(dwell=pl.lit(None, pl.Float64), click=pl.lit(None, pl.Int64))
    tasks = write_log(tmp_path / "log", parts, SCHEMA).summary()["valid"]["tasks"]
    assert (tasks["dwell"]["mean"], tasks["dwell"]["std"], tasks["click"]["positive_rate"]) == (
        None,
        None,
        None,
    )


def test_names_that_are_no_file_names(tmp_path):
    schema = Schema.read({"features": [{"kind": "multi", "name": "../a/b.c"}], "labels": [{"name": "y"}]})
    rows = pl.DataFrame({"../a/b.c": ["p,q", "p"] * 4, "y": [0, 1] * 4})
    log = write_log(tmp_path / "log", dict.fromkeys(("train", "valid", "test"), rows), schema)
    batch = next(log.split("train").batches(8))
    assert batch.multi["../a/b.c"].offsets.tolist() == [0, 2, 3, 5, 6, 8, 9, 11, 12]
    assert [p.name for p in tmp_path.iterdir()] == ["log"]


@pytest.mark.parametrize("file", ["train/labels.npy", "test/tags.values.npy", "vocabulary/city.parquet"])
def test_a_file_cut_off_in_the_middle(log, file):
    part = log.path / file
    part.write_bytes(part.read_bytes()[:-5])
    with pytest.raises(ValueError, match=f"{file} has .* cut off"):
        Log.open(log.path)
    part.unlink()
    with pytest.raises(ValueError, match=f"{file} is missing"):
        Log.open(log.path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("file", ["valid/labels.npy", "groups.parquet", "manifest.json"])
def test_a_full_disk_leaves_nothing_behind_and_the_old_log_whole(log, monkeypatch, file):
    before, opened = log.fingerprint, Path.open

    def full(self, mode="r", *args, **options):
        if "w" in mode and str(self).endswith(file):
            self = Path("/dev/full")
        return opened(self, mode, *args, **options)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OSError, match="disk is full") as error:
        write_log(log.path, frames() | {"test": frame(5, 29)}, SCHEMA, overwrite=True)
    assert error.value.errno == errno.ENOSPC
    assert [p.name for p in log.path.parent.iterdir()] == ["log"]
    assert Log.open(log.path, verify=True).fingerprint == before


def test_an_interrupt_leaves_nothing_behind(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("equipoise.data.shards._Shard.close", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_log(tmp_path / "log", frames(), SCHEMA)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("price", pl.lit(math.inf), "'price' must be finite, got Inf in 20 rows"),
        ("price", pl.lit("dear"), "'price' must hold numbers, got String such as 'dear'"),
        ("price", pl.Series([1e300, -1e300] * 10), "too large to standardise"),
        ("click", pl.lit("yes"), "'click' must be 0 or 1, got String"),
        ("click", pl.lit(2), "'click' must be 0 or 1, got 2 in 20 rows"),
        ("dwell", pl.lit(1e39), "finite in float32"),
        ("dwell", pl.lit(-1.0), "transform log1p"),
        ("importance", pl.lit(-1.0), "weight 'importance' must be finite"),
        ("importance", pl.lit("a"), "weight 'importance' must be a number"),
        ("ts", pl.lit("soon"), "must be a date text"),
        ("ts", pl.lit(None, pl.Int64), "missing or unreadable in 20"),
    ],
)
def test_bad_values_are_refused(tmp_path, column, value, message):
    parts = frames() | {"train": frame(20).with_columns(value.alias(column))}
    with pytest.raises(ValueError, match=r"feature|label|weight|time") as error:
        write_log(tmp_path / "log", parts, SCHEMA)
    assert message in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("column", ["city", "price", "tags", "click", "user", "ts", "importance"])
def test_a_missing_column_is_named_with_the_nearest(tmp_path, column):
    parts = {name: part.rename({column: f"{column}s"}) for name, part in frames().items()}
    with pytest.raises(ValueError, match=f"column {column!r} is missing; did you mean '{column}s'"):
        write_log(tmp_path / "log", parts, SCHEMA)


def test_a_missing_validation_split_is_held_out_by_group(tmp_path):
    log = write_log(tmp_path / "log", {"train": frame(400), "test": frame(8, 400)}, SCHEMA)
    train, valid = log.split("train"), log.split("valid")
    assert len(train) + len(valid) == 400
    assert 20 <= len(valid) <= 60  # 10 of 100 groups of 4 are expected, sd 3
    assert not set(train.group) & set(valid.group)


def test_a_missing_validation_split_is_held_out_by_row_where_groups_may_leak(tmp_path):
    schema = SCHEMA.model_copy(update={"split": SplitRule(by="random", allow_group_leak=True)})
    log = write_log(tmp_path / "log", {"train": frame(400), "test": frame(8, 400)}, schema)
    assert set(log.split("train").group) & set(log.split("valid").group)


def test_hold_out_takes_at_least_one_group():
    for seed in range(20):
        rest, out = hold_out(frame(12), "user", 0.01, seed)
        assert (rest.height, out.height) == (8, 4)


def test_ids_are_the_same_text_whatever_the_column_holds_beside_them():
    assert as_text(pl.Series([1.0, 2.5, None, math.nan, 1e300])).to_list() == [
        "1",
        "2.5",
        None,
        None,
        "1e+300",
    ]
    assert as_text(pl.Series([1, 2])).to_list() == ["1", "2"]


@pytest.mark.parametrize("missing", [-1, -1.0, "-1", "-1.0"])
@pytest.mark.parametrize("dtype", [pl.Int64, pl.Float32, pl.String])
def test_a_declared_missing_value_matches_in_every_type(missing, dtype):
    values, known = label_values(pl.Series([-1, 0, 1]).cast(dtype), Label(name="y", missing=missing))
    assert (values.tolist(), known.tolist()) == ([0.0, 0.0, 1.0], [False, True, True])


@pytest.mark.parametrize("positive", [2, "2", 2.0])
def test_a_declared_positive_value(positive):
    values, _ = label_values(pl.Series([1.0, 2.0, None]), Label(name="y", positive=positive))
    assert values.tolist() == [0.0, 1.0, 0.0]


@pytest.mark.parametrize(
    "times",
    [
        pl.Series([1_704_067_200], dtype=pl.Int32),
        pl.Series([1_704_067_200.0]),
        pl.Series([1_704_067_200_000]),
        pl.Series([1_704_067_200_000_000]),
        pl.Series([1_704_067_200_000_000_000]),
        pl.Series([20240101], dtype=pl.Int32),
        pl.Series(["2024-01-01"]),
        pl.Series(["2024-01-01T02:00:00+02:00"]),
        pl.Series(["2024-01-01 01:00"]).str.to_datetime(time_zone="Europe/Berlin"),
    ],
)
def test_times_are_milliseconds_utc(times):
    assert milliseconds(times).tolist() == [1_704_067_200_000]


def test_times_that_could_be_two_days_are_refused():
    with pytest.raises(ValueError, match="which number is the day, got texts such as '01/02/2025'"):
        milliseconds(pl.Series(["01/02/2025", "03/02/2025 10:00"]))
    assert milliseconds(pl.Series([86_400, 90_000])).tolist() == [86_400_000, 90_000_000]  # seconds, no dates


def test_a_log_is_as_open_as_other_files(tmp_path):
    from equipoise.data import from_frame

    table = pl.DataFrame({"x": range(60), "click": [0, 1, 1] * 20})
    (tmp_path / "beside").mkdir()
    made = from_frame(table, labels=["click"], out=tmp_path / "log")
    assert made.path.stat().st_mode == (tmp_path / "beside").stat().st_mode


def test_an_old_log_is_put_back_when_the_new_one_cannot_be_renamed(log, monkeypatch):
    before, rename = log.fingerprint, Path.rename

    def broken(self, target):
        if self.name.startswith(".log.") and not self.name.endswith(".old"):
            raise OSError(errno.EIO, "broken")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", broken)
    with pytest.raises(OSError, match="broken"):
        write_log(log.path, frames() | {"test": frame(5, 29)}, SCHEMA, overwrite=True)
    assert [p.name for p in log.path.parent.iterdir()] == ["log"]
    assert Log.open(log.path).fingerprint == before
