"""Census-Income: raw text and Parquet in, two tasks out; neither label nor weight among the features."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from equipoise.data import prepare
from equipoise.data.census import COLUMNS, NUMERICAL, read, schema

REAL = Path(os.environ.get("EQUIPOISE_DATA", Path(__file__).parents[2] / "shared" / "data")) / "census_income"


def line(i: int) -> str:
    """One line as published: fields with a leading space, numbers too, the label last."""
    fields = [" ?" if name == "state_prev_res" else " Not in universe" for name in COLUMNS]
    for name in NUMERICAL:
        fields[COLUMNS.index(name)] = f" {i % 7}"
    fields[COLUMNS.index("age")] = f"{20 + i}"
    fields[COLUMNS.index("sex")] = " Female" if i % 2 else " Male"
    fields[COLUMNS.index("marital_stat")] = " Never married" if i % 3 == 0 else " Divorced"
    fields[COLUMNS.index("instance_weight")] = " 1700.09"
    fields[COLUMNS.index("income_50k")] = " 50000+." if i % 5 == 0 else " - 50000."
    return ",".join(fields)


def write(path: Path, lines: range) -> Path:
    text = "".join(line(i) + "\n" for i in lines)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


def positives(log, split: str) -> dict[str, int]:
    return {task: int(log.split(split).labels(task)[0].sum()) for task in log.schema.tasks}


def test_raw_text_is_stripped_and_typed(tmp_path):
    frame = read(write(tmp_path / "census-income.data", range(30)))
    assert frame.shape == (30, 42)
    assert frame["marital_stat"].unique().sort().to_list() == ["Divorced", "Never married"]
    assert frame["income_50k"].unique().sort().to_list() == ["- 50000.", "50000+."]
    assert frame["state_prev_res"][0] == "?"  # the published missing value stays a category of its own
    assert frame["age"].to_list() == [20.0 + i for i in range(30)]


def test_labels_and_weight_are_no_features():
    names = [feature.name for feature in schema().features]
    assert [len(schema().numerical), len(schema().categorical)] == [7, 32]
    assert {"marital_stat", "income_50k", "instance_weight"}.isdisjoint(names)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_both_files_keep_the_published_test_split(tmp_path, suffix):
    raw = tmp_path / "raw"
    raw.mkdir()
    write(raw / f"census-income.data{suffix}", range(60))
    write(raw / f"census-income.test{suffix}", range(100, 130))
    (raw / "census-income.names").write_text("as UCI ships it, no data")
    log = prepare("census_income", raw, tmp_path / "log")
    assert len(log.split("test")) == 30
    assert len(log.split("train")) + len(log.split("valid")) == 60
    assert positives(log, "test") == {"income": 6, "never_married": 10}
    assert log.manifest["notes"]["published"] == [
        f"census-income.data{suffix} rows: 60, UCI documents 199,523; a sample or another release?",
        f"census-income.test{suffix} rows: 30, UCI documents 99,762; a sample or another release?",
    ]


def test_one_file_is_cut_60_10_30_by_seed(tmp_path):
    raw = write(tmp_path / "census-income.test", range(100))
    logs = [prepare("census_income", raw, tmp_path / f"{i}", seed=seed) for i, seed in enumerate((0, 0, 1))]
    assert [len(logs[0].split(name)) for name in ("train", "valid", "test")] == [60, 10, 30]
    assert logs[0].fingerprint == logs[1].fingerprint != logs[2].fingerprint
    total = {task: sum(positives(logs[0], s)[task] for s in logs[0].splits) for task in logs[0].schema.tasks}
    assert total == {"income": 20, "never_married": 34}


def test_parquet_gives_the_same_log(tmp_path):
    text = write(tmp_path / "census-income.test", range(100))
    read(text).write_parquet(tmp_path / "census-income.test.parquet")
    logs = [
        prepare("census_income", path, tmp_path / path.suffix[1:])
        for path in (text, tmp_path / "census-income.test.parquet")
    ]
    assert logs[0].fingerprint == logs[1].fingerprint


def cut(text: str) -> str:
    return text[: -len(" - 50000.\n") - 20]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "the file may be cut off"),
        (lambda text: text.replace("Female", "Fem,ale", 1), "cannot be read as Census-Income"),
        (lambda text: text.replace("\n25,", "\nold,", 1), "cannot be read as Census-Income"),
        (lambda text: "\n".join(row.partition(",")[2] for row in text.splitlines()), "must have 42 columns"),
        (lambda text: "", "cannot be read as Census-Income"),
    ],
    ids=["cut off", "one field more", "word for a number", "41 columns", "empty"],
)
def test_damaged_text_is_refused(tmp_path, damage, message):
    raw = write(tmp_path / "census-income.data", range(30))
    raw.write_text(damage(raw.read_text()))
    with pytest.raises(ValueError, match=message):
        prepare("census_income", raw, tmp_path / "log")
    assert not (tmp_path / "log").exists()


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"must hold census-income\.data"):
        prepare("census_income", tmp_path, tmp_path / "log")
    write(tmp_path / "census-income.test", range(30))
    write(tmp_path / "census-income.test.gz", range(30))
    with pytest.raises(ValueError, match=r"got census-income\.test, census-income\.test\.gz"):
        prepare("census_income", tmp_path, tmp_path / "log")
    pl.DataFrame({"age": [1]}).write_parquet(tmp_path / "census-income.data.parquet")
    with pytest.raises(ValueError, match="must have the column 'class_worker'"):
        prepare("census_income", tmp_path / "census-income.data.parquet", tmp_path / "log")


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="the real file is not here (set EQUIPOISE_DATA)")
def test_published_test_file(tmp_path):
    log = prepare("census_income", REAL, tmp_path / "log")
    assert log.manifest["notes"]["published"] == ["census-income.test.parquet rows: 99,762, as UCI documents"]
    assert [len(log.split(name)) for name in ("train", "valid", "test")] == [59858, 9976, 29928]
    rates = {
        t: np.concatenate([s.labels(t)[0] for s in log.splits.values()]).mean() for t in log.schema.tasks
    }
    assert rates["income"] == pytest.approx(0.062, abs=5e-4)  # as data/README.md gives them, rounded
    assert rates["never_married"] == pytest.approx(0.4325, abs=5e-5)
