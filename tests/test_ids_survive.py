"""Every id comes back as it was: whole numbers of any size, any Unicode, floats, words, dates."""

from __future__ import annotations

import datetime as dt

import numpy as np
import polars as pl
import pytest

from equipoise.data import Categorical, Label, Log, Multi, Schema, SplitRule, prepare_table, write_log
from equipoise.data.encode import as_text

ODD = [
    "\0",
    "a\0b",
    "😀",
    "007",
    "7",
    "",
    " ",
    " a ",
    "\n",
    "e\u0301",
    "é",
    "NA",
    "null",
    "None",
    "\ufffe",
    '"',
    "-0",
    "1e5",
]
KINDS = {
    "int64": (pl.Int64, [2**63 - 1, -(2**63), 0, -1, 2**53 + 1, 2**53]),
    "uint64": (pl.UInt64, [2**64 - 1, 2**63, 0, 2**53 + 1]),
    "int128": (pl.Int128, [2**100, -(2**100), 7]),
    "int8": (pl.Int8, [-128, 127, 0]),
    "text": (pl.String, ODD),
    "category": (pl.Categorical, ["b", "a", "😀", ""]),
    "enum": (pl.Enum(["x", "007", ""]), ["x", "007", ""]),
    "bool": (pl.Boolean, [True, False]),
    "date": (pl.Date, [dt.date(2026, 1, 31), dt.date(1969, 12, 31)]),
    "datetime": (pl.Datetime("us"), [dt.datetime(2026, 1, 31, 12, 0, 0, 5), dt.datetime(1, 1, 1)]),
    "zoned": (pl.Datetime("ms", "Asia/Shanghai"), [dt.datetime(2026, 1, 31, tzinfo=dt.UTC)]),
    "time": (pl.Time, [dt.time(23, 59, 59, 1)]),
    "decimal": (pl.Decimal(20, 2), ["1.10", "12345678901234567.89"]),
}


def through(path, values: pl.Series, feature) -> pl.Series:
    frame = pl.DataFrame({"a": pl.concat([values, values]), "click": [0, 1] * len(values)})
    schema = Schema(features=(feature,), labels=(Label(name="click"),))
    write_log(path / "log", dict.fromkeys(("train", "valid", "test"), frame), schema)
    log = Log.open(path / "log", verify=True)
    batch = next(log.split("test").batches(len(values)))
    ids = batch.ids[:, 0] if isinstance(feature, Categorical) else batch.multi["a"].values
    return log.values("a", ids.numpy())


@pytest.mark.parametrize("kind", KINDS)
def test_a_value_comes_back_and_missing_stays_apart(tmp_path, kind):
    dtype, values = KINDS[kind]
    series = pl.Series("a", [*values, None]).cast(dtype)
    back = through(tmp_path, series, Categorical(name="a"))
    assert back.to_list() == series.cast(pl.String).to_list()
    assert back[-1] is None and back[:-1].null_count() == 0
    assert back[:-1].n_unique() == len(values)


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "category"])
def test_a_list_of_values_comes_back(tmp_path, kind):
    dtype, values = KINDS[kind]
    series = pl.Series("a", [[v] for v in values]).cast(pl.List(dtype))
    back = through(tmp_path, series, Multi(name="a"))
    assert back.to_list() == [v for v in series.explode().cast(pl.String).to_list() if v != ""]


@pytest.mark.parametrize("dtype", [pl.Float64, pl.Float32])
def test_floats_come_back_as_the_same_number(tmp_path, dtype):
    values = [1e18, -1e18, 2.0**53, 0.1, 1e300 if dtype == pl.Float64 else 1e30, -2.5, 3.0, 1e-9]
    series = pl.Series("a", [*values, float("nan"), None], dtype=dtype)
    back = through(tmp_path, series, Categorical(name="a")).to_list()
    assert back[-2:] == [None, None]
    assert [float(v) for v in back[:-2]] == series.to_list()[:-2]
    if dtype == pl.Float64:
        assert (
            back[0] == "1000000000000000000" and back[6] == "3"
        )  # as the same id in a column of whole numbers
    lists = pl.Series("a", [[v] for v in values], dtype=pl.List(dtype))
    (tmp_path / "multi").mkdir()
    assert through(tmp_path / "multi", lists, Multi(name="a")).to_list() == back[:-2]


@pytest.mark.parametrize("train", range(5))
def test_one_id_in_files_of_other_types_is_one_id(tmp_path, train):
    values = pl.Series("a", [1, 10**18, 7, 10**18 + 2**10])
    types = (pl.Int64, pl.UInt64, pl.Float64, pl.String, pl.Int128)
    frames = [pl.DataFrame({"a": values.cast(t), "click": [0, 1, 0, 1]}) for t in types]
    schema = Schema(features=(Categorical(name="a", min_count=1),), labels=(Label(name="click"),))
    for other in frames:
        splits = {"train": frames[train], "valid": other, "test": other}
        log = write_log(tmp_path / "log", splits, schema, overwrite=True)
        ids = next(log.split("test").batches(4)).ids[:, 0].numpy()
        assert log.values("a", ids).to_list() == [str(v) for v in values], other["a"].dtype


def test_groups_come_back_and_are_one_for_any_type(tmp_path):
    values = [2**63 - 1, -5, 0, 2**53 + 1]
    for whole in ([3.0, 3, "3"], [10.0**18, 10**18, str(10**18)]):
        assert {as_text(pl.Series([value])).item() for value in whole} == {str(int(whole[1]))}
    frame = pl.DataFrame({"g": values * 3, "x": ["a"] * 12, "click": [0, 1] * 6})
    schema = Schema(features=(Categorical(name="x"),), labels=(Label(name="click"),), group="g")
    log = write_log(tmp_path / "log", dict.fromkeys(("train", "valid", "test"), frame), schema)
    codes = log.split("test").group
    assert log.groups().gather(codes).to_list() == [str(v) for v in frame["g"]]


def test_ids_of_a_csv_and_a_parquet_file(tmp_path):
    words = [w for w in ODD if w not in ("", "NA", "null", "\0", "a\0b")] * 4
    quarter = len(words) // 4
    split = ["train"] * 2 * quarter + ["valid"] * quarter + ["test"] * quarter
    frame = pl.DataFrame({"a": words, "click": np.arange(len(words)) % 2, "split": split})
    rule = SplitRule(by="column", column="split")
    schema = Schema(features=(Categorical(name="a"),), labels=(Label(name="click"),), split=rule)
    frame.write_csv(tmp_path / "t.csv")
    frame.write_parquet(tmp_path / "t.parquet")
    for file in ("t.csv", "t.parquet"):
        log, _ = prepare_table(tmp_path / file, tmp_path / "log", schema=schema, overwrite=True)
        test = frame.filter(pl.col("split") == "test")
        ids = next(log.split("test").batches(len(test))).ids[:, 0].numpy()
        assert log.values("a", ids).to_list() == test["a"].to_list(), file
