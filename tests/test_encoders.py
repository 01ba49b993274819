"""Encoders beside vocabulary and scaling, each from a table to a batch and a model."""

from __future__ import annotations

import datetime as dt
import json
import math
import zlib

import numpy as np
import polars as pl
import pytest
import torch

from equipoise.data import Categorical, Label, Log, Multi, Numerical, Schema, encoders, write_log
from equipoise.data.encoders import Sample, intervals, quantile_ids
from equipoise.models.embedding import FeatureEmbedding

N = 90


def rows(seed: int = 0) -> pl.DataFrame:
    g = np.random.default_rng(seed)
    item = g.integers(0, 9, N)
    history = [g.integers(0, 9, k).tolist() for k in g.integers(0, 5, N)]
    return pl.DataFrame(
        {
            "item": item,
            "history": history,
            "strength": [[0.5 + i for i in range(len(h))] for h in history],
            "said": [",".join(f"a:{i}:{i + 0.25}" for i in h) for h in history],
            "price": g.lognormal(size=N),
            "change": g.normal(size=N) * 100,
            "click": g.integers(0, 2, N),
        }
    )


def made(path, *features, frame=None, **options) -> Log:
    frame = rows() if frame is None else frame
    schema = Schema(features=features, labels=(Label(name="click"),), **options)
    return write_log(path / "log", {"train": frame, "valid": frame, "test": frame}, schema)


def batch_and_output(log: Log, dim: int = 4):
    batch = next(log.split("train").batches(N))
    model = FeatureEmbedding(Log.open(log.path, verify=True).schema, dim, id_dropout=0.0)
    out = model(batch)
    assert out.shape == (N, model.width) and bool(out.isfinite().all())
    if out.requires_grad:  # not for numbers alone
        out.sum().backward()
    return batch, model, out


def test_hashing_without_a_seed_is_crc32_and_each_seed_hashes_anew(tmp_path):
    features = [Categorical(name=f"s{s}", column="item", buckets=64, seed=s) for s in (0, 1, 2)]
    frame = pl.DataFrame({"item": [f"item {i}" for i in range(N)], "click": [0, 1] * (N // 2)})
    log = made(tmp_path, *features, frame=frame)
    batch, _, _ = batch_and_output(log)
    wanted = [zlib.crc32(v.encode()) % 64 + 1 for v in frame["item"]]
    assert batch.ids[:, 0].tolist() == wanted
    assert int(batch.ids.min()) >= 1 and int(batch.ids.max()) <= 64
    together = [
        {(i, j) for i in range(N) for j in range(i) if batch.ids[i, s] == batch.ids[j, s]} for s in range(3)
    ]
    for a, b in ((0, 1), (0, 2), (1, 2)):  # what collides under one seed does so under another by chance only
        assert len(together[a] & together[b]) < 0.2 * len(together[a])
    with pytest.raises(ValueError, match="has no vocabulary"):
        log.values("s1", batch.ids[:, 1].numpy())


def test_quantile_ids_are_balanced_stored_and_read_back_as_intervals(tmp_path):
    frame = rows().with_columns(
        price=pl.when(pl.int_range(pl.len()) == 3).then(None).otherwise(pl.col("price"))
    )
    log = made(tmp_path, Categorical(name="price", quantiles=4), frame=frame)
    batch, model, _ = batch_and_output(log)
    ids = batch.ids[:, 0].numpy()
    assert ids[3] == 0 and log.schema.num_ids == {"price": 5} and model.sizes == {"price": 5}
    counts = np.bincount(ids, minlength=5)
    assert counts[0] == 1 and counts[1:].min() >= 21 and counts[1:].max() <= 24
    edges = json.loads((log.path / "manifest.json").read_text())["edges"]["price"]
    known = frame["price"].drop_nulls().to_numpy()
    assert edges == np.quantile(known, [0.25, 0.5, 0.75], method="lower").tolist()
    texts = Log.open(log.path).values("price", ids).to_list()
    assert texts[3] is None
    for value, text in zip(frame["price"], texts, strict=True):
        if value is not None:
            low, high = (float(end) for end in text.strip("(]").rstrip(")").split(","))
            assert low < value <= high
    with pytest.raises(ValueError, match=r"must be in 0 \.\. 4, got"):
        log.values("price", np.array([5]))
    with pytest.raises(ValueError, match="has no vocabulary"):
        log.vocabulary("price")


def test_quantiles_of_few_values_and_of_none():
    sample = Sample()
    sample.add(np.array([1.0, 1.0, 2.0, math.nan]))
    assert sample.edges(10) == [1.0]
    assert quantile_ids(np.array([0.0, 1.0, 1.5, math.nan]), [1.0]).tolist() == [1, 1, 2, 0]
    assert Sample().edges(4) == []
    empty = Sample()
    empty.add(np.full(3, math.nan))
    assert empty.edges(4) == [] and intervals([]).to_list() == ["(-inf, inf)"]
    assert intervals([-2.0, 0.5]).to_list() == ["(-inf, -2]", "(-2, 0.5]", "(0.5, inf)"]


@pytest.mark.parametrize("chunk", [1, 7, 100, 5000])
def test_the_sample_is_bounded_and_does_not_depend_on_chunks(chunk):
    values = np.random.default_rng(0).normal(size=5000)
    whole, cut = Sample(200), Sample(200)
    whole.add(values)
    for start in range(0, len(values), chunk):
        cut.add(values[start : start + chunk])
        assert sum(len(part) for part, _ in cut.held) <= 400
    assert cut.edges(20) == whole.edges(20)
    exact = np.quantile(values, np.arange(1, 20) / 20)
    rank = np.searchsorted(np.sort(values), whole.edges(20)) / 5000
    assert np.abs(rank - np.arange(1, 20) / 20).max() < 0.12  # 3.4 / sqrt(200) / 2
    assert len(exact) == len(whole.edges(20))


def test_quantiles_come_from_training_rows_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(encoders, "SAMPLE", 50)
    train = rows()
    far = train.with_columns(price=pl.col("price") + 1000)
    schema = Schema(features=(Categorical(name="price", quantiles=3),), labels=(Label(name="click"),))
    log = write_log(tmp_path / "log", {"train": train, "valid": far, "test": far}, schema)
    assert max(log.manifest["edges"]["price"]) < train["price"].max()
    assert set(next(log.split("test").batches(N)).ids[:, 0].tolist()) == {3}


def test_numbers_can_be_kept_as_they_are_and_signed(tmp_path):
    log = made(
        tmp_path,
        Numerical(name="price", scale="none"),
        Numerical(name="change", scale="none", transform="signed_log1p"),
        Numerical(name="both", column="change", transform="signed_log1p"),
    )
    batch, _, out = batch_and_output(log)
    frame = rows()
    change = frame["change"].to_numpy()
    signed = np.sign(change) * np.log1p(np.abs(change))
    assert np.array_equal(batch.numerical[:, 0].numpy(), frame["price"].to_numpy().astype(np.float32))
    assert np.array_equal(batch.numerical[:, 1].numpy(), signed.astype(np.float32))
    wanted = (signed - signed.mean()) / signed.std()
    assert np.allclose(batch.numerical[:, 2].numpy(), wanted, atol=1e-6)  # float32 rounding
    assert torch.equal(out, batch.numerical)
    huge = rows().with_columns(price=pl.lit(1e39))
    with pytest.raises(ValueError, match="'price' has scale none and must fit float32, got 1e\\+39"):
        made(tmp_path / "b", Numerical(name="price", scale="none"), frame=huge)


def pooled(log, feature, batch, model):
    ragged = batch.multi[feature]
    table = model.table.weight.detach()[model.starts[feature] :]
    found = []
    for a, b in zip(ragged.offsets[:-1], ragged.offsets[1:], strict=True):
        w = ragged.weights[a:b]
        e = table[ragged.values[a:b].long()]
        found.append((w[:, None] * e).sum(0) / w.sum() if b > a else torch.zeros(table.shape[1]))
    return torch.stack(found)


@pytest.mark.parametrize("way", ["lists", "text"])
def test_weights_reach_the_pooled_embedding(tmp_path, way):
    by_list = Multi(name="tags", column="history", weights="strength")
    by_text = Multi(name="tags", column="said", weight_separator=":")
    log = made(tmp_path, by_list if way == "lists" else by_text)
    batch, model, out = batch_and_output(log)
    ragged, frame = batch.multi["tags"], rows()
    at, ids = ragged.offsets.tolist(), log.values("tags", ragged.values.numpy()).to_list()
    for row in range(N):
        there = slice(at[row], at[row + 1])
        history = frame["history"][row].to_list()
        if way == "lists":
            assert ids[there] == [str(i) for i in history]
            assert ragged.weights[there].tolist() == frame["strength"][row].to_list()
        else:  # an id may hold the separator: the last one counts
            assert ids[there] == [f"a:{i}" for i in history]
            assert ragged.weights[there].tolist() == [i + 0.25 for i in history]
    assert torch.allclose(out.detach(), pooled(log, "tags", batch, model), atol=1e-6)  # float32 sums


def test_an_empty_or_missing_id_takes_its_weight_along(tmp_path):
    frame = pl.DataFrame(
        {"h": [["a", "", "b"], None, [None, "a"]] * 2, "w": ["1,2,3", None, "4,5"] * 2, "click": [0, 1] * 3}
    )
    log = made(tmp_path, Multi(name="h", weights="w"), frame=frame)
    ragged = next(log.split("train").batches(6)).multi["h"]
    assert log.values("h", ragged.values.numpy()).to_list() == ["a", "b", "a"] * 2
    assert ragged.weights.tolist() == [1.0, 3.0, 5.0] * 2
    assert ragged.offsets.tolist() == [0, 2, 2, 3, 5, 5, 6]


def test_the_last_ids_of_a_row_are_kept_and_the_cut_is_said(tmp_path):
    log = made(tmp_path, Multi(name="history", weights="strength", max_length=2, min_count=1))
    batch, _, _ = batch_and_output(log)
    ragged, frame = batch.multi["history"], rows()
    at, ids = ragged.offsets.tolist(), log.values("history", ragged.values.numpy()).to_list()
    for row in range(N):
        there = slice(at[row], at[row + 1])
        assert ids[there] == [str(i) for i in frame["history"][row].to_list()[-2:]]
        assert ragged.weights[there].tolist() == frame["strength"][row].to_list()[-2:]
    cut = int((frame["history"].list.len() > 2).sum())
    assert f"history: cut to the last 2 values in {3 * cut} rows" in log.manifest["notes"]["suspects"]


@pytest.mark.parametrize("sparse", [False, True])
def test_features_of_a_table_share_vocabulary_and_embeddings(tmp_path, sparse):
    frame = pl.DataFrame(
        {"item": ["a", "b", "c", "d"] * 3, "seen": [["d"], ["a", "e"], [], ["e"]] * 3, "click": [0, 1] * 6}
    )
    features = (
        Categorical(name="item", min_count=3),
        Categorical(name="again", column="item"),
        Multi(name="seen", table="item", min_count=3),
    )
    log = made(tmp_path, *features, frame=frame, sparse=sparse)
    table = log.vocabulary("seen")
    assert dict(table.iter_rows()) == {"a": 6, "d": 6, "e": 6, "b": 3, "c": 3}
    assert log.vocabulary("item").equals(table)
    assert [p.name for p in sorted((log.path / "vocabulary").iterdir())] == [
        "again.parquet",
        "item.parquet",
    ]
    assert log.schema.num_ids == {"item": 6, "again": 5, "seen": 6}
    batch = next(log.split("train").batches(12))
    assert log.values("item", batch.ids[:, 0].numpy()).to_list() == frame["item"].to_list()
    assert log.values("seen", batch.multi["seen"].values.numpy()).to_list() == ["d", "a", "e", "e"] * 3
    model = FeatureEmbedding(log.schema, 4, id_dropout=0.0)
    assert model.table.weight.shape[0] == 6 + 5 and model.starts["seen"] == model.starts["item"]
    out = model(batch)
    assert torch.allclose(out[0, 8:], out[3, :4])  # the history ["d"] is item "d"
    out.sum().backward()
    for only in (("seen",), ("again",)):
        part = FeatureEmbedding(log.schema, 4, only=only)
        assert part.table.weight.shape[0] == log.schema.num_ids[only[0]]


def test_known_counts_of_a_shared_table_are_added_once():
    from equipoise.data.encoder import Encoder

    schema = Schema(
        features=(Categorical(name="item", table="t"), Multi(name="seen", table="t")),
        labels=(Label(name="click"),),
    )
    chunk = pl.DataFrame({"item": ["a", "b"], "seen": [["b"], []], "click": [0, 1]})
    known = pl.DataFrame({"value": ["a"], "count": [1]}, schema={"value": pl.String, "count": pl.Int64})
    for names in (["t"], ["item"], ["item", "seen"]):
        encoder = Encoder.fit(schema, lambda: [chunk], known=dict.fromkeys(names, known))
        assert dict(encoder.vocab["t"].iter_rows()) == {"a": 2, "b": 2}


@pytest.mark.parametrize(
    ("features", "said"),
    [
        ([Categorical(name="a", table="t"), Multi(name="b", table="t", min_count=3)], "same min_count, got 2 and 3"),
        ([Categorical(name="a", table="t", max_size=5), Multi(name="b", table="t")], "same max_size, got 5 and None"),
        ([Categorical(name="a", buckets=5), Multi(name="b", table="a")], "same buckets, got 5 and None"),
        (
            [Categorical(name="a", buckets=5, table="t"), Categorical(name="b", buckets=5, seed=2, table="t")],
            "same seed, got None and 2",
        ),
        ([Categorical(name="a", quantiles=5), Multi(name="b", table="a")], "no vocabulary to share"),
    ],
)  # fmt: skip
def test_features_of_a_table_must_agree(features, said):
    with pytest.raises(ValueError, match=said):
        Schema(features=tuple(features), labels=(Label(name="click"),))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"seed": 3}, "needs buckets"),
        ({"quantiles": 3, "buckets": 4}, "quantiles=3 and buckets=4"),
        ({"quantiles": 3, "table": "t"}, "quantiles=3 and table='t'"),
        ({"kind": "multi", "weights": "w", "weight_separator": ":"}, "come from one place"),
        ({"kind": "multi", "weights": "a"}, "another column as weights"),
        ({"kind": "multi", "weights": "click"}, "must not be the label column"),
        ({"kind": "multi", "weight_separator": ","}, "another weight_separator"),
        ({"kind": "multi", "max_length": 0}, "greater than or equal to 1"),
    ],
)
def test_options_without_meaning_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        Schema.read({"features": [{"kind": "categorical", "name": "a"} | options], "labels": [{"name": "click"}]})  # fmt: skip


@pytest.mark.parametrize(
    ("feature", "column", "said"),
    [
        (Categorical(name="a", quantiles=3), ["x", "1", "2"], "quantiles=3 and must hold numbers, got String"),
        (Categorical(name="a", quantiles=3), [1.0, math.inf, 2.0], "must be finite, got inf in 1 rows, first in row 1"),
        (Categorical(name="a"), [[1], [2], [3]], "must hold plain values, got List"),
        (Categorical(name="a"), [{"x": 1}] * 3, "must hold plain values, got Struct"),
        (Categorical(name="a"), [b"\xff\xfe"] * 3, "written as text, got Binary"),
        (Categorical(name="a"), [dt.timedelta(1)] * 3, "written as text, got Duration"),
        (Multi(name="a"), [[[1]], [], []], "lists of plain values or text"),
        (Multi(name="a", weights="w"), [[1, 2], [1], [1, 2]], "as many as its ids in every row, got 1 for 2 ids in row 2"),
        (Multi(name="a", weights="w"), [[1, 2], [1], [3]], "finite numbers >= 0, got -1.0 in row 2"),
        (Multi(name="a", weight_separator=":"), ["x:1", "y", ""], "must hold id:weight pieces, got 'y' in row 1"),
        (Multi(name="a", weight_separator=":"), ["x:1", "y:nan", ""], "finite numbers >= 0, got 'nan' in row 1"),
        (Multi(name="a", weight_separator=":"), ["x:1", "y:much", ""], "finite numbers >= 0, got 'much' in row 1"),
    ],
)  # fmt: skip
def test_a_column_that_does_not_fit_is_refused(tmp_path, feature, column, said):
    frame = pl.DataFrame({"a": column, "w": [[1.0, 2.0], [3.0], [-1.0]], "click": [0, 1, 0]})
    with pytest.raises(ValueError, match=said):
        made(tmp_path, feature, frame=frame)


def test_a_stored_schema_of_before_reads_as_it_was():
    old = {
        "features": [
            {"kind": "categorical", "name": "a", "column": None, "min_count": 2, "max_size": None, "buckets": 7},
            {"kind": "numerical", "name": "x", "column": None, "transform": "log1p"},
            {"kind": "multi", "name": "m", "separator": "|", "pooling": "sum", "min_count": 1, "max_size": 9},
        ],
        "labels": [{"name": "click"}],
    }  # fmt: skip
    schema = Schema.read(old)
    a, m = schema.with_table
    assert isinstance(a, Categorical) and isinstance(m, Multi)
    assert (a.seed, a.quantiles, a.table, schema.numerical[0].scale) == (0, None, None, "standard")
    assert (m.weights, m.weight_separator, m.max_length, m.table) == (None, None, None, None)
