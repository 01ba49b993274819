"""Ordinal labels and D2Q: losses against numpy, predictions in the label's own unit, and every refusal."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
import torch
from logs import SCHEMA, frame, schema_of
from scipy.optimize import minimize_scalar
from typer.testing import CliRunner

import equipoise as eq
from equipoise.cli import app
from equipoise.data import Label, Log, Schema, prepare_table, write_log
from equipoise.data.infer import parse_label
from equipoise.evaluation import predict, score
from equipoise.losses import predictions, row_losses
from equipoise.models import MODELS, build, options

MIXED = Schema.model_validate(
    SCHEMA.model_dump()
    | {
        "features": [*SCHEMA.model_dump()["features"], {"kind": "numerical", "name": "length"}],
        "labels": [
            {"name": "click"},
            {"name": "stars", "kind": "ordinal", "given": "click"},
            {"name": "time", "kind": "watch", "way": "d2q", "duration": "length"},
            {"name": "dwell", "kind": "watch"},
            {"name": "log", "column": "dwell", "kind": "regression", "transform": "log1p"},
            {"name": "rank", "column": "dwell", "kind": "regression", "transform": "rank"},
        ],
    }
)
SMALL = {
    "embedding_dim": 2,
    "hidden": (4,),
    "expert": (4,),
    "tower_sizes": (),
    "relation": (4,),
    "id_dropout": 0.0,
}


def rows(n=240, seed=0):
    g = np.random.default_rng(seed)
    length = g.choice([10.0, 100.0], n)
    return frame(n, seed).with_columns(
        stars=pl.Series(g.choice([1, 2, 5], n, p=[0.2, 0.5, 0.3])),
        length=pl.Series(length),
        time=pl.Series(length * g.random(n)),
    )


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    frames = {name: rows(240, at) for at, name in enumerate(("train", "valid", "test"))}
    return write_log(tmp_path_factory.mktemp("levels") / "log", frames, MIXED)


@pytest.fixture(scope="module")
def batch(log):
    return next(log.split("train").batches(240))


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def shares():
    stars = rows()["stars"].to_numpy()
    return np.array([np.mean(stars > 1), np.mean(stars > 2)])


def test_ordinal_loss_and_prediction_are_cumulative_logits(log, batch):
    z = torch.linspace(-4, 4, 240, dtype=torch.float64)
    above = sigmoid(z.numpy()[:, None] + np.log(shares() / (1 - shares())))
    p = np.stack([1 - above[:, 0], above[:, 0] - above[:, 1], above[:, 1]], 1)
    np.testing.assert_allclose(p.sum(1), 1)
    at = np.searchsorted([1, 2, 5], batch.labels["stars"].numpy())
    wanted = -np.log(p[np.arange(240), at])
    np.testing.assert_allclose(row_losses("stars", z, batch, log.schema).numpy(), wanted, rtol=1e-9)
    found = predictions({"stars": z}, log.schema)["stars"].numpy()
    np.testing.assert_allclose(found, p @ [1, 2, 5], rtol=1e-9)


def test_ordinal_is_finite_and_has_a_gradient_far_out(log, batch):
    z = torch.tensor([-300.0, 300.0] * 120, dtype=torch.float64, requires_grad=True)
    loss = row_losses("stars", z, batch, log.schema)
    assert torch.isfinite(loss).all()
    loss.sum().backward()
    assert torch.isfinite(z.grad).all() and (z.grad != 0).any()
    near = torch.linspace(-2, 2, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: row_losses("stars", z, batch.part(0, 6), log.schema), near)


def test_without_features_the_best_output_of_an_ordinal_task_is_0(log, batch):
    best = minimize_scalar(
        lambda z: float(
            row_losses("stars", torch.full((240,), z, dtype=torch.float64), batch, log.schema).mean()
        )
    )
    assert best.x == pytest.approx(0, abs=1e-4)
    mean = predictions({"stars": torch.zeros(1, dtype=torch.float64)}, log.schema)["stars"]
    assert float(mean) == pytest.approx(rows()["stars"].mean())


def test_d2q_ranks_a_time_among_those_of_its_length(log, batch):
    edges, *tables = log.schema.label_levels["time"]
    assert len(edges) == 1 and len(tables) == 2
    data = rows()
    long = data["length"].to_numpy() == 100
    z = torch.zeros(240, dtype=torch.float64)
    loss = row_losses("time", z, batch, log.schema).numpy()
    np.testing.assert_allclose(loss, np.log(2))  # whatever the rank, at z = 0
    slope = torch.zeros(240, dtype=torch.float64, requires_grad=True)
    row_losses("time", slope, batch, log.schema).sum().backward()
    rank = 0.5 - slope.grad.numpy()  # of the cross-entropy sigmoid(z) - rank
    times = data["time"].to_numpy()
    for which in (long, ~long):
        order = np.argsort(np.argsort(times[which])) / which.sum()
        assert np.abs(rank[which] - order).max() < 0.02  # 101 quantiles
    assert np.corrcoef(rank, long)[0, 1] < 0.1  # a longer item has no higher rank


def test_d2q_predicts_the_quantile_of_the_items_length(log, batch):
    q = np.linspace(0.01, 0.99, 240)
    found = predictions({"time": torch.tensor(np.log(q / (1 - q)))}, log.schema, batch.numerical)[
        "time"
    ].numpy()
    data = rows()
    long = data["length"].to_numpy() == 100
    for which in (long, ~long):
        wanted = np.quantile(data["time"].to_numpy()[which], q[which])
        np.testing.assert_allclose(
            found[which], wanted, rtol=0.05, atol=0.3
        )  # between 101 quantiles linearly
    with pytest.raises(ValueError, match="numerical must be given"):
        predictions({"time": torch.zeros(3)}, log.schema)


@pytest.mark.parametrize("loss", ("mse", "huber"))
def test_rank_is_the_quantile_among_training_labels(log, batch, loss):
    """Zero loss at each label's own quantile, which takes the label back; the tail is no further out than the middle."""
    schema = log.schema.model_copy(
        update={
            "labels": tuple(
                y.model_copy(update={"loss": loss}) if y.name == "rank" else y for y in log.schema.labels
            )
        }
    )
    known = batch.masks["rank"].bool().numpy()
    times = batch.labels["rank"].numpy()
    seen = times[known]
    quantile = np.array([((seen < t).mean() + (seen <= t).mean()) / 2 for t in times])
    output = torch.tensor((quantile - 0.5) * np.sqrt(12))
    here = row_losses("rank", output, batch, schema).numpy()[known]
    assert here.max() < 0.001  # 101 quantiles of the training labels
    worse = row_losses("rank", output + 1.0, batch, schema).numpy()[known]
    np.testing.assert_allclose(worse, 0.5 if loss == "huber" else 1.0, atol=0.1)
    back = predictions({"rank": output}, schema)["rank"].numpy()[known]
    again = np.array([((seen < t).mean() + (seen <= t).mean()) / 2 for t in back])
    assert np.abs(again - quantile[known]).max() < 0.015
    far = predictions({"rank": torch.tensor([-9.0, 9.0])}, schema)["rank"].numpy()
    np.testing.assert_allclose(far, [seen.min(), seen.max()], rtol=1e-6)


def test_what_was_learned_is_kept_with_the_log(log):
    again = Log.open(log.path)
    assert again.schema == log.schema
    values = [value for value, _ in again.schema.label_levels["stars"]]
    assert values == [1.0, 2.0, 5.0] and again.schema.label_levels["stars"][-1][1] == 1.0


@pytest.mark.parametrize("name", [n for n in MODELS if n not in ("single_task", "esmm", "escm2")])
def test_every_backbone_trains_all_kinds_at_once(log, name):
    schema = schema_of(name, log)
    model = build(name, schema, seed=0, **{k: v for k, v in SMALL.items() if k in options(name)})
    balancer = eq.Balancer(
        torch.optim.Adam(model.parameters(), lr=1e-2), eq.PUB(), shared=model.shared_parameters()
    )
    batch = next(log.split("train").batches(240))
    first = {t: float(v.detach()) for t, v in model.losses(batch).items()}
    for _ in range(40):
        balancer.backward(model.losses(batch))
        balancer.step()
    last = {t: float(v.detach()) for t, v in model.losses(batch).items()}
    assert all(last[t] < first[t] for t in first), (first, last)
    found = {task: v.detach() for task, v in model.eval().predict(batch).items()}
    assert float(found["stars"].min()) >= 1 and float(found["stars"].max()) <= 5
    assert (found["time"] >= 0).all() and (found["time"][batch.numerical[:, 1] < 0] <= 10).all()


def test_a_single_task_of_each_kind_is_scored(log):
    for task in ("stars", "time", "rank"):
        one = log.only([task])
        model = build("single_task", one.schema, seed=0, embedding_dim=2, hidden=(4,))
        found = score(model, one.split("test"))[task]
        assert set(found) >= {"xauc", "gxauc", "rmse", "mae", "grmse", "gmae"} and found["mae"] < 60
        assert len(predict(model, one.split("test"))[task]) == 240


def test_a_csv_with_stars_and_times_trains_from_the_command_line(tmp_path):
    rows(400).write_csv(tmp_path / "t.csv")
    arguments = [
        "train",
        str(tmp_path / "t.csv"),
        "--label",
        "stars:ordinal",
        "--label",
        "time:watch=length:way=d2q",
    ]
    arguments += ["--epochs", "2", "--model", "shared_bottom", "--out", str(tmp_path / "run"), "--json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    test = json.loads(done.stdout.strip().splitlines()[-1])["test"]
    again = CliRunner().invoke(app, ["evaluate", str(tmp_path / "run"), "--json"])
    assert json.loads(again.stdout.strip().splitlines()[-1])["test"]["time"] == test["time"]


def test_labels_are_parsed():
    assert parse_label("rating:ordinal") == Label(name="rating", kind="ordinal")
    assert parse_label("dwell:regression:transform=rank").transform == "rank"
    found = parse_label("dwell:watch=ms:way=d2q")
    assert (found.kind, found.duration, found.way) == ("watch", "ms", "d2q")


@pytest.mark.parametrize(
    "label, says",
    [
        ({"kind": "watch", "way": "d2q"}, "needs kind='watch' and duration"),
        ({"kind": "ordinal", "way": "d2q"}, "needs kind='watch' and duration"),
        ({"kind": "ordinal", "duration": "ms"}, "needs kind='watch'"),
        ({"kind": "ordinal", "positive": 1}, "of kind ordinal"),
        ({"kind": "ordinal", "transform": "log1p"}, "is ordinal; transform and loss need kind='regression'"),
    ],
)
def test_a_label_that_makes_no_sense_is_refused(label, says):
    with pytest.raises(ValueError, match=says):
        Label(name="dwell", **label)


def test_d2q_reads_the_duration_from_a_numerical_feature():
    label = Label(name="dwell", kind="watch", way="d2q", duration="ms")
    with pytest.raises(ValueError, match="declare it as a numerical feature"):
        Schema(features=SCHEMA.features, labels=(label,))


def test_classes_beyond_those_of_training_are_refused(tmp_path):
    frames = {name: rows(60, at) for at, name in enumerate(("train", "valid", "test"))}
    frames["test"] = frames["test"].with_columns(stars=pl.lit(3))
    with pytest.raises(
        ValueError, match=r"one of the classes of training \(1, 2, 5\), got 3 in row 0 of split 'test'"
    ):
        write_log(tmp_path / "log", frames, MIXED)
    frames["train"] = frames["train"].with_columns(stars=pl.lit(3))
    with pytest.raises(ValueError, match="2 to 100 classes in training, got 1"):
        write_log(tmp_path / "log", frames, MIXED)
    assert not (tmp_path / "log").exists()


def test_an_all_missing_time_has_empty_levels(tmp_path):
    table = rows(300).with_columns(time=pl.when(pl.int_range(300) < 200).then(None).otherwise(pl.col("time")))
    table.write_parquet(tmp_path / "t.parquet")
    log, _ = prepare_table(
        tmp_path / "t.parquet", tmp_path / "log", labels=["click", "time:watch=length:way=d2q"], time="ts"
    )
    assert len(log.schema.label_levels["time"]) >= 2
