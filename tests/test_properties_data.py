"""Properties of the data layer over tables and readers that hypothesis makes up."""

from __future__ import annotations

import importlib
import math
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise.data import Categorical, Label, Log, Multi, Numerical, Schema, from_frame, shards, write_log

quick = settings(max_examples=50, deadline=None, derandomize=True)
word = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
"""Any text of code points; lone surrogates are no Unicode text and no Parquet file holds them."""
whole = st.integers(-(2**63), 2**63 - 1)
ids = st.sampled_from(
    [word, whole, st.integers(2**63, 2**64 - 1), st.booleans(), st.sampled_from(["a", "b"])]
)
number = st.floats(-1e6, 1e6) | st.sampled_from([0.0, -0.0, math.nan, 1e-300])


@st.composite
def tables(draw) -> pl.DataFrame:
    """Rows of every kind, with missing values where a schema allows them."""
    n = draw(st.integers(1, 12))

    def column(values, missing=True, size=n):
        return draw(st.lists(st.none() | values if missing else values, min_size=size, max_size=size))

    id_kind = draw(ids)
    pool = draw(st.lists(id_kind, min_size=1, max_size=4))
    unsigned = isinstance(pool[0], int) and not isinstance(pool[0], bool) and max(pool) >= 2**63
    dtype = pl.UInt64 if unsigned else None
    lists = st.lists(word, max_size=4)
    return pl.DataFrame(
        {
            "id": pl.Series(column(st.sampled_from(pool)), dtype=dtype),
            "x": pl.Series(column(number), dtype=pl.Float64),
            "raw": pl.Series(column(number), dtype=pl.Float64),
            "many": pl.Series(column(lists), dtype=pl.List(pl.String)),
            "group": pl.Series(column(whole), dtype=pl.Int64),
            "time": pl.Series(column(st.integers(10**11, 10**14), missing=False), dtype=pl.Int64),
            "w": pl.Series(column(st.floats(0, 1e6, width=32), missing=False), dtype=pl.Float64),
            "click": pl.Series(column(st.sampled_from([0, 1])), dtype=pl.Int8),
            "dwell": pl.Series(column(st.floats(-1e6, 1e6, width=32)), dtype=pl.Float64),
        }
    )


def read_back(log: Log, name: str, size: int):
    """Return a split's rows in order: {array: [N, ...]} and {multi: lists}."""
    found = list(log.split(name).batches(size))
    rows = torch.cat([b.row for b in found]).numpy()
    assert rows.tolist() == list(range(len(log.split(name))))
    lists = []
    for batch in found:
        ragged = batch.multi["many"]
        lists += [part.tolist() for part in torch.tensor_split(ragged.values, ragged.offsets[1:-1])]
    return found, lists


@quick
@given(
    st.tuples(tables(), tables(), tables()),
    st.integers(1, 3),
    st.sampled_from([8, 16, shards.SHARD]),
    st.integers(1, 13),
)
def test_a_table_comes_back_value_for_value(frames, min_count, shard, size):
    by_split = dict(zip(("train", "valid", "test"), frames, strict=True))
    schema = Schema(
        features=(
            Categorical(name="id", min_count=min_count),
            Numerical(name="x"),
            Numerical(name="raw", scale="none"),
            Multi(name="many", min_count=min_count),
        ),
        labels=(Label(name="click"), Label(name="dwell", kind="regression")),
        group="group",
        time="time",
        weight="w",
    )
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "SHARD", shard)
        log = write_log(Path(folder) / "log", by_split, schema)
        for name, frame in by_split.items():
            compare(Log.open(log.path, verify=True), name, frame, by_split["train"], min_count, size)


def compare(log: Log, name: str, frame: pl.DataFrame, train: pl.DataFrame, min_count: int, size: int) -> None:
    found, lists = read_back(log, name, size)
    counts = Counter(train["id"].drop_nulls().cast(pl.String).to_list())
    wanted = [v if v is not None and counts[v] >= min_count else None for v in frame["id"].cast(pl.String)]
    id_column = torch.cat([b.ids[:, 0] for b in found]).numpy()
    assert log.values("id", id_column).to_list() == wanted

    several = Counter(train["many"].explode().drop_nulls().to_list())
    for got, row in zip(lists, frame["many"].to_list(), strict=True):
        kept = [v for v in row or [] if v not in (None, "")]
        assert log.values("many", np.array(got, np.int64)).to_list() == [
            v if several[v] >= min_count else None for v in kept
        ]

    numbers = torch.cat([b.numerical for b in found]).numpy()
    for at, column in enumerate(("x", "raw")):
        mean, std = log.manifest["scaling"][column]
        values = frame[column].fill_null(math.nan).to_numpy()
        scaled = (values - mean) / std
        if column == "x":
            scaled = np.clip(scaled, -10, 10)
        assert np.array_equal(numbers[:, at], np.nan_to_num(scaled, nan=0.0).astype(np.float32))
    for task in ("click", "dwell"):
        known = torch.cat([b.masks[task] for b in found]).tolist()
        assert known == frame[task].is_not_null().to_list()
        assert torch.cat([b.labels[task] for b in found]).tolist() == frame[task].fill_null(0).to_list()
    assert torch.cat([b.weight for b in found]).tolist() == frame["w"].to_list()
    codes = torch.cat([b.group for b in found]).numpy()
    assert log.groups().gather(codes).to_list() == frame["group"].cast(pl.String).to_list()
    assert np.concatenate([p["time"] for p in log.split(name).parts]).tolist() == frame["time"].to_list()


@pytest.fixture(scope="module")
def logs(tmp_path_factory) -> dict[tuple[int, int], Log]:
    """{(rows of a shard, of a split): log}, whose feature x is the row's own number."""
    found = {}
    for shard in (8, 24, 1000):
        for rows in (1, 7, 8, 61, 200):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(shards, "SHARD", shard)
                frame = pl.DataFrame({"x": np.arange(rows), "m": [[i] * (i % 3) for i in range(rows)], "click": np.arange(rows) % 2})  # fmt: skip
                schema = Schema(
                    features=(Numerical(name="x", scale="none"), Multi(name="m", min_count=1)),
                    labels=(Label(name="click"),),
                )
                splits = dict.fromkeys(("train", "valid", "test"), frame)
                path = tmp_path_factory.mktemp("logs") / "log"
                found[shard, rows] = write_log(path, splits, schema)
    return found


@quick
@given(
    st.sampled_from([8, 24, 1000]),
    st.sampled_from([1, 7, 8, 61, 200]),
    st.sampled_from([8, 16, 64]),
    st.integers(1, 70),
    st.integers(1, 5),
    st.booleans(),
    st.integers(0, 3),
    st.data(),
)
def test_an_epoch_holds_each_row_once(logs, shard, rows, block, size, world, shuffle, epoch, data):
    split = logs[shard, rows].split("train")
    options = {"shuffle": shuffle, "seed": 5, "epoch": epoch, "world_size": world}
    module = importlib.import_module("equipoise.data.batches")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK", block)
        read = [list(split.batches(size, rank=rank, **options)) for rank in range(world)]
        every = [row for rank in read for batch in rank for row in batch.row.tolist()]
        assert sorted(every) == list(range(rows))
        if not shuffle and world == 1:
            assert every == sorted(every)
        counts = [sum(len(b) for b in rank) for rank in read]
        assert max(counts) - min(counts) <= 1
        for rank in read:
            assert all(len(b) == size for b in rank[:-1])
            for batch in rank:  # a row's values travel together
                assert batch.numerical[:, 0].tolist() == batch.row.tolist()
                assert batch.labels["click"].tolist() == (batch.row % 2).tolist()
                assert batch.multi["m"].offsets.diff().tolist() == (batch.row % 3).tolist()
        rank = data.draw(st.integers(0, world - 1))
        start = data.draw(st.integers(0, len(read[rank]) + 1))
        again = [b.row.tolist() for b in split.batches(size, rank=rank, start=start, **options)]
        assert again == [b.row.tolist() for b in read[rank][start:]]
        full = [list(split.batches(size, rank=rank, drop_last=True, **options)) for rank in range(world)]
        assert {len(rank) for rank in full} == {rows // world // size}
        seen = [row for rank in full for b in rank for row in b.row.tolist()]
        assert len(seen) == len(set(seen))


@quick
@given(
    st.lists(st.sampled_from(["a", "b", "c", ""]) | st.none(), min_size=60, max_size=90), st.integers(0, 3)
)
def test_a_frame_loses_no_row_and_no_value(values, seed):
    frame = pl.DataFrame(
        {"v": pl.Series(values, dtype=pl.String), "click": [i % 2 for i in range(len(values))]}
    )
    schema = Schema.read(
        {
            "features": [{"kind": "categorical", "name": "v", "min_count": 1}],
            "labels": [{"name": "click"}],
            "split": {"by": "random", "seed": seed},
        }
    )
    log = from_frame(frame, schema=schema)
    assert sum(map(len, log.splits.values())) == len(values)
    seen: Counter[str | None] = Counter()
    for name in log.splits:
        for batch in log.split(name).batches(1000):
            seen.update(log.values("v", batch.ids[:, 0].numpy()).to_list())
    train_only = set(log.vocabulary("v")["value"])
    for value, count in Counter(values).items():
        if value is not None and value in train_only:
            assert seen[value] == count
