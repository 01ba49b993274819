"""From columns to a prepared log and back: encodings, masks, integrity, and nothing half-written."""

from __future__ import annotations

import errno
import json

import numpy as np
import polars as pl
import pytest
from logs import SCHEMA, frame, small_log

from equipoise.data import Categorical, Label, Log, Numerical, Schema, write_log


def schema_of(*features, labels=None, **more):
    return Schema(features=features, labels=labels or (Label(name="y"),), **more)


def write(path, train, test=None, schema=None, **options):
    test = train if test is None else test
    frames = {"train": pl.DataFrame(train), "valid": pl.DataFrame(train), "test": pl.DataFrame(test)}
    return write_log(path, frames, schema, **options)


def test_vocabulary_is_of_training_rows_and_unseen_is_zero(tmp_path):
    train = {"c": ["a", "a", "b", "b", "b", "rare"], "y": [0, 1, 0, 1, 0, 1]}
    test = {"c": ["b", "new", "rare", None, "a", "a"], "y": [0, 1, 0, 1, 0, 1]}
    log = write(tmp_path / "log", train, test, schema_of(Categorical(name="c")))
    assert log.schema.num_ids == {"c": 3}
    assert log.split("test").arrays["ids"][:, 0].tolist() == [1, 0, 0, 0, 2, 2]
    assert log.manifest["notes"]["unseen"]["test"]["c"] == 0.5


def test_float_ids_stay_the_same_ids(tmp_path):
    schema = schema_of(Categorical(name="c"))
    log = write(
        tmp_path / "log",
        {"c": [7, 7, 8, 8], "y": [0, 1, 0, 1]},
        {"c": [7.0, None, 8.0, 9.0], "y": [0, 1, 0, 1]},
        schema,
    )
    assert log.split("test").arrays["ids"][:, 0].tolist() == [1, 0, 2, 0]


def test_buckets_hash_every_value(tmp_path):
    schema = schema_of(Categorical(name="c", buckets=5))
    log = write(tmp_path / "log", {"c": ["a", "b", "c", None], "y": [0, 1, 0, 1]}, None, schema)
    ids = log.split("train").arrays["ids"][:, 0]
    assert log.schema.num_ids == {"c": 6}
    assert ids[3] == 0 and all(1 <= i <= 5 for i in ids[:3])


def test_numbers_are_scaled_by_training_rows_and_missing_is_counted(tmp_path):
    train = {"x": [0.0, 2.0, None, float("nan")], "y": [0, 1, 0, 1]}
    log = write(
        tmp_path / "log",
        train,
        {"x": [4.0, 1e9, 1.0, 1.0], "y": [0, 1, 0, 1]},
        schema_of(Numerical(name="x")),
    )
    assert log.split("train").arrays["numerical"][:, 0].tolist() == [-1.0, 1.0, 0.0, 0.0]
    assert log.split("test").arrays["numerical"][:2, 0].tolist() == [3.0, 10.0]  # cut at 10
    assert log.manifest["notes"]["missing_numbers"]["train"] == {"x": 2}


@pytest.mark.parametrize(
    ("column", "message"),
    [({"x": [1.0, float("inf")]}, "finite"), ({"x": ["a", "b"]}, "numbers"), ({"z": [1.0, 2.0]}, "missing")],
)
def test_bad_numbers_are_refused(tmp_path, column, message):
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "log", {**column, "y": [0, 1]}, None, schema_of(Numerical(name="x")))
    assert not list(tmp_path.iterdir())


def test_labels_are_masked_not_dropped(tmp_path):
    labels = (
        Label(name="y", missing=-1),
        Label(name="z", positive="yes"),
        Label(name="r", kind="regression"),
    )
    train = {"x": [1.0, 2.0, 3.0], "y": [1, -1, 0], "z": ["yes", None, "no"], "r": [2.5, float("nan"), 1.0]}
    log = write(tmp_path / "log", train, None, schema_of(Numerical(name="x"), labels=labels))
    for task, values, known in (
        ("y", [1, 0, 0], [1, 0, 1]),
        ("z", [1, 0, 0], [1, 0, 1]),
        ("r", [2.5, 0, 1], [1, 0, 1]),
    ):
        found, mask = log.split("train").labels(task)
        assert found.tolist() == values and mask.tolist() == [bool(k) for k in known]
    assert log.schema.label_scale["r"] == (1.75, 0.75)


@pytest.mark.parametrize("values", [["a", "b"], [0, 3]])
def test_a_binary_label_must_be_binary(tmp_path, values):
    with pytest.raises(ValueError, match="label 'y' must be 0 or 1"):
        write(tmp_path / "log", {"x": [1.0, 2.0], "y": values}, None, schema_of(Numerical(name="x")))


def test_funnel_contradictions_are_counted(tmp_path):
    labels = (Label(name="y"), Label(name="z", given="y"))
    log = write(
        tmp_path / "log",
        {"x": [1.0, 2.0], "y": [0, 1], "z": [1, 0]},
        None,
        schema_of(Numerical(name="x"), labels=labels),
    )
    assert log.manifest["notes"]["against_funnel"]["train"] == {"z": 1}


def test_summary_tells_rates(tmp_path):
    summary = small_log(tmp_path / "log").summary()["train"]
    rows = frame()
    assert summary["rows"] == 240
    assert summary["tasks"]["buy"]["missing_rate"] == pytest.approx(0.2)
    assert summary["tasks"]["click"]["positive_rate"] == pytest.approx(rows["click"].mean())
    assert summary["time"] == (1_700_000_000_000, 1_700_000_239_000)


def test_empty_split_and_existing_folder_are_refused(tmp_path):
    frames = {"train": frame(), "valid": frame(), "test": frame().head(0)}
    with pytest.raises(ValueError, match="split 'test' must have rows"):
        write_log(tmp_path / "log", frames, SCHEMA)
    small_log(tmp_path / "log")
    with pytest.raises(ValueError, match="must not exist"):
        small_log(tmp_path / "log")
    small_log(tmp_path / "log", n=100, overwrite=True)
    assert len(Log.open(tmp_path / "log").split("train")) == 100
    (tmp_path / "other").mkdir()
    with pytest.raises(ValueError, match="no prepared log"):
        small_log(tmp_path / "other", overwrite=True)


def test_a_full_disk_leaves_nothing_and_loses_nothing(tmp_path, monkeypatch):
    small_log(tmp_path / "log", n=100)

    def full(*_args, **_options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("equipoise.data.shards._Shard.append", full)
    with pytest.raises(OSError, match="disk is full"):
        small_log(tmp_path / "log", overwrite=True)
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["log"]
    assert len(Log.open(tmp_path / "log", verify=True).split("train")) == 100


def test_a_file_cut_off_is_found(tmp_path):
    small_log(tmp_path / "log")
    part = tmp_path / "log" / "train" / "ids.npy"
    whole = part.read_bytes()
    part.write_bytes(whole[:-8])
    with pytest.raises(ValueError, match=r"train/ids.npy has \d+ bytes instead"):
        Log.open(tmp_path / "log")
    part.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    Log.open(tmp_path / "log")
    with pytest.raises(ValueError, match="checksum"):
        Log.open(tmp_path / "log", verify=True)
    part.unlink()
    with pytest.raises(ValueError, match="is missing"):
        Log.open(tmp_path / "log")


def test_no_manifest_no_log(tmp_path):
    small_log(tmp_path / "log")
    manifest = tmp_path / "log" / "manifest.json"
    content = json.loads(manifest.read_text())
    manifest.write_text("{")
    with pytest.raises(ValueError, match="JSON"):
        Log.open(tmp_path / "log")
    manifest.write_text(json.dumps({**content, "format": 99}))
    with pytest.raises(ValueError, match="format 99"):
        Log.open(tmp_path / "log")
    manifest.unlink()
    with pytest.raises(ValueError, match=r"manifest\.json"):
        Log.open(tmp_path / "log")


def test_fingerprint_follows_content(tmp_path):
    first, again = small_log(tmp_path / "a"), small_log(tmp_path / "b")
    other = small_log(tmp_path / "c", seed=9)
    assert first.fingerprint == again.fingerprint != other.fingerprint


def test_only_keeps_the_right_columns(tmp_path):
    log = small_log(tmp_path / "log")
    view = log.only(["dwell", "click"])
    assert view.schema.tasks == ["dwell", "click"]
    for task in view.schema.tasks:
        for mine, theirs in zip(view.split("test").labels(task), log.split("test").labels(task), strict=True):
            assert np.array_equal(mine, theirs)
    with pytest.raises(ValueError, match="did you mean 'click'"):
        log.only(["clik"])
