"""`equipoise tune`: settings that train, a front that is one, a search that goes on, nothing of the test split."""

from __future__ import annotations

import builtins
import json
import shlex

import pytest
from typer.testing import CliRunner

from equipoise.cli import app
from equipoise.config import TrainConfig
from equipoise.data import simulate
from equipoise.presets import sort_options
from equipoise.study import tune_page
from equipoise.study.scatter import Dot, scatter
from equipoise.study.tune import Trial, command, front, tune

pytest.importorskip("optuna")
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


def test_the_command_trains_the_setting_that_was_found(log, tmp_path):
    weights = {"click": 0.5, "like": 1.0, "purchase": 1.5}
    config = {"model": "shared_bottom", "method": "fixed", "lr": 1e-3, "weight_decay": 1e-5}
    config["set"] = {"method.weights": weights, "hidden": [8], "tower_sizes": []}
    parts = shlex.split(command(Trial(0, config, {}, 1.0, None), str(log.path)))[1:]
    more = ["--epochs", "1", "--max-rows", "300", "--out", str(tmp_path / "run"), "--json"]
    done = CliRunner().invoke(app, [*parts, *more])
    assert done.exit_code == 0, done.output
    saved = json.loads((tmp_path / "run" / "run.json").read_text())
    assert saved["set"] == config["set"] and saved["weight_decay"] == 1e-5


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
    assert "equipoise train" in done.stdout and (tmp_path / "out" / "report.html").is_file()


def test_a_scatter_joins_its_front():
    drawn = scatter("t", "x", "y", [Dot(1, 2, "a", True), Dot(2, 1, "b", True), Dot(1, 1, "<c>", False)])
    assert drawn.count("<circle") == 3 and drawn.count("<polyline") == 1 and "&lt;c&gt;" in drawn
    assert "nothing was recorded" in scatter("t", "x", "y", [])
