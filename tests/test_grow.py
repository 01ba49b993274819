"""A run that goes on from another one, on a log that was extended since."""

from __future__ import annotations

import json

import polars as pl
import pytest
import torch
from logs import SCHEMA, frame

from equipoise import checkpoint, training
from equipoise.cli import app
from equipoise.data import SplitRule, extend, prepare_like, prepare_table
from equipoise.evaluation import predict
from equipoise.training import evaluate, resume, train

SMALL = {"model.embedding_dim": 4, "model.hidden": [8], "model.tower_sizes": []}
RULE = SCHEMA.model_copy(update={"split": SplitRule(by="time")})


def day(number: int, n: int = 320) -> pl.DataFrame:
    return frame(n, seed=number).with_columns(
        ts=pl.col("ts") + 86_400 * number,
        user=pl.col("user") + 6 * number,
        city=pl.col("city") + ("" if number == 0 else "x"),
    )


@pytest.fixture
def log(tmp_path):
    return prepare_table(day(0), tmp_path / "log", schema=RULE)[0]


def begin(log, out, **options):
    chosen = {"epochs": 2, "lr": 1e-2, "set": SMALL, **options}
    return train(log, "shared_bottom", out=out, quiet=True, **chosen)


def states(path):
    return checkpoint.load(path / "checkpoint" / "last.safetensors")


@pytest.mark.parametrize(
    ("method", "more", "optimizer"),
    [
        ("pub+adatask", {"wide": True}, "adam"),
        ("equal", {"model.sparse": True}, "adam"),
        ("moco", {}, "adagrad"),
        ("excess_mtl", {}, "adam"),
    ],
)
def test_old_rows_are_as_they_were_and_new_ones_have_no_moments(
    log, tmp_path, monkeypatch, method, more, optimizer
):
    options = {"method": method, "set": {**SMALL, **more}, "optimizer": optimizer}
    first = begin(log, tmp_path / "one", **options)
    before = predict(first.model, log.split("test"))
    old_ids = dict(log.schema.num_ids)
    extend(log, day(1))
    old = states(tmp_path / "one")
    seen = {}

    def stop(self):
        seen["model"], seen["optimizers"] = self.model, [o.state_dict() for o in self.optimizers]
        seen["balancer"] = self.balancer.state_dict()
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(training.Run, "restore", stop)
        with pytest.raises(SystemExit):
            train(log.path, from_run=tmp_path / "one", out=tmp_path / "two", quiet=True)
    after = predict(seen["model"], log.split("test"))
    assert all((before[task] == after[task]).all() for task in before)
    from equipoise.grow import moved_rows

    moved = moved_rows(seen["model"], old_ids)
    assert moved and all(len(rows) == sum(old_ids.values()) for rows in moved.values())
    slots = 0
    for saved, now in zip(old["optimizers"], seen["optimizers"], strict=True):
        for at, held in saved["state"].items():
            for name, value in held.items():
                new = now["state"][at][name]
                if isinstance(value, torch.Tensor) and value.shape != new.shape:
                    rows = next(iter(moved.values()))
                    rest = torch.ones(len(new), dtype=torch.bool)
                    rest[rows] = False
                    assert torch.equal(new[rows], value) and rest.any() and not new[rest].any()
                    slots += 1
                else:
                    assert torch.equal(torch.as_tensor(value), torch.as_tensor(new))
    assert slots > 0
    assert old["balancer"]["steps"] == seen["balancer"]["steps"]
    result = train(log.path, from_run=tmp_path / "one", out=tmp_path / "three", quiet=True, epochs=1)
    assert result.metrics["steps"] > 0 and result.config.optimizer == optimizer
    assert states(tmp_path / "three")["vocabulary"]["version"] == 2


def test_such_a_run_is_resumed_to_the_same_bits(log, tmp_path, monkeypatch):
    begin(log, tmp_path / "one", method="pub+adatask")
    extend(log, day(1))
    whole = train(log.path, from_run=tmp_path / "one", out=tmp_path / "whole", quiet=True)
    record, calls = training.Run.record, []

    def killed(self, losses, rows):
        calls.append(1)
        record(self, losses, rows)
        if len(calls) == 7:
            raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(training.Run, "record", killed)
        with pytest.raises(SystemExit):
            train(log.path, from_run=tmp_path / "one", out=tmp_path / "cut", quiet=True, checkpoint_seconds=0)
    resumed = resume(tmp_path / "cut", quiet=True)
    a, b = whole.model.state_dict(), resumed.model.state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_single_goes_on_too_and_an_old_run_reads_the_new_log(log, tmp_path):
    begin(log, tmp_path / "one", method="single", epochs=1)
    extend(log, day(1))
    result = train(log.path, from_run=tmp_path / "one", out=tmp_path / "two", quiet=True)
    assert set(result.model) == {"click", "buy", "dwell"}
    assert set(evaluate(tmp_path / "one", log.path)) == {"click", "buy", "dwell"}
    scored = prepare_like(log.path, day(2), tmp_path / "day")
    assert evaluate(tmp_path / "two", scored)["click"]["rows"] == 320
    with pytest.raises(ValueError, match="prepared with --like"):
        begin(scored, tmp_path / "three")


def test_what_cannot_go_on(log, tmp_path):
    begin(log, tmp_path / "one", epochs=1)
    other = prepare_table(day(3), tmp_path / "other", schema=RULE)[0]
    for call in (
        lambda: train(other, from_run=tmp_path / "one", out=tmp_path / "two", quiet=True),
        lambda: evaluate(tmp_path / "one", other),
    ):
        with pytest.raises(ValueError, match="must have the vocabulary that run"):
            call()
    for options, message in (
        ({"model": "mmoe"}, "option 'model' must be that of run"),
        ({"optimizer": "sgd"}, "option 'optimizer' must be that of run"),
        ({"lr": "auto"}, "lr must be a number"),
    ):
        with pytest.raises(ValueError, match=message):
            train(log, from_run=tmp_path / "one", out=tmp_path / "two", quiet=True, **options)
    with pytest.raises(ValueError, match="must be a run's folder"):
        train(log, from_run=tmp_path / "none", out=tmp_path / "two", quiet=True)
    assert not (tmp_path / "two").exists()


def test_from_the_command_line(log, tmp_path):
    from typer.testing import CliRunner

    begin(log, tmp_path / "one", epochs=1)
    day(1).write_parquet(tmp_path / "day.parquet")
    found = CliRunner().invoke(
        app, ["prepare", "table", str(tmp_path / "day.parquet"), "--extend", str(log.path)]
    )
    assert found.exit_code == 0, found.stderr
    assert "new ids" in found.stderr
    command = ["train", str(log.path), "--from", str(tmp_path / "one"), "--out", str(tmp_path / "two")]
    found = CliRunner().invoke(app, [*command, "--epochs", "1", "--json"])
    assert found.exit_code == 0, found.stderr
    assert json.loads((tmp_path / "two" / "run.json").read_text())["from_run"] == str(tmp_path / "one")
    for more in (["--keep-days", "3"], ["--extend", "a", "--like", "b"], ["--extend", "a", "--label", "x"]):
        found = CliRunner().invoke(app, ["prepare", "table", str(tmp_path / "day.parquet"), *more])
        assert found.exit_code == 2, more
