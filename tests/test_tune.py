"""`equipoise tune`: settings that train, a front that is one, a search that goes on, nothing of the test split."""

from __future__ import annotations

import builtins
import doctest
import json
import shlex

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from equipoise.cli import app
from equipoise.config import TrainConfig
from equipoise.data import from_frame, simulate
from equipoise.presets import sort_options
from equipoise.study import command, report, tune_page
from equipoise.study.command import train_command
from equipoise.study.scatter import Dot, scatter
from equipoise.study.tune import Trial, front, mean, tune

optuna = pytest.importorskip("optuna")
SMALL = {
    "set_": {"hidden": [8], "tower_sizes": [], "embedding_dim": 2},
    "base": {"epochs": 1, "batch_size": 600},
}


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return simulate(tmp_path_factory.mktemp("tune") / "log", 3000, 1, "mixed")


def search(log, out, **changed):
    chosen = {
        "models_": ["shared_bottom"],
        "methods": ["fixed", "famo", "pub+clippy"],
        "trials": 6,
        **SMALL,
        **changed,
    }
    return tune(log, out=out, quiet=True, **chosen)


def test_the_first_trial_is_plain_training_and_the_best_mean_wins(log, tmp_path):
    found = search(log, tmp_path / "out")
    first = found.trials[0].config
    assert (first["method"], first["lr"], first["weight_decay"]) == ("equal", 1e-3, 0.0)
    means = [sum(t.scores.values()) / 3 for t in found.trials]
    assert found.front == (means.index(max(means)),)
    assert len(found.trials) == 6
    for trial in found.trials:
        config = TrainConfig.read(trial.config)
        sort_options(config.set, config.method, {"hidden": (), "tower_sizes": (), "embedding_dim": 2})


def test_a_search_goes_on_and_is_the_same_again(log, tmp_path):
    short = search(log, tmp_path / "out", trials=3)
    longer = search(log, tmp_path / "out", trials=5)
    assert longer.trials[:3] == short.trials and len(longer.trials) == 5
    again = search(log, tmp_path / "out", trials=5)
    assert again == longer
    whole = search(log, tmp_path / "other", trials=5)
    assert [t.config for t in whole.trials] == [t.config for t in longer.trials]


@pytest.mark.parametrize("at", (0, 3))
def test_a_trial_that_was_killed_is_tried_again(log, tmp_path, monkeypatch, at):
    """The first is plain training, which the search must not lose; a later one is what the sampler drew."""
    from equipoise.study import tune as module

    whole = search(log, tmp_path / "whole", trials=5)
    search(log, tmp_path / "out", trials=at) if at else None
    with monkeypatch.context() as patched:
        patched.setattr(
            module, "perform_all", lambda *args, **kwargs: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            search(log, tmp_path / "out", trials=5)
    found = search(log, tmp_path / "out", trials=5)
    assert [t.config for t in found.trials] == [t.config for t in whole.trials]
    assert found.trials[0].config["method"] == "equal"


def test_a_trial_that_was_killed_before_it_was_told_counts_once(log, tmp_path, monkeypatch):
    whole = search(log, tmp_path / "whole", trials=4)
    tell, calls = optuna.study.Study.tell, []

    def killed(self, *args, **kwargs):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return tell(self, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(optuna.study.Study, "tell", killed)
        with pytest.raises(KeyboardInterrupt):
            search(log, tmp_path / "out", trials=4)
    found = search(log, tmp_path / "out", trials=4)
    assert [t.number for t in found.trials] == [0, 1, 2, 3]
    assert [t.config for t in found.trials] == [t.config for t in whole.trials]


def test_no_trial_reads_the_test_split(log, tmp_path):
    search(log, tmp_path / "out", trials=2)
    for file in (tmp_path / "out" / "runs").glob("*.json"):
        assert "test" not in json.loads(file.read_text())["metrics"]


def test_each_task_its_own_objective_gives_a_front(log, tmp_path):
    found = search(log, tmp_path / "out", objective="tasks", trials=6)
    assert found.front == front(found.trials, "tasks") and found.front
    page = tune_page.page(found, "log")
    assert page.count("<svg") == 4  # three pairs of tasks and the search
    head, rows = tune_page.table(found)
    assert head[2:5] == ["click", "like", "purchase"] and len(rows) == len(found.front)


def trial(number, *scores, failed=None):
    return Trial(number, {}, dict(zip("ab", scores, strict=True)), 1.0, failed)


def test_a_front_is_what_nothing_beats():
    trials = [
        trial(0, 0.6, 0.9),
        trial(1, 0.7, 0.8),
        trial(2, 0.6, 0.8),
        trial(3, 0.9, None),
        trial(4, 0.99, 0.99, failed="x"),
    ]
    assert front(trials, "tasks") == (0, 1)
    assert front([trial(0, 0.6, 0.9), trial(1, 0.7, 0.9)], "mean") == (1,)
    assert front(trials[3:], "tasks") == ()
    same = [trial(0, 0.5, 0.5), trial(1, 0.5, 0.5)]
    assert front(same, "tasks") == (0, 1)

    assert mean(trial(0, 0.6, None)) == 0.6 and mean(trials[4]) is mean(trial(0, None, None)) is None
    assert front(trials, "mean") == (3,)  # a task without an AUC is left out of every trial's mean
    assert front(trials[4:], "mean") == ()


@pytest.fixture(scope="module")
def one_class(tmp_path_factory):
    """A log whose validation rows have no positive of one task."""
    rng, n = np.random.default_rng(0), 3000
    x = rng.normal(size=n)
    rare = (rng.random(n) < 0.02).astype(int)
    rare[2000:2600] = 0
    frame = pl.DataFrame({"x": x, "a": (x + rng.normal(size=n) > 0).astype(int), "rare": rare})
    splits = pl.Series("split", ["train"] * 2000 + ["valid"] * 600 + ["test"] * 400)
    out = tmp_path_factory.mktemp("tune") / "log"
    return from_frame(frame.with_columns(splits), labels=["a", "rare"], split="split", out=out)


def test_a_task_without_a_class_in_validation_is_left_out_of_the_mean(one_class, tmp_path):
    found = search(one_class, tmp_path / "out", trials=2)
    best = max(found.trials, key=lambda t: t.scores["a"])
    assert found.front == (best.number,) and best.scores["rare"] is None
    assert tune_page.table(found)[1][0][3] == "-" and "best so far" in tune_page.page(found, "log")
    assert not found.simulated and "simulated" not in tune_page.page(found, "log")
    with pytest.raises(ValueError, match=r"different labels in valid, got .* 'rare'; leave them out"):
        search(one_class, tmp_path / "tasks", objective="tasks")
    with pytest.raises(ValueError, match="take other --tasks"):
        search(one_class, tmp_path / "mean", tasks=["rare"])
    assert not (tmp_path / "tasks").exists() and not (tmp_path / "mean").exists()


def test_the_command_trains_the_setting_that_was_found(log, tmp_path):
    weights = {"click": 0.5, "like": 1.0, "purchase": 1.5}
    config = {"model": "shared_bottom", "method": "fixed", "lr": 1e-3, "weight_decay": 1e-5}
    config["set"] = {"method.weights": weights, "hidden": [8], "tower_sizes": []}
    parts = shlex.split(train_command(config, str(log.path)))[1:]
    more = ["--epochs", "1", "--max-rows", "300", "--out", str(tmp_path / "run"), "--json"]
    done = CliRunner().invoke(app, [*parts, *more])
    assert done.exit_code == 0, done.output
    saved = json.loads((tmp_path / "run" / "run.json").read_text())
    assert saved["set"] == config["set"] and saved["weight_decay"] == 1e-5


@pytest.mark.parametrize(
    "more",
    [
        {},
        {
            "optimizer": "adagrad",
            "epochs": 2,
            "batch_size": 400,
            "max_rows": 1000,
            "device": "meta",
            "seed": 7,
        },
        {"monitor": "click:auc", "patience": 9, "time_limit": 2.5, "lr": 1.23e-05, "weight_decay": 1e-6},
        {
            "set": {
                "a": 1e-5,
                "b": {"click": 1e-05, "like": 2},
                "c": "two words",
                "d": [1e-5, True],
                "e": None,
            }
        },
    ],
)
def test_the_command_read_again_is_the_trial_s_config(tmp_path, monkeypatch, more):
    seen = []

    def train(data, model, method, *, out, overwrite, **options):
        seen.append(TrainConfig.read({"data": data, "model": model, "method": method, **options}))
        raise ValueError("stop here")

    monkeypatch.setattr("equipoise.training.train", train)
    config = {"model": "ple", "method": "pub+clippy", "tasks": ["like", "click"], "lr": 1e-3, "seed": 0}
    config |= {"set": {"hidden": [8]}, "weight_decay": 0.0, **more}
    data = str(tmp_path / "my log")
    CliRunner().invoke(app, shlex.split(train_command(config, data))[1:])
    assert seen == [TrainConfig.read({**config, "data": data})]


def test_the_example_of_the_command_holds():
    assert doctest.testmod(command) == (0, 1)


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"objective": "both"}, "objective must be one of mean, tasks"),
        ({"trials": 0}, "trials must be at least one a model"),
        ({"methods": ["single"]}, "one model of all tasks"),
        ({"methods": ["pubb"]}, "pub"),
        ({"base": {"lr": 0.1}}, "protocol's own"),
    ],
)
def test_what_cannot_be_searched_is_said(log, tmp_path, changed, message):
    with pytest.raises(ValueError, match=message):
        search(log, tmp_path / "out", **changed)


def test_a_folder_takes_no_other_search(log, tmp_path):
    search(log, tmp_path / "out", trials=1)
    with pytest.raises(ValueError, match="another seed"):
        search(log, tmp_path / "out", trials=1, seed=5)
    search(log, tmp_path / "out", trials=1, seed=5, overwrite=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "x").write_text("x")
    with pytest.raises(ValueError, match="no search"):
        search(log, tmp_path / "mine", overwrite=True)


def test_without_optuna_the_extra_is_named(log, tmp_path, monkeypatch):
    whole = builtins.__import__

    def without(name, *rest, **named):
        if name == "optuna":
            raise ImportError(name)
        return whole(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"equipoise\[tune\]"):
        search(log, tmp_path / "out")


def test_the_command_prints_the_best_and_its_command(log, tmp_path):
    arguments = [
        "tune",
        str(log.path),
        "--models",
        "shared_bottom",
        "--methods",
        "pub",
        "--trials",
        "2",
        "--epochs",
        "1",
    ]
    arguments += ["--max-rows", "300", "--set", "hidden=[4]", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "equipoise train" in done.stdout and "--epochs 1 --max-rows 300" in done.stdout
    assert done.stdout.startswith(report.SIMULATED)
    assert report.SIMULATED in (tmp_path / "out" / "report.html").read_text()
    told = CliRunner().invoke(app, [*arguments, "--json"])
    assert json.loads(told.stdout.splitlines()[-1])["simulated"] is True


def test_a_scatter_joins_its_front():
    drawn = scatter("t", "x", "y", [Dot(1, 2, "a", True), Dot(2, 1, "b", True), Dot(1, 1, "<c>", False)])
    assert drawn.count("<circle") == 3 and drawn.count("<polyline") == 1 and "&lt;c&gt;" in drawn
    assert "nothing was recorded" in scatter("t", "x", "y", [])
