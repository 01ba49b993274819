"""Watch labels: the loss against numpy, calibration, a CSV to predictions in its own unit, and every refusal."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
import torch
from logs import SCHEMA, frame, schema_of, small_log
from scipy.optimize import minimize_scalar
from typer.testing import CliRunner

from equipoise.cli import app
from equipoise.data import Label, Log, Schema, infer_schema, prepare_table, write_log
from equipoise.data.infer import parse_label
from equipoise.evaluation import check_monitor, predict, primary, score
from equipoise.losses import predictions, row_losses, task_losses
from equipoise.models import MODELS

MIXED = Schema.model_validate(
    SCHEMA.model_dump()
    | {
        "labels": [
            {"name": "click"},
            {"name": "dwell", "kind": "regression", "transform": "log1p"},
            {"name": "watch", "column": "dwell", "kind": "watch", "given": "click"},
        ]
    }
)


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return small_log(tmp_path_factory.mktemp("watch") / "log", schema=MIXED)


def test_loss_and_prediction_are_the_formulas(log):
    batch = next(log.split("train").batches(240))
    z = torch.linspace(-4, 4, 240, dtype=torch.float64)
    y, mean = batch.labels["watch"].double().numpy(), frame()["dwell"].mean()
    p = 1 / (1 + np.exp(-z.numpy()))
    wanted = -(y / mean) * np.log(p) - np.log(1 - p)
    # the log keeps the mean of float32 labels
    np.testing.assert_allclose(row_losses("watch", z, batch, log.schema).numpy(), wanted, rtol=1e-6)
    found = task_losses({"watch": z}, batch, log.schema)["watch"]
    assert float(found) == pytest.approx(np.average(wanted, weights=batch.weight.numpy()), rel=1e-6)
    np.testing.assert_allclose(
        predictions({"watch": z}, log.schema)["watch"], mean * np.exp(z.numpy()), rtol=1e-6
    )


def test_gradient(log):
    batch = next(log.split("train").batches(6))
    z = torch.linspace(-2, 2, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: row_losses("watch", z, batch, log.schema), z)


def test_the_best_constant_is_the_mean_time(log):
    batch = next(log.split("train").batches(240))

    def loss(z):
        outputs = torch.full((240,), z, dtype=torch.float64)
        return float(row_losses("watch", outputs, batch, log.schema).mean())

    best = torch.tensor([minimize_scalar(loss, bounds=(-5, 5), method="bounded", options={"xatol": 1e-9}).x])
    # a flat minimum in float64 is found to about the root of its precision
    assert float(predictions({"watch": best}, log.schema)["watch"]) == pytest.approx(
        float(batch.labels["watch"].mean()), rel=1e-5
    )


@pytest.mark.parametrize("name", MODELS)
def test_every_backbone_takes_it_beside_other_kinds(log, name):
    schema = schema_of(name, log)
    if name in ("esmm", "escm2"):
        pytest.skip("esmm is a funnel of binary labels")
    model = MODELS[name](log.only(["watch"]).schema if name == "single_task" else schema, seed=0)
    losses = model.losses(next(log.split("train").batches(64)))
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert (model.predict(next(log.split("train").batches(64)))["watch"] > 0).all()


def test_from_csv_to_calibrated_seconds(tmp_path):
    g = np.random.default_rng(0)
    city = g.integers(0, 3, 6000)
    expected = np.array([2.0, 8.0, 30.0])[city]
    table = pl.DataFrame(
        {
            "city": np.array(["a", "b", "c"])[city],
            "play": [None if i % 7 == 0 else t for i, t in enumerate(g.exponential(expected))],
            "length": 60.0 + g.integers(0, 9, 6000),
        }
    )
    table.write_csv(tmp_path / "t.csv")
    made, _ = prepare_table(tmp_path / "t.csv", tmp_path / "log", labels=["play:watch=length"])
    opened = Log.open(made.path)
    assert (
        opened.schema.label_scale == made.schema.label_scale
        and opened.schema.label("play").duration == "length"
    )
    model = MODELS["shared_bottom"](opened.schema, embedding_dim=4, hidden=(8,), seed=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for epoch in range(6):
        for batch in opened.split("train").batches(512, shuffle=True, epoch=epoch):
            optimizer.zero_grad()
            model.losses(batch)["play"].backward()
            optimizer.step()
    split = opened.split("test")
    found = predict(model, split)["play"]
    ids = np.concatenate([b.ids[:, 0].numpy() for b in split.batches(4096)])
    means = sorted(found[ids == i].mean() for i in np.unique(ids))
    # about 1,500 exponential draws a city: standard error 2.6 %, and six epochs of fitting
    np.testing.assert_allclose(means, [2.0, 8.0, 30.0], rtol=0.15)
    scores = score(model, split)
    assert primary(opened.schema, scores) == scores["play"]["xauc"]
    check_monitor(opened.schema, "play:mae")


def test_a_run_trains_on_it_and_a_constant_one_is_refused(tmp_path):
    rows = frame().with_columns(
        length=pl.lit(60.0), split=pl.Series(["train", "train", "valid", "test"] * 60)
    )
    same = rows.with_columns(dwell=pl.lit(4.0))
    for name, table in (("good", rows), ("same", same)):
        prepare_table(
            table, tmp_path / name, labels=["click", "dwell:watch=length"], split="split", group="user"
        )
    runner, train = CliRunner(), ["--epochs", "1", "--model", "shared_bottom", "--json"]
    done = runner.invoke(app, ["train", str(tmp_path / "good"), *train, "--out", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    assert "gxauc" in json.loads((tmp_path / "run" / "metrics.json").read_text())["test"]["dwell"]
    done = runner.invoke(app, ["train", str(tmp_path / "same"), *train, "--out", str(tmp_path / "none")])
    assert done.exit_code == 2 and "must have different labels" in done.output


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dwell": -1.0}, r"'dwell' is a watch time and must be >= 0, got -1 in column 'dwell', row 3"),
        ({"length": 0.0}, r"duration 'length' .* got 0 in row 3 of split 'train' and 0 more"),
        ({"length": None}, r"got none in row 3"),
    ],
)
def test_rows_out_of_the_domain_are_refused(tmp_path, change, message):
    rows = frame().with_columns(length=pl.lit(5.0))
    wrong = [
        pl.when(pl.int_range(pl.len()) == 3).then(pl.lit(v)).otherwise(pl.col(c)).alias(c)
        for c, v in change.items()
    ]
    schema = SCHEMA.model_copy(update={"labels": (parse_label("dwell:watch=length"),)})
    with pytest.raises(ValueError, match=message):
        write_log(tmp_path / "log", {"train": rows.with_columns(wrong), "valid": rows, "test": rows}, schema)


def test_a_duration_counts_only_where_the_time_is_known(tmp_path):
    rows = frame().with_columns(dwell=pl.lit(None, pl.Float64), length=pl.lit(0.0))
    schema = SCHEMA.model_copy(update={"labels": (parse_label("dwell:watch=length"), Label(name="click"))})
    made = write_log(tmp_path / "log", {"train": rows, "valid": rows, "test": rows}, schema)
    assert made.schema.label_scale == {"dwell": (0.0, 1.0)}


def test_text_durations_and_wrong_declarations_are_refused(tmp_path):
    rows = frame().with_columns(length=pl.lit("long"))
    schema = SCHEMA.model_copy(update={"labels": (parse_label("dwell:watch=length"),)})
    with pytest.raises(ValueError, match="must hold numbers, got String"):
        write_log(tmp_path / "log", {"train": rows, "valid": rows, "test": rows}, schema)
    with pytest.raises(ValueError, match=r"column 'lenght' is missing.*length"):
        infer_schema(rows, ["dwell:watch=lenght"])
    for text, message in (
        ("click:duration=length", "needs kind='watch', got 'binary'"),
        ("dwell:watch=dwell", "must have another column as duration"),
        ("dwell:watch=", "must have another column as duration"),
        ("dwell:watch:loss=huber", "is a watch; transform and loss need"),
        ("dwell:watch:positive=1", "is of kind watch, so positive='1'"),
    ):
        with pytest.raises(ValueError, match=message):
            parse_label(text)
