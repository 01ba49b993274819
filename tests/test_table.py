"""A user's own table: inference, suspects, splits, and errors that teach."""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pytest
from logs import frame

from equipoise.data import (
    Label,
    Schema,
    SplitRule,
    from_frame,
    infer_schema,
    parse_label,
    prepare_table,
    read_table,
)


def test_parse_label():
    assert parse_label("purchase:given=click") == Label(name="purchase", given="click")
    assert parse_label("dwell:regression:log1p") == Label(name="dwell", kind="regression", transform="log1p")
    with pytest.raises(ValueError, match="did you mean 'given'"):
        parse_label("purchase:givn=click")
    with pytest.raises(ValueError, match="kind 'binary', 'regression', 'watch' or 'ordinal'"):
        parse_label("dwell:regresion")


def test_infer_takes_columns_for_what_they_are():
    n = 400
    table = frame(n).with_columns(
        pl.Series("answer", frame(n)["click"].to_numpy() * 2.0 + 1),
        pl.lit(1).alias("constant"),
        pl.Series("request", [f"r{i}" for i in range(n)]),
        pl.Series("money", np.exp(np.random.default_rng(0).normal(0, 4, n))),
        pl.Series("play_time", np.random.default_rng(1).normal(size=n)),
    )
    found = infer_schema(table, ["click", "dwell:regression"], time="ts", group="user")
    kinds = {f.name: f.kind for f in found.schema.features}
    assert kinds["user"] == kinds["city"] == "categorical" and kinds["x"] == "numerical"
    assert next(f for f in found.schema.numerical if f.name == "money").transform == "log1p"
    assert not {"answer", "constant", "request", "ts", "click", "dwell"} & set(kinds)
    text = "\n".join(found.suspects)
    for name in ("answer: left out", "constant: left out", "request: left out", "play_time: kept"):
        assert name in text
    assert found.schema.split == SplitRule(by="time")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": []}, "at least one column"),
        ({"labels": ["clik"]}, "did you mean 'click'"),
        ({"labels": ["click"], "time": "tss"}, "did you mean 'ts'"),
        ({"labels": ["click:given=bu", "buy"]}, "did you mean 'buy'"),
    ],
)
def test_infer_names_the_nearest_column(arguments, message):
    with pytest.raises(ValueError, match=message):
        infer_schema(frame(), **arguments)


@pytest.mark.parametrize("make", [lambda t: t, lambda t: t.lazy(), lambda t: t.to_dict(as_series=False)])
def test_from_frame_takes_many_forms(make):
    log = from_frame(make(frame()), labels=["click", "buy:given=click"], time="ts", group="user")
    assert sum(len(s) for s in log.splits.values()) == 240
    folder = log.path.parent
    assert folder.is_dir()
    del log
    assert not folder.exists()


def test_from_frame_takes_pandas():
    table = pd.DataFrame({"c": ["a", "b"] * 60, "x": np.arange(120.0), "click": [0, 1, 1] * 40})
    assert from_frame(table, labels=["click"]).schema.tasks == ["click"]


def test_splits_by_time_column_and_group(tmp_path):
    log, _ = prepare_table(frame(), tmp_path / "a", labels=["click"], time="ts")
    spans = [log.split(s).time_range() for s in ("train", "valid", "test")]
    assert spans[0][1] < spans[1][0] <= spans[1][1] < spans[2][0]
    table = frame().with_columns(pl.Series("part", ["train"] * 200 + ["test"] * 40))
    log, _ = prepare_table(table, tmp_path / "b", labels=["click"], split="part")
    assert len(log.split("test")) == 40 and len(log.split("train")) + len(log.split("valid")) == 200
    big = pl.concat([frame(seed=i).with_columns(user=pl.col("user") + 12 * i) for i in range(5)])
    log, _ = prepare_table(big, tmp_path / "c", labels=["click"], group="user")
    groups = [set(log.split(s).group.tolist()) for s in ("train", "valid", "test")]
    assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]
    with pytest.raises(ValueError, match="train, valid and test"):
        prepare_table(table.with_columns(part=pl.lit("tset")), tmp_path / "d", labels=["click"], split="part")


def test_files_that_cannot_be_read_to_their_end(tmp_path):
    frame().drop("tags").write_parquet(tmp_path / "t.parquet")
    whole = (tmp_path / "t.parquet").read_bytes()
    (tmp_path / "t.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cut off or damaged"):
        read_table(tmp_path / "t.parquet")
    (tmp_path / "t.csv").write_text("a,b\n1,2\n3,4,5\n")
    with pytest.raises(ValueError, match="cut off or damaged"):
        read_table(tmp_path / "t.csv")
    with pytest.raises(ValueError, match="neither"):
        read_table(tmp_path / "none.csv")
    (tmp_path / "t.xlsx").write_text("")
    with pytest.raises(ValueError, match=r"must end in \.csv"):
        read_table(tmp_path / "t.xlsx")


def test_schema_files_round_trip_and_refuse_unknown_keys(tmp_path):
    schema = infer_schema(frame(), ["click"], time="ts").schema
    for name in ("s.yaml", "s.json"):
        schema.save(tmp_path / name)
        assert Schema.load(tmp_path / name) == schema
    with pytest.raises(ValueError, match="did you mean 'features'"):
        Schema.read({"featurs": [], "labels": [{"name": "y"}]})
    with pytest.raises(ValueError, match="did you mean 'min_count'"):
        Schema.read(
            {"features": [{"kind": "categorical", "name": "c", "min_cuont": 1}], "labels": [{"name": "y"}]}
        )
    with pytest.raises(ValueError, match="different names"):
        Schema.read({"features": [], "labels": [{"name": "y"}, {"name": "y"}]})
