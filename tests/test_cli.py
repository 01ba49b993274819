"""The command line: what it prints, where, and how it leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner, Result

from equipoise.cli import app
from equipoise.cli.common import parse_set, print_json
from equipoise.data import DATASETS, tenrec
from equipoise.presets import recommended
from equipoise.study.report import SIMULATED

SMALL = [f"--set={pair}" for pair in ("num_experts=2", "expert=[8]", "embedding_dim=4", "tower_sizes=[]")]


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def last_json(result: Result) -> Any:
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "log"
    assert run("simulate", path, "--rows", "3000", "--json").exit_code == 0
    return path


@pytest.fixture(scope="module")
def trained(log: Path) -> Path:
    path = log.parent / "run"
    assert run("train", log, "--out", path, "--epochs", 2, "--lr", "3e-3", *SMALL).exit_code == 0
    return path


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Three tasks: click, purchase with 60 % missing, dwell; an unseen category in the last tenth."""
    g, n = np.random.default_rng(0), 1200
    x = g.standard_normal(n)
    click = g.random(n) < 1 / (1 + np.exp(-x))
    kind = np.where(np.arange(n) > 0.95 * n, "new", g.choice(["a", "b", "c"], n))
    bought = [int(v) if g.random() < 0.4 else None for v in click & (g.random(n) < 0.5)]
    dwell = np.exp(x + 0.3 * g.standard_normal(n))
    columns = {"ts": np.arange(n) + 1_700_000_000, "user_id": g.integers(0, 100, n), "kind": kind, "x": x}
    path = tmp_path / "table.csv"
    pl.DataFrame({**columns, "click": click.astype(int), "purchase": bought, "dwell": dwell}).write_csv(path)
    return path


def test_help_is_quick_and_leaves_torch_alone() -> None:
    code = "import sys; from equipoise.cli import app; app(['--help'], standalone_mode=False); print('torch' in sys.modules)"
    begun = time.monotonic()
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # .2 s on an idle core; the promise is .5 s, and the bound leaves room for two busy test workers
    assert time.monotonic() - begun < 2.5
    assert found.stdout.splitlines()[-1] == "False"
    names = "train evaluate resume simulate prepare inspect models methods doctor schema"
    for name in names.split():
        assert name in found.stdout


def test_train_prints_metrics_and_writes_the_run(trained: Path) -> None:
    found = last_json(run("evaluate", trained, "--json"))["test"]
    assert found == json.loads((trained / "metrics.json").read_text())["test"]
    assert list(found) == ["click", "like", "purchase"]
    text = run("evaluate", trained, "--split", "valid").stdout
    assert "soft_auc" in text and "ceiling" in text
    for name in ("run.json", "history.jsonl", "metrics.json", "checkpoint", "report.html"):
        assert (trained / name).exists()


def test_what_comes_from_a_simulated_log_says_so(
    log: Path, trained: Path, table: Path, tmp_path: Path
) -> None:
    def commands(data: Path, *more: str) -> list[list[str | Path]]:
        out = tmp_path / data.stem
        return [
            ["train", data, "--out", out, "--epochs", "1", *SMALL, *more],
            ["evaluate", out],
            ["resume", out],
        ]

    for command in commands(log):
        assert run(*command).stdout.startswith(SIMULATED), command
    assert last_json(run("evaluate", trained, "--json"))["simulated"] is True
    for command in commands(table, "--label", "click", "--time", "ts"):
        done = run(*command)
        assert done.exit_code == 0 and "simulated" not in done.stdout, command
    assert last_json(run("resume", tmp_path / "table", "--json"))["simulated"] is False
    out = tmp_path / "diagnosis"
    few = ["--epochs", "1", "--probes", "2", "--max-rows", "600", "--set", "hidden=[8]"]
    done = run("diagnose", log, "--model", "shared_bottom", *few, "--out", out)
    assert done.stdout.startswith(SIMULATED), done.output
    assert SIMULATED in (out / "report.html").read_text()


def test_progress_goes_to_stderr_and_one_object_to_stdout(log: Path, tmp_path: Path) -> None:
    result = run(
        "train", log, "--out", tmp_path / "r", "--epochs", 1, "--tasks", "click,like", *SMALL, "--json"
    )
    assert len(result.stdout.splitlines()) == 1
    assert list(last_json(result)["test"]) == ["click", "like"]
    assert "epoch 0 valid" in result.stderr


def test_run_json_is_a_config_and_the_command_line_goes_before_it(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "again"
    found = last_json(run("train", "--config", trained / "run.json", "--out", out, "--json"))
    assert found["test"] == json.loads((trained / "metrics.json").read_text())["test"]
    plan = last_json(
        run(
            "train", "--config", trained / "run.json", "--weight-decay", 0, "--seed", 5, "--dry-run", "--json"
        )
    )
    assert plan["config"]["seed"] == 5 and plan["config"]["lr"] == 3e-3
    assert plan["config"]["set"] == {"num_experts": 2, "expert": [8], "embedding_dim": 4, "tower_sizes": []}


def test_an_explicit_zero_overrides_a_config(log: Path, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(f"data: {log}\nweight_decay: 0.1\n")
    plan = last_json(
        run("train", "--config", tmp_path / "c.yaml", "--weight-decay", 0, "--dry-run", "--json")
    )
    assert plan["config"]["weight_decay"] == 0.0


def test_dry_run_writes_nothing(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan = last_json(run("train", log, "--dry-run", *SMALL, "--json"))
    assert plan["summary"]["train"]["rows"] == 1800
    # embeddings of 4 a category and two experts (16 x 4 + 63 inputs -> 8); each task a gate (127 x 2) and 8 + 1
    assert plan["parameters"]["click"] == (16 * 4 + 63) * 2 + 9
    assert "parameters" in run("train", log, "--dry-run").stdout
    assert "would be simulated" in run("train", "--dry-run").stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--device", "cuda:9"), "device 'cuda:9' is not available"),
        (("--monitor", "click:speed"), "monitor"),
        (("--set", "every=0"), "every must be an integer"),
        (("--model", "single_task"), "single"),
    ],
)
def test_dry_run_finds_what_would_stop_the_run(log: Path, option: tuple[str, str], message: str) -> None:
    result = run("train", log, "--dry-run", *option)
    assert result.exit_code == 2
    assert message in result.stderr


def test_dry_run_of_single_counts_one_model_a_task(log: Path) -> None:
    plan = last_json(run("train", log, "--dry-run", "--method", "single", "--model", "single_task", "--json"))
    assert plan["parameters"]["shared"] == 0
    assert plan["parameters"]["click"] == plan["parameters"]["like"] > 0


def test_a_table_trains_without_a_schema_file(table: Path, tmp_path: Path) -> None:
    labels = ["--label", "click", "--label", "purchase:given=click", "--label", "dwell:regression"]
    out = tmp_path / "run"
    options = ["--time", "ts", "--group", "user_id", "--epochs", 1, *SMALL]
    found = last_json(run("train", table, *labels, *options, "--out", out, "--json"))["test"]
    assert found["purchase"]["rows"] < found["click"]["rows"] == 120
    assert 0.5 < found["dwell"]["xauc"] <= 1 and found["dwell"]["rmse"] > 0
    assert (out / "schema.yaml").is_file()
    plan = last_json(run("train", table, *labels, *options, "--dry-run", "--json"))
    assert plan["summary"]["test"]["unseen"] > plan["summary"]["train"]["unseen"]


def test_schema_infer_prepare_and_inspect(table: Path, tmp_path: Path) -> None:
    schema, out = tmp_path / "schema.yaml", tmp_path / "prepared"
    assert run("schema", "infer", table, "--label", "click", "--time", "ts", "--out", schema).exit_code == 0
    printed = last_json(run("schema", "infer", table, "--label", "click", "--time", "ts", "--json"))
    assert [label["name"] for label in printed["schema"]["labels"]] == ["click"]
    assert any(line.startswith("dwell") for line in printed["suspects"])
    assert run("schema", "infer", table, "--label", "click", "--out", schema).exit_code == 2
    assert run("prepare", "table", table, out, "--schema", schema).exit_code == 0
    found = last_json(run("inspect", out, "--verify", "--json"))
    assert found["train"]["rows"] == 960 and found["features"]["kind"] == {"kind": "categorical", "ids": 4}
    assert "kind" in run("inspect", out).stdout
    stray = run("prepare", "census_income", table, tmp_path / "c", "--label", "click")
    assert stray.exit_code == 2 and "--label is not an option of census_income" in stray.stderr


def test_prepare_names_every_dataset_and_says_what_it_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = " ".join(run("prepare", "--help").stdout.split())
    for name in DATASETS:
        assert name in shown
    for name in ("--country", "--history", "--with-statistics", "--split-by"):
        assert name in shown
    raw, header = (
        tmp_path / "QK-video.csv",
        "user_id,item_id,click,follow,like,share,video_category,gender,age",
    )
    raw.write_text("\n".join([header, *(f"{i // 3},{i % 5},{i % 2},0,0,0,1,{i % 3},1" for i in range(90))]))
    found = run(
        "prepare",
        "tenrec",
        raw,
        tmp_path / "log",
        "--split-by",
        "row",
        "--tasks",
        "click,like",
        "--seed",
        "2",
    )
    assert found.exit_code == 0, found.stderr
    assert "look at rows: 90, Tenrec documents 493,458,970" in found.stderr
    assert "look at split_by=row: a user's rows" in found.stderr
    monkeypatch.setattr(tenrec, "ROWS", {"QK-video.csv": 90})
    found = run("prepare", "tenrec", raw, tmp_path / "b", "--json")
    assert "checked rows: 90, as Tenrec documents" in found.stderr
    assert last_json(found)["notes"]["published"] == ["rows: 90, as Tenrec documents"]
    stray = run("prepare", "tenrec", raw, tmp_path / "b", "--history", "3")
    assert stray.exit_code == 2 and "--history is not an option of tenrec" in stray.stderr
    stray = run("prepare", "movielens", raw, tmp_path / "b", "--with-statistics")
    assert stray.exit_code == 2 and "--with-statistics is not an option of movielens" in stray.stderr
    assert "did you mean 'aliexpress'" in run("prepare", "ali_express", raw).stderr


def test_models_methods_and_doctor() -> None:
    assert last_json(run("models", "--json"))["mmoe"]["options"]["num_experts"] == 8
    assert "--set num_experts=8" in run("models").stdout
    methods = last_json(run("methods", "--json"))
    assert methods["pub"]["level"] == "updates" and "2410.05806" in methods["pub"]["paper"]
    assert "single" in run("methods").stdout
    found = last_json(run("doctor", "--json"))
    assert found["problems"] == [] and found["versions"]["torch"] and found["torch_threads"] >= 1
    assert "all is well" in run("doctor").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--optimiser", "adam"], "--optimizer"),
        (["--set", "num_expert=2"], "did you mean 'num_experts'?"),
        (["--set", "num_experts=two"], "must be a whole number, got 'two'"),
        (["--set", "num_experts"], "--set must be key=value"),
        (["--model", "mmoee"], "did you mean 'mmoe'?"),
        (["--method", "pup"], "did you mean 'pub'?"),
        (["--method", "pub+clipy"], "did you mean 'clippy'?"),
        (["--tasks", "clik"], "did you mean 'click'?"),
        (["--monitor", "clik:auc"], "did you mean 'click:auc'?"),
        (["--lr", "quick"], "got 'quick'"),
        (["--lr", "-1"], "must be > 0"),
        (["--epochs", "0"], "got 0"),
        (["--device", "gpu"], "device must be one that torch knows"),
        (["--device", "cuda:99"], "not available here"),
        (["--config", "nowhere.yaml"], "must be a YAML or JSON file"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_folder(
    arguments: list[str], message: str, log: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = run("train", log, "--out", out, *arguments)
    assert result.exit_code == 2 and message in result.stderr
    assert "Traceback" not in result.stderr and result.stdout == ""
    assert not out.exists()


def test_unknown_command_and_missing_things(log: Path, trained: Path, tmp_path: Path) -> None:
    assert "Did you mean 'train'?" in run("trian").stderr
    for arguments, message in (
        (["evaluate", tmp_path], "run.json"),
        (["resume", tmp_path], "run.json"),
        (["inspect", tmp_path], "manifest.json"),
        (["train", tmp_path / "no.csv", "--label", "click"], "found neither"),
        (["train", log, "--out", trained], "must not exist yet"),
        (["train", log, "--out", log.parent, "--overwrite"], "holds the data"),
        (["simulate", log, "--rows", 2000], "must not exist yet"),
        (["simulate", tmp_path / "s", "--relation", "mixd"], "did you mean 'mixed'?"),
        (["evaluate", trained, "--split", "tets"], "split must be one of"),
        (["prepare", "kuairan", "raw", "out"], "did you mean 'kuairand'?"),
    ):
        result = run(*arguments)
        assert result.exit_code == 2 and message in result.stderr, arguments
    (tmp_path / "c.json").write_text('{"optimiser": "adam"}')
    assert "did you mean 'optimizer'?" in run("train", "--config", tmp_path / "c.json").stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_130_and_a_checkpoint(number: int, log: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "equipoise",
        "train",
        str(log),
        "--out",
        str(out),
        "--batch-size",
        "16",
        *SMALL,
    ]
    process = subprocess.Popen(
        [*command, "--patience", "1000", "--epochs", "1000", "--set", "balancer.every=1"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "epoch 0 valid" in line:
            break
    process.send_signal(number)
    rest = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == 130
    assert "interrupted" in rest and "Traceback" not in rest
    assert list(last_json(run("evaluate", out, "--json"))["test"]) == ["click", "like", "purchase"]


def test_the_default_rate_under_another_optimizer_is_told(log: Path, tmp_path: Path) -> None:
    asked = ("train", log, "--optimizer", "adagrad", "--epochs", 1, *SMALL, "--out")
    assert "is Adam's default" in run(*asked, tmp_path / "a").stderr
    assert "is Adam's default" not in run(*asked, tmp_path / "b", "--lr", "0.1").stderr


def test_values_of_set_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    pairs = ["a=1", "b=1e-3", "c=.5", "d=[1, 2]", "e=true", "f=null", "g=word", "h=a=b", "i={x: 1}"]
    assert parse_set(pairs) == {
        "a": 1,
        "b": 1e-3,
        "c": 0.5,
        "d": [1, 2],
        "e": True,
        "f": None,
        "g": "word",
        "h": "a=b",
        "i": {"x": 1},
    }
    with pytest.raises(ValueError, match="--set a must have a YAML value"):
        parse_set(["a=[1"])
    print_json({"nan": float("nan"), "deep": [float("inf"), 1.5]})
    assert json.loads(capsys.readouterr().out) == {"nan": None, "deep": [None, 1.5]}


def test_the_default_method_claims_no_more_than_the_results() -> None:
    assert recommended() == "pub"
    words = recommended.__doc__ or ""
    assert "no gain over well tuned plain training" in words and "docs/results.md" in words
