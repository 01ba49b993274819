"""How far a long job is: phases and rows are told to who asks, shown on stderr, and to nobody by default."""

from __future__ import annotations

import inspect
import json
import sys

import polars as pl
import pytest
from logs import SCHEMA, frame, small_log
from rich.console import Console
from rich.live import Live
from typer.testing import CliRunner

from equipoise import progress
from equipoise.cli import app
from equipoise.data import DATASETS, Label, Schema, extend, prepare_like, prepare_table, simulate, write
from equipoise.data.look import look
from equipoise.data.tell import told


def last(said):
    """{phase: (rows done, rows in all)} as it was told last, in order."""
    return {what: (done, total) for what, done, total in said}


def test_rows_are_told_once_they_are_used():
    said = []
    items = told(["ab", "c"], lambda *call: said.append(call), "reading", 3, len)
    assert said == []
    next(items)
    assert said == [("reading", 0, 3)]
    assert list(items) == ["c"] and said == [("reading", done, 3) for done in (0, 2, 3)]


def test_a_log_tells_each_pass_chunk_by_chunk(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(write, "CHUNK", 100)
    said = []
    small_log(tmp_path / "log", tell=lambda *call: said.append(call))
    for what in ("learning ids and scaling", "writing the log"):
        rows = [done for phase, done, total in said if phase == what and total == 720]
        assert rows == [0, 100, 200, 240, 340, 440, 480, 580, 680, 720]
    small_log(tmp_path / "silent")
    assert capsys.readouterr() == ("", "")


def test_a_table_tells_reading_splits_late_labels_and_rows_that_are_thinned_out(tmp_path):
    rows = frame().with_columns(bought=pl.when(pl.col("click") == 1).then(pl.col("ts") + 30))
    rows.write_csv(tmp_path / "t.csv")
    labels = (Label(name="click"), Label(name="bought", event_time="bought", window="1m"))
    more = {"labels": labels, "negatives": {"of": "click", "keep": 0.5}, "split": {"by": "time"}}
    schema = Schema.model_validate({**SCHEMA.model_dump(), **more})
    said = []
    prepare_table(tmp_path / "t.csv", tmp_path / "log", schema=schema, tell=lambda *call: said.append(call))
    assert last(said) == {
        f"reading {tmp_path / 't.csv'}": (240, None),
        "finding the splits": (240, 240),
        "looking for late labels": (240, 240),
        "learning ids and scaling": (240, 240),  # of the raw rows, although half of the negatives go
        "writing the log": (240, 240),
    }


def test_a_day_more_and_a_day_like_it_tell_their_passes(tmp_path):
    log, _ = prepare_table(frame(), tmp_path / "log", schema=SCHEMA)
    tomorrow, said = frame(seed=1).with_columns(pl.col("ts") + 86_400), []
    prepare_like(log, tomorrow, tmp_path / "like", tell=lambda *call: said.append(call))
    assert last(said) == {"writing the log": (240, 240)}
    said.clear()
    extend(log, tomorrow, refit=True, tell=lambda *call: said.append(call))
    passes = ("counting ids", "learning the scaling anew", "writing the log")
    assert last(said) == {
        **dict.fromkeys(passes, (240, 240)),
        "writing the earlier shards in the new scale": (0, None),
    }


def test_every_dataset_takes_a_callback():
    for name, prepare in DATASETS.items():
        known = inspect.signature(prepare_table if name == "table" else prepare).parameters
        assert known["tell"].kind is inspect.Parameter.KEYWORD_ONLY, name


def test_a_large_simulated_log_and_a_look_at_it_are_told_by_rows(tmp_path, monkeypatch):
    module = sys.modules["equipoise.data.simulate"]
    monkeypatch.setattr(module, "WHOLE", 1000)
    said = []
    log = simulate(tmp_path / "log", 2000, tell=lambda *call: said.append(call))
    assert last(said) == dict.fromkeys(("learning ids and scaling", "writing the log"), (2000, 2000))
    said.clear()
    look(log, tell=lambda *call: said.append(call))
    assert last(said) == {
        "counting the labels of train": (1200, 1200),
        "counting the labels of valid": (200, 200),
        "counting the labels of test": (600, 600),
        "counting groups": (0, None),
        "measuring drift": (0, None),
    }


# ---- what a person sees ----


def test_without_a_terminal_a_line_at_the_start_and_every_ten_seconds(capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.Progress() as shown:
        for second in range(26):
            now[0] = 100.0 + second
            shown.phase("writing [the] log", 1000 * second, 25_000)
        shown.phase("measuring drift", 0, None)
        shown.phase("reading t.csv", 0, None)
        now[0] += 60
        shown.phase("reading t.csv", 5000, None)
    with progress.Progress(quiet=True) as silent:
        silent.phase("writing", 0, 10)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "writing [the] log: 25,000 rows",
        "writing [the] log: 10,000 of 25,000 rows",
        "writing [the] log: 20,000 of 25,000 rows",
        "measuring drift",
        "reading t.csv",
        "reading t.csv: 5,000 rows",
    ]


def test_on_a_terminal_a_bar_that_makes_room_for_the_next_phase():
    shown = progress.Progress()
    shown.console = Console(force_terminal=True, width=100)
    shown.live = Live(console=shown.console, auto_refresh=False)

    def screen() -> str:
        with shown.console.capture() as held:
            shown.console.print(shown.live.renderable)
        return held.get()

    shown.phase("learning", 0, 4000)
    shown.phase("learning", 1000, 4000)
    assert "learning" in screen() and "1,000 of 4,000 rows" in screen()
    shown.phase("writing", 0, None)
    assert "writing" in screen() and "learning" not in screen() and "rows" not in screen()


def test_every_long_command_shows_its_phases_on_stderr(tmp_path):
    def run(*arguments):
        result = CliRunner().invoke(app, [str(a) for a in arguments])
        assert result.exit_code == 0, result.stderr
        return result

    def has(result, *phases):
        lines = result.stderr.splitlines()
        assert all(any(line.startswith(phase) for line in lines) for phase in phases), lines

    log, table = tmp_path / "log", tmp_path / "table.csv"
    made = run("simulate", log, "--rows", 2000, "--json")
    has(made, "drawing rows: 2,000 rows", "learning ids and scaling: 2,000 rows", "writing the log")
    assert len(made.stdout.splitlines()) == 1 and json.loads(made.stdout)["simulated"]
    has(run("inspect", log, "--verify"), "comparing checksums", "counting the labels of train", "measuring")
    frame().drop("buy", "w").write_csv(table)
    columns = ("--label", "click", "--time", "ts", "--group", "user")
    small = ("--set=num_experts=2", "--set=expert=[4]", "--set=embedding_dim=2", "--epochs", 1)
    phases = (f"reading {table}", "finding the splits: 240 rows", "learning ids", "writing the log")
    has(run("prepare", "table", table, tmp_path / "mine", *columns), *phases)
    has(run("prepare", "table", table, tmp_path / "like", "--like", tmp_path / "mine"), "writing the log")
    has(run("train", table, *columns, *small, "--dry-run"), *phases)
    has(run("train", table, *columns, *small, "--out", tmp_path / "run"), *phases)
    has(run("evaluate", tmp_path / "run"), "predicting: 24 rows")
    frame().with_columns(pl.col("ts") + 999).write_csv(table)
    has(run("prepare", "table", table, "--extend", tmp_path / "mine"), "counting ids: 240 rows", "writing")


@pytest.mark.parametrize(
    "command", (["simulate", "log", "--rows", "10"], ["prepare", "table", "none.csv", "log"])
)
def test_a_job_that_fails_says_so_alone(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2 and len(result.stderr.splitlines()) <= 2
