"""Training end to end on a tiny log: what a run leaves, resume to the same bits, and runs that cannot begin."""

from __future__ import annotations

import errno
import json
import os
import platform
import signal
import subprocess
import sys
import time

import polars as pl
import pytest
import torch
from logs import SCHEMA, frame, small_log

from equipoise import checkpoint, training
from equipoise.config import TrainConfig
from equipoise.data import from_frame, simulate, write_log
from equipoise.presets import NAMES, parse_method, recommended, recommended_settings, sort_options
from equipoise.study import first_run
from equipoise.training import evaluate, resume, train

SMALL = {"model.embedding_dim": 4, "model.hidden": [8], "model.tower_sizes": []}


@pytest.fixture
def log(tmp_path):
    return small_log(tmp_path / "log", n=320)


def quick(log, out, **options):
    return train(
        log, "shared_bottom", out=out, **{"quiet": True, "epochs": 2, "lr": 1e-2, "set": SMALL, **options}
    )


def parameters(path, name="last"):
    return checkpoint.load(path / "checkpoint" / f"{name}.safetensors")


def same(a, b):
    assert a.keys() == b.keys()
    return all(torch.equal(a[k], b[k]) for k in a)


def test_a_run_leaves_what_it_says(log, tmp_path):
    result = quick(log, tmp_path / "run")
    assert {p.name for p in (tmp_path / "run").iterdir()} == {
        "run.json",
        "history.jsonl",
        "metrics.json",
        "checkpoint",
        "report.html",
    }
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics == json.loads(json.dumps(result.metrics))
    assert {"auc", "gauc", "logloss", "calibration"} <= set(metrics["test"]["click"])
    assert {"xauc", "rmse", "mae"} <= set(metrics["test"]["dwell"])
    history = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    steps = [e for e in history if e["kind"] == "steps"]
    assert sum(e["kind"] == "epoch" for e in history) == 2 and {"updates", "gradients"} <= set(
        steps[0]["cosines"]
    )
    assert sum(steps[0]["weights"].values()) == pytest.approx(1.0)
    assert evaluate(tmp_path / "run") == metrics["test"]
    page = (tmp_path / "run" / "report.html").read_text()
    assert "<script" not in page and "http" not in page and page.count("<svg") == 6


def test_recommended_settings_are_arguments_of_train_and_rank(tmp_path):
    settings = recommended_settings()
    assert settings["method"] == recommended()
    log = simulate(tmp_path / "log", 6000, 0, "independent")
    result = train(log, "shared_bottom", quiet=True, epochs=3, set=SMALL, **settings)
    assert (result.config.optimizer, result.config.lr) == ("adagrad", settings["lr"])
    assert result.metrics["test"]["click"]["auc"] > 0.55


def test_run_json_is_a_config_and_gives_the_same_run(log, tmp_path):
    first = quick(log, tmp_path / "a", seed=4)
    config = TrainConfig.load(tmp_path / "a" / "run.json")
    again = train(out=tmp_path / "b", quiet=True, **config)
    assert same(first.model.state_dict(), again.model.state_dict())


@pytest.mark.parametrize("stop", [1, 7, 21])
def test_resume_continues_to_the_same_bits(log, tmp_path, monkeypatch, stop):
    options = {"method": "pub+adatask", "epochs": 3, "batch_size": 16, "set": {**SMALL, "model.dropout": 0.2}}
    whole = quick(log, tmp_path / "whole", **options)
    step, calls = training.Run.record, []

    def killed(self, losses, rows):
        calls.append(1)
        step(self, losses, rows)
        if len(calls) == stop:
            raise SystemExit

    monkeypatch.setattr(training.Run, "record", killed)
    with pytest.raises(SystemExit):
        quick(log, tmp_path / "cut", checkpoint_seconds=0, **options)
    monkeypatch.undo()
    assert not (tmp_path / "cut" / "metrics.json").exists()
    resumed = resume(tmp_path / "cut", quiet=True)
    assert same(whole.model.state_dict(), resumed.model.state_dict())
    assert [e["step"] for e in whole.history] == [e["step"] for e in resumed.history]
    last, other = parameters(tmp_path / "whole"), parameters(tmp_path / "cut")
    assert same(last["model"], other["model"]) and torch.equal(last["random"], other["random"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_a_usable_checkpoint(log, tmp_path, number):
    out = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "equipoise",
        "train",
        str(log.path),
        "--out",
        str(out),
        "--epochs",
        "500",
    ]
    command += ["--patience", "500", "--model", "shared_bottom", "--batch-size", "8"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    for _ in range(2400):  # two minutes: torch may take long to import on a busy machine
        if (out / "checkpoint" / "last.safetensors").is_file():
            break
        time.sleep(0.05)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 130
    state = parameters(out)
    assert state["step"] > 0 and not (out / "metrics.json").exists()
    config = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps({**config, "epochs": state["epoch"] + 1}))
    assert resume(out, quiet=True).metrics["steps"] >= state["step"]


def command(log, out, before, number):
    """Run `equipoise train` in a process of its own, in which `before` runs first and can call `interrupt()`; return it ended."""
    code = (
        "import os, signal, sys\n"
        "from equipoise import cli, training\n"
        f"def interrupt(): os.kill(os.getpid(), {int(number)}); signal.sigpending()\n"
        f"{before}\n"
        f"sys.argv = ['equipoise', 'train', {str(log.path)!r}, '--model', 'shared_bottom', '--out', {str(out)!r}, '--epochs', '2']\n"
        "cli.main()"
    )
    (log.path.parent / "main.py").write_text(code)
    return subprocess.run(
        [sys.executable, "-m", "main"],
        cwd=log.path.parent,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("way", ["interrupt()", "exec('interrupt()')"])
def test_an_interruption_before_the_run_has_begun_leaves_nothing(log, tmp_path, number, way):
    """From `exec` of a string too: there CPython remembers a plain KeyboardInterrupt and ends `-m` by SIGINT."""
    before = f"def opened(*args, **kwargs): {way}\ntraining.open_data = opened"
    done = command(log, tmp_path / "run", before, number)
    assert done.returncode == 130, done.stderr
    assert done.stderr.endswith("equipoise: interrupted\n")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_that_a_finalizer_swallowed_stops_at_the_first_step(log, tmp_path, number):
    before = (
        "class Finalized:\n"
        "    def __del__(self): interrupt()\n"
        "plain = training.assemble\n"
        "def assemble(*args): Finalized(); return plain(*args)\n"
        "training.assemble = assemble"
    )
    done = command(log, tmp_path / "run", before, number)
    assert "Exception ignored in" in done.stderr
    assert done.returncode == 130, done.stderr
    assert parameters(tmp_path / "run")["step"] == 1
    assert resume(tmp_path / "run", quiet=True).metrics["steps"] > 1


def test_one_class_is_refused_and_nothing_is_left(tmp_path):
    frames = {s: frame(80) for s in ("train", "valid", "test")}
    frames["valid"] = frames["valid"].with_columns(click=pl.lit(0))
    log = write_log(tmp_path / "log", frames, SCHEMA)
    with pytest.raises(
        ValueError, match="task 'click' must have different labels in valid, got one class only"
    ):
        quick(log, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert quick(log, tmp_path / "run", tasks=["dwell"]).metrics["test"].keys() == {"dwell"}


def test_an_earlier_run_is_not_lost(log, tmp_path):
    quick(log, tmp_path / "run")
    before = (tmp_path / "run" / "metrics.json").read_text()
    with pytest.raises(ValueError, match="must not exist yet"):
        quick(log, tmp_path / "run")
    with pytest.raises(ValueError, match="did you mean 'click'"):
        quick(log, tmp_path / "run", overwrite=True, tasks=["clik"])
    assert (tmp_path / "run" / "metrics.json").read_text() == before
    quick(log, tmp_path / "run", overwrite=True, seed=1)
    assert (tmp_path / "run" / "metrics.json").read_text() != before
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


@pytest.mark.parametrize("whole", (False, True))
def test_a_kill_before_the_run_has_begun_leaves_nothing_in_the_way(log, tmp_path, whole):
    """A folder whose data was still being prepared goes, and the run that it was to replace comes back."""
    out = tmp_path / "run"
    if whole:
        quick(log, out)
        before = (out / "metrics.json").read_text()
    code = (
        "import os, signal, sys; from equipoise import runs, training\n"
        "def killed(*args): os.kill(os.getpid(), signal.SIGKILL)\n"
        "training.open_data = killed\n"
        f"training.train({str(log.path)!r}, 'shared_bottom', out={str(out)!r}, quiet=True, overwrite={whole})"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == -signal.SIGKILL
    )
    assert (out / ".begun").is_file()
    if whole:
        with pytest.raises(ValueError, match="must not exist yet"):
            quick(log, out)
        assert (out / "metrics.json").read_text() == before
    quick(log, out, overwrite=whole, seed=1)
    assert not (out / ".begun").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log", "run"]


def test_a_folder_that_another_process_is_making_is_left_alone(log, tmp_path):
    (tmp_path / "run").mkdir()
    for owner in (f"{platform.node()} {os.getppid()}", "elsewhere 1"):
        (tmp_path / "run" / ".begun").write_text(owner)
        with pytest.raises(ValueError, match="is being made by process"):
            quick(log, tmp_path / "run", overwrite=True)
        assert (tmp_path / "run" / ".begun").read_text() == owner
    (tmp_path / "run" / ".begun").write_text("")  # killed while it wrote its name
    quick(log, tmp_path / "run")


def test_a_log_in_memory_is_kept_with_the_run(tmp_path):
    """`from_frame` without `out` lies in a temporary folder, which goes with the process."""
    made = from_frame(frame(320, 1), schema=SCHEMA)
    result = quick(made, tmp_path / "run", tasks=["click"])
    (tmp_path / "run" / "log" / "manifest.json").stat()
    again = evaluate(tmp_path / "run")
    assert again["click"]["auc"] == result.metrics["test"]["click"]["auc"]
    assert str(tmp_path / "run" / "log") == json.loads((tmp_path / "run" / "run.json").read_text())["data"]


def test_a_view_of_a_log_trains_its_tasks_only(log, tmp_path):
    quick(log.only(["dwell"]), tmp_path / "run")
    found = json.loads((tmp_path / "run" / "run.json").read_text())
    assert found["tasks"] == found["provenance"]["tasks"] == ["dwell"]
    assert found["provenance"]["batch_size"] == 16
    assert evaluate(tmp_path / "run").keys() == {"dwell"}


def test_what_is_no_data_is_refused_by_name(log, tmp_path):
    with pytest.raises(
        ValueError, match=r"got DataFrame; make a log of a data frame with eq\.data\.from_frame"
    ):
        train(frame(320, 1), labels=["click"])
    for given in ({"labels": ["click"]}, {"time": "ts"}):
        with pytest.raises(ValueError, match="is for a raw table, got a prepared log"):
            quick(log, tmp_path / "run", **given)
    with pytest.raises(ValueError, match="got no data, which is the simulated log"):
        train(labels=["click"], out=tmp_path / "run")
    with pytest.raises(ValueError, match="seed"):
        quick(log, tmp_path / "run", seed=-1)
    assert not (tmp_path / "run").exists()


def test_a_folder_of_files_trains(tmp_path):
    (tmp_path / "parts").mkdir()
    whole = frame(400, 1)
    for k in range(2):
        whole.select("city", "x", "click")[k * 200 : (k + 1) * 200].write_csv(tmp_path / "parts" / f"{k}.csv")
    result = train(
        tmp_path / "parts",
        "shared_bottom",
        out=tmp_path / "run",
        quiet=True,
        labels=["click"],
        epochs=1,
        set=SMALL,
    )
    assert result.metrics["test"]["click"]["rows"] > 0


def test_a_full_disk_keeps_the_checkpoint_before(tmp_path, monkeypatch):
    path = tmp_path / "last.safetensors"
    state = {"a": [torch.arange(3), (1, None, True)], 5: {"b": 1.5, "c": "text"}}
    checkpoint.save(path, state)

    def full(*_args, **_options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError, match="disk is full"):
        checkpoint.save(path, {"a": 1})
    found = checkpoint.load(path)
    assert (
        torch.equal(found["a"][0], torch.arange(3))
        and found["a"][1] == (1, None, True)
        and found[5] == state[5]
    )
    assert [p.name for p in tmp_path.iterdir()] == ["last.safetensors"]
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match="damaged or cut off"):
        checkpoint.load(path)


def test_single_trains_one_model_a_task(log, tmp_path):
    result = quick(log, tmp_path / "run", method="single", epochs=1)
    assert set(result.metrics["test"]) == {"click", "buy", "dwell"} and set(result.model) == {
        "click",
        "buy",
        "dwell",
    }
    assert result.model["buy"].schema.tasks == ["buy"]
    assert evaluate(tmp_path / "run") == result.metrics["test"]
    alone = quick(log, tmp_path / "alone", method="equal", epochs=1, tasks=["buy"])
    assert same(alone.model.state_dict(), result.model["buy"].state_dict())


def test_auto_lr_time_limit_and_max_rows(log, tmp_path):
    result = quick(log, tmp_path / "a", lr="auto", epochs=1, max_rows=64)
    assert (
        result.config.lr > 0
        and json.loads((tmp_path / "a" / "run.json").read_text())["lr"] == result.config.lr
    )
    assert result.metrics["steps"] == 4  # 64 rows in batches of 16
    assert quick(log, tmp_path / "b", epochs=50, time_limit=1e-6).metrics["steps"] == 1


def test_auto_lr_begins_at_the_optimizers_scale(log, tmp_path, capsys):
    assert (
        quick(log, tmp_path / "a", lr="auto", epochs=1, optimizer="adagrad", quiet=False).config.lr >= 0.003
    )
    notes = capsys.readouterr().err
    assert all(f"lr {lr}: mean_primary" in notes for lr in ("0.009", "0.03", "0.09", "0.3"))
    train(log, "shared_bottom", optimizer="adagrad", epochs=1, set=SMALL, out=tmp_path / "b")
    assert "lr 0.001 is Adam's default; adagrad mostly wants some 30 times" in capsys.readouterr().err
    resume(tmp_path / "b")
    assert "Adam's default" not in capsys.readouterr().err


def test_auto_lr_passes_over_rates_that_diverge(log, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(training, "LR_GRID", (1e-3, 1e28))
    options = {"optimizer": "sgd", "epochs": 5, "batch_size": 8, "lr": "auto", "quiet": False}
    assert quick(log, tmp_path / "a", **options).config.lr < 1e3
    assert "lr 1e+30: no task had a finite loss" in capsys.readouterr().err
    monkeypatch.setattr(training, "LR_GRID", (1e28,))
    with pytest.raises(ValueError, match="lower lr"):
        quick(log, tmp_path / "b", **options)


def test_a_loss_that_stays_nan_ends_the_run(log, tmp_path):
    with pytest.raises(ValueError, match="lower lr"):
        quick(log, tmp_path / "run", optimizer="sgd", lr=1e30, epochs=5, batch_size=8)


@pytest.mark.parametrize(
    "method", [n for n in NAMES if n != "single"] + ["pub+clippy", "pub+adatask", "nash@updates"]
)
def test_every_method_trains(log, tmp_path, method):
    assert quick(log, tmp_path / "run", method=method, epochs=1).metrics["steps"] == 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epoch": 3}, "did you mean 'epochs'"),
        ({"set": {"model.num_expert": 3}}, "unknown"),
        ({"set": {"hiden": [3]}}, "did you mean 'hidden'"),
        ({"method": "pubb"}, "did you mean 'pub'"),
        ({"method": "pub+clipy"}, "did you mean 'clippy'"),
        ({"lr": -1.0}, "lr must be > 0"),
        ({"monitor": "click:aucc"}, "did you mean 'click:auc'"),
    ],
)
def test_unknown_options_are_refused(log, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        quick(log, tmp_path / "run", **options)


def test_options_go_where_they_are_known():
    sorted_ = sort_options({"hidden": [4], "method.weights.like": 10, "every": 5}, "fixed", {"hidden": (8,)})
    assert sorted_ == {
        "model": {"hidden": [4]},
        "method": {"weights": {"like": 10}},
        "balancer": {"every": 5},
    }
    assert parse_method("equal")[1]["between"] == "weighted"


def test_resume_refuses_changed_data(log, tmp_path):
    quick(log, tmp_path / "run")
    small_log(tmp_path / "log", n=320, seed=7, overwrite=True)
    with pytest.raises(ValueError, match="was started on data"):
        resume(tmp_path / "run", quiet=True)


def test_the_sentence_says_ties_and_losses():
    text = first_run.sentence({"click": 0.0001, "purchase": 0.02, "like": -0.03})
    assert (
        "within noise on click" in text
        and ".0200 above plain Adam on purchase" in text
        and ".0300 below plain Adam on like" in text
    )
