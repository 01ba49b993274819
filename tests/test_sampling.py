"""Thinned negatives, what makes up for them, and weights a task."""

from __future__ import annotations

import types

import numpy as np
import polars as pl
import pytest
import torch
from logs import SCHEMA, frame, small_log

from equipoise import models
from equipoise.data import Label, Log, Numerical, Schema, SplitRule, infer_schema, prepare_table
from equipoise.data.draw import uniform
from equipoise.data.sampling import parse_weight
from equipoise.data.schema import Negatives
from equipoise.losses import predictions, row_losses, task_losses

PARTS = {"split": SplitRule(by="column", column="part")}


def table(n=400, seed=0):
    """Rows with clicks in a quarter of them, likes, a key, weights and a split column."""
    g = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "x": np.arange(n, dtype=float),
            "click": pl.Series([None if i % 10 == 0 else int(i % 4 == 1) for i in range(n)]),
            "like": (g.random(n) < 0.3).astype(int),
            "key": g.permutation(n) + 10**12,
            "w1": g.uniform(1, 2, n),
            "w2": g.uniform(2, 3, n),
            "rate": [1.0 if i % 4 == 1 else 0.25 for i in range(n)],
            "part": np.array(["train", "valid", "test"])[
                np.minimum(np.arange(n) * 4 // n // 2, 1) + (np.arange(n) >= n * 3 // 4)
            ],
        }
    )


def schema(**own):
    labels = (Label(name="click"), Label(name="like"))
    return Schema(features=(Numerical(name="x"),), labels=labels, **PARTS, **own)


def kept_rows(log, split="train"):
    """The raw row numbers, from x, which is standardised."""
    mean, std = log.manifest["scaling"]["x"]
    return np.round(log.split(split).arrays["numerical"][:, 0].astype(np.float64) * std + mean).astype(int)


@pytest.mark.parametrize("key", [None, "key"])
def test_positives_stay_and_negatives_are_drawn_by_their_key(tmp_path, key):
    raw = table()
    rule = Negatives(of="click", keep=0.3, seed=5)
    log, _ = prepare_table(raw, tmp_path / "log", schema=schema(negatives=rule, key=key))
    train = raw.filter(pl.col("part") == "train")
    values = train["key"] if key else pl.Series(np.arange(train.height))
    draws = uniform(values, 5)
    expected = [i for i in range(train.height) if train["click"][i] == 1 or draws[i] < 0.3]
    assert kept_rows(log).tolist() == expected
    for split in ("valid", "test"):
        assert len(log.split(split)) == (raw["part"] == split).sum()
        assert set(log.split(split).arrays["weight"].tolist()) == {1.0}
    weights = [1.0 if train["click"][i] == 1 else 1 / 0.3 for i in expected]
    np.testing.assert_allclose(log.split("train").arrays["weight"], weights, rtol=1e-6)  # float32
    assert log.manifest["notes"]["sampled"]["train"] == {"rows": train.height, "kept": len(expected)}
    assert log.schema.sampling == {}


def test_under_logit_only_the_other_tasks_weigh(tmp_path):
    rule = Negatives(of="click", keep=0.5, correct="logit")
    log, _ = prepare_table(table(), tmp_path / "log", schema=schema(negatives=rule, weight="w1"))
    assert Log.open(log.path).schema.sampling == {"click": 0.5}
    raw = table()[kept_rows(log).tolist()]
    weight = log.split("train").arrays["weight"]
    np.testing.assert_allclose(weight[:, 0], raw["w1"], rtol=1e-6)
    drawn = (raw["click"].fill_null(0) == 0).to_numpy()
    np.testing.assert_allclose(weight[:, 1], raw["w1"] * np.where(drawn, 2.0, 1.0), rtol=1e-6)
    assert log.only(["like"]).split("train").arrays["weight"][:, 0].tolist() == weight[:, 1].tolist()


@pytest.mark.parametrize("correct", ["weights", "logit"])
def test_a_log_that_was_thinned_by_who_wrote_it(tmp_path, correct):
    raw = table()
    rule = Negatives(of="click", sampling_rate="rate", correct=correct)
    log, _ = prepare_table(raw, tmp_path / "log", schema=schema(negatives=rule))
    assert len(log.split("train")) == (raw["part"] == "train").sum()
    assert log.schema.sampling == ({"click": 0.25} if correct == "logit" else {})
    expected = 1 / raw.filter(pl.col("part") == "train")["rate"].to_numpy()
    weight = log.split("train").arrays["weight"]
    np.testing.assert_array_equal(weight if correct == "weights" else weight[:, 1], expected)


def test_the_sampled_probability_taken_back():
    log = schema().model_copy(update={"sampling": {"click": 0.1}})
    z = torch.tensor([-3.0, 0.0, 2.0], dtype=torch.float64)

    class Rows:
        labels = types.MappingProxyType({"click": torch.tensor([0.0, 1.0, 1.0])})

    losses = row_losses("click", z, Rows(), log)
    sampled = torch.where(Rows.labels["click"] > 0, torch.exp(-losses), 1 - torch.exp(-losses))
    p = predictions({"click": z}, log)["click"]
    torch.testing.assert_close(p, 0.1 * sampled / (0.1 * sampled + 1 - sampled))
    assert not torch.allclose(p, sampled)


def test_esmm_learns_the_sampled_step_as_every_model_does(tmp_path):
    labels = (Label(name="click"), Label(name="like", given="click"))
    raw = table().with_columns(like=pl.col("like") * pl.col("click").fill_null(0))
    own = Schema(
        features=(Numerical(name="x"),),
        labels=labels,
        negatives=Negatives(of="click", keep=0.2, correct="logit"),
        **PARTS,
    )
    log, _ = prepare_table(raw, tmp_path / "log", schema=own)
    model = models.build("esmm", log.schema, seed=0)
    batch = next(iter(log.split("train").batches(64)))
    losses, outputs = model.losses(batch), model(batch)
    plain = task_losses(outputs, batch, log.schema)
    for task in ("click", "like"):
        assert losses[task].item() == pytest.approx(plain[task].item(), rel=1e-5)  # float32
    bare = model.schema.model_copy(update={"sampling": {}})
    assert abs(task_losses(outputs, batch, bare)["click"].item() - losses["click"].item()) > 0.01


@pytest.mark.parametrize("correct", ["weights", "logit"])
def test_a_constant_learns_the_rate_of_all_rows(tmp_path, correct):
    """The best constant logit of both tasks on the sample is that of all rows: up to the draw, 5 sd."""
    raw = table(8000).with_columns(
        like=pl.Series((np.arange(8000) % 4 == 1) & (np.arange(8000) % 3 == 0)).cast(int)
    )
    rule = Negatives(of="click", keep=0.2, correct=correct)
    log, _ = prepare_table(raw, tmp_path / "log", schema=schema(negatives=rule))
    train = raw.filter(pl.col("part") == "train")
    (batch,) = log.split("train").batches(8000)
    z = {task: torch.zeros((), dtype=torch.float64, requires_grad=True) for task in ("click", "like")}
    optimizer = torch.optim.LBFGS(z.values(), max_iter=50)

    def closure():
        optimizer.zero_grad()
        losses = task_losses({t: v.expand(len(batch)) for t, v in z.items()}, batch, log.schema)
        total = sum(losses.values())
        total.backward()
        return total

    optimizer.step(closure)
    for task in z:
        wanted = train[task].mean()
        assert torch.sigmoid(z[task]).item() == pytest.approx(wanted, abs=0.1 * wanted)
    assert batch.labels["click"][batch.masks["click"]].mean() > 1.5 * train["click"].mean()


def test_weights_a_task(tmp_path):
    log, _ = prepare_table(table(), tmp_path / "log", schema=schema(weight={"like": "w2"}))
    raw = table().filter(pl.col("part") == "train")
    batch = next(iter(log.split("train").batches(50, shuffle=True, seed=1)))
    assert set(batch.weight["click"].tolist()) == {1.0}
    np.testing.assert_array_equal(batch.weight["like"], raw["w2"].to_numpy().astype(np.float32)[batch.row])
    outputs = {"click": torch.randn(50), "like": torch.randn(50)}
    found = task_losses(outputs, batch, log.schema)
    each = torch.nn.functional.binary_cross_entropy_with_logits(
        outputs["like"], batch.labels["like"], reduction="none"
    )
    w = batch.weight["like"]
    torch.testing.assert_close(found["like"], (each * w).sum() / w.sum())
    assert found.counts == pytest.approx({"click": float(batch.masks["click"].sum()), "like": float(w.sum())})
    half = batch.part(0, 25).to("cpu")
    assert half.weight["like"].tolist() == w[:25].tolist()


def test_one_weight_column_is_as_it_was(tmp_path):
    log = small_log(tmp_path / "log")
    batch = next(iter(log.split("train").batches(240)))
    assert batch.weight.dtype == torch.float32 and batch.weight.tolist() == frame()["w"].to_list()
    both = small_log(
        tmp_path / "both", schema=SCHEMA.model_copy(update={"weight": dict.fromkeys(SCHEMA.tasks, "w")})
    )
    other = next(iter(both.split("train").batches(240)))
    outputs = {task: torch.linspace(-1, 1, 240) for task in SCHEMA.tasks}
    found, same = task_losses(outputs, batch, log.schema), task_losses(outputs, other, both.schema)
    assert {t: v.item() for t, v in found.items()} == {t: v.item() for t, v in same.items()}


def test_parse_weight():
    assert parse_weight("w") == "w" and parse_weight("a=w1,b=w2") == {"a": "w1", "b": "w2"}
    raw = table().drop("part", "rate")
    found = infer_schema(raw, ["click", "like"], weight="click=w1,like=w2").schema
    assert found.weight == {"click": "w1", "like": "w2"} and "w1" not in [f.name for f in found.features]
    with pytest.raises(ValueError, match="got 'b' in"):
        parse_weight("a=w1,b")
    with pytest.raises(ValueError, match=r"weight names 'lik'.*did you mean 'like'"):
        schema(weight={"lik": "w1"})


def test_rules_that_cannot_be(tmp_path):
    for rule in ({}, {"keep": 0.1, "sampling_rate": "rate"}):
        with pytest.raises(ValueError, match="either keep or sampling_rate"):
            Negatives(of="click", **rule)
    with pytest.raises(ValueError, match="greater than 0"):
        Schema.read({**schema().model_dump(), "negatives": {"of": "click", "keep": 0}})
    with pytest.raises(ValueError, match=r"negatives\.of names 'clik'"):
        schema(negatives=Negatives(of="clik", keep=0.1))
    with pytest.raises(ValueError, match="key: column 'kee' is missing"):
        own = schema(negatives=Negatives(of="click", keep=0.1), key="kee")
        prepare_table(table(), tmp_path / "log", schema=own)
    for value, correct, message in (
        (0.0, "weights", r"a number in \(0, 1\] in every row; first in the table, row 8, column 'rate': 0.0"),
        (
            None,
            "weights",
            r"a number in \(0, 1\] in every row; first in the table, row 8, column 'rate': None",
        ),
        (0.5, "logit", "must be the same in every negative row of 'click'.*0.25 and 0.5 in row 7"),
    ):
        raw = table()
        rates = raw["rate"].to_list()
        rates[7] = value
        own = schema(negatives=Negatives(of="click", sampling_rate="rate", correct=correct))
        with pytest.raises(ValueError, match=message):
            prepare_table(raw.with_columns(pl.Series("rate", rates)), tmp_path / "log", schema=own)
    flat = table().with_columns(rate=pl.lit(0.5))
    with pytest.raises(ValueError, match=r"must be 1 where 'click' is positive.*row 1 of split 'train'"):
        prepare_table(flat, tmp_path / "log", schema=own)
    assert list(tmp_path.iterdir()) == []
