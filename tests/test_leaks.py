"""Splits that keep groups and the future apart, and logs and schemas that say what is wrong with them."""

from __future__ import annotations

import json
import shutil

import numpy as np
import polars as pl
import pytest

from equipoise.data import Categorical, Label, Log, Multi, Schema, SplitRule, from_frame, shards, write_log
from equipoise.data.leaks import check_splits

N = 400
ROWS = pl.DataFrame(
    {
        "user": np.arange(N) % 40,
        "ts": 1_700_000_000 + np.arange(N)[::-1] // 2,
        "item": ["a", "b"] * (N // 2),
        "m": [["a"] * (i % 3) for i in range(N)],
        "click": np.arange(N) % 2,
    }
)


def schema(rule, group="user", time="ts"):
    features = (Categorical(name="item"), Multi(name="m"))
    return Schema(features=features, labels=(Label(name="click"),), group=group, time=time, split=rule)


@pytest.mark.parametrize("by", ["group", "random"])
def test_no_group_lies_on_two_sides(by, monkeypatch):
    monkeypatch.setattr(shards, "SHARD", 64)
    log = from_frame(ROWS, schema=schema(SplitRule(by=by)))
    leaks = check_splits(log)
    assert leaks.groups == {} and all(len(s) for s in log.splits.values())
    assert log.manifest["notes"]["suspects"] == []


def test_rows_are_drawn_when_asked_for_and_it_is_said():
    log = from_frame(ROWS, schema=schema(SplitRule(by="random", allow_group_leak=True)))
    leaks = check_splits(log)
    groups = log.groups()
    both = set(log.split("train").group) & set(log.split("test").group)
    assert len(groups) == 40 and leaks.groups["train", "test"] == len(both) > 0
    assert f"{len(both)} groups have rows in both train and test" in leaks.lines()
    assert "allow_group_leak" in log.manifest["notes"]["suspects"][0]


def test_a_split_by_time_is_in_order_and_another_is_counted(tmp_path):
    assert check_splits(from_frame(ROWS, schema=schema(SplitRule(by="time")))).late == {}
    frames = {"train": ROWS[:200], "valid": ROWS[200:300], "test": ROWS[300:]}  # time runs backwards
    log = write_log(tmp_path / "log", frames, schema(None))
    assert check_splits(log).late == {("train", "valid"): 200, ("valid", "test"): 100, ("train", "test"): 200}
    plain = write_log(tmp_path / "plain", frames, schema(None, group=None, time=None))
    assert check_splits(plain).lines() == []


def test_rules_that_cannot_be_kept_are_refused():
    with pytest.raises(ValueError, match="by='group' needs a group column"):
        schema(SplitRule(by="group"), group=None)
    with pytest.raises(ValueError, match="needs by='random', got 'time'"):
        SplitRule(by="time", allow_group_leak=True)


@pytest.fixture
def folder(tmp_path):
    frames = dict.fromkeys(("train", "valid", "test"), ROWS)
    return write_log(tmp_path / "log", frames, schema(None)).path


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("rows", 3, "rows must be a dict, got 3"),
        ("sha256", {}, r"sha256 of 'train/[a-z.]*npy' is missing"),
        ("splits", {}, "splits.train is missing"),
        ("splits", {"train": []}, "splits.train must be a list of shards"),
        ("files", {"../x": {"a": 1}}, "'../x/a' must lie within the folder"),
        ("tables", {"a": "1"}, "the size of 'a' must be a whole number"),
        ("notes", {}, "notes.unseen must be a dict"),
        ("edges", {"item": 3}, "edges.item must be a list of numbers"),
    ],
)
def test_a_damaged_manifest_is_said(folder, key, value, said):
    file = folder / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    with pytest.raises(ValueError, match=said):
        Log.open(folder)


@pytest.mark.parametrize(
    ("name", "array", "said"),
    [
        ("ids", np.zeros((N, 2), np.int32), r"array 'ids' must be int32 \[400, 1\], got int32 \[400, 2\]"),
        ("labels", np.zeros((7, 1), np.float32), "labels must have the 400 rows of the manifest, got 7"),
        ("time", np.zeros(N, np.float64), "array 'time' must be int64"),
        ("m.offsets", np.zeros(N + 1, np.int64), "m.offsets must go from 0 to 399, got 0 to 0"),
    ],
)
def test_a_shard_that_does_not_fit_is_said(folder, name, array, said):
    file = folder / "test" / f"{name}.npy"
    np.save(file, array)
    resize(folder, "test", file)
    with pytest.raises(ValueError, match=said):
        Log.open(folder)


def test_lists_that_do_not_ascend_are_said_when_read(folder):
    file = folder / "test" / "m.offsets.npy"
    offsets = np.load(file)
    offsets[5] = 350
    np.save(file, offsets)
    resize(folder, "test", file)
    with pytest.raises(ValueError, match=r"'m.offsets' does not ascend"):
        list(Log.open(folder).split("test").batches(10))


def test_a_header_and_a_table_that_are_damaged_are_said(folder, tmp_path):
    copied = shutil.copytree(folder, tmp_path / "copy")
    file = copied / "train" / "ids.npy"
    file.write_bytes(file.read_bytes()[:20] + b"\0\0" + file.read_bytes()[22:])
    with pytest.raises(ValueError, match="is no array of a log"):
        Log.open(copied)
    table = folder / "vocabulary" / "item.parquet"
    table.write_bytes(bytes(table.stat().st_size))
    with pytest.raises(ValueError, match="the table cannot be read"):
        Log.open(folder).vocabulary("item")


def resize(folder, shard, file):
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][shard][file.name] = file.stat().st_size
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "raw", [b"\xff", b"a: 2026-99-99", b'{"group": "\\ud800"}', b"&a [*a]", b"[" * 5000, b"? [1]\n: 2"]
)
def test_a_file_that_is_no_schema_is_said(tmp_path, raw):
    (tmp_path / "schema.yaml").write_bytes(raw)
    with pytest.raises(ValueError, match="schema") as found:
        Schema.load(tmp_path / "schema.yaml")
    assert type(found.value) is ValueError


@pytest.mark.parametrize("value", [1e300, 2**90])
def test_a_time_beyond_int64_is_said(tmp_path, value):
    odd = ROWS.drop("ts").with_columns(ts=pl.lit(value, dtype=pl.Float64))
    with pytest.raises(ValueError, match="seconds or milliseconds since 1970"):
        write_log(tmp_path / "log", dict.fromkeys(("train", "valid", "test"), odd), schema(None))
