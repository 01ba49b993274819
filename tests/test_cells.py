"""Runs of a study: what they leave on disk is JSON, and what ends them from outside is one line that says what to do."""

from __future__ import annotations

import json
import math
import os
import signal

import pytest
from typer.testing import CliRunner

from equipoise.cli import app
from equipoise.config import finite
from equipoise.data import simulate
from equipoise.study import cells, compare, present
from equipoise.study.findings import findings

CONFIG = {"model": "shared_bottom", "method": "equal", "lr": 1e-3, "seed": 0, "epochs": 1, "batch_size": 400}
CONFIG["set"] = {"hidden": [8], "tower_sizes": [], "embedding_dim": 2}


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return simulate(tmp_path_factory.mktemp("cells") / "log", 2000, 3, "mixed")


def strict(text):
    """What every JSON reader takes: no NaN, no Infinity."""

    def fail(word):
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=fail)


def diverge(*args, **kwargs):
    raise ValueError("every task was absent or non-finite")


def killed(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_run_that_diverged_is_kept_as_json_and_read_back(log, tmp_path, monkeypatch):
    job = cells.Job(str(log.path), CONFIG)
    monkeypatch.setattr("equipoise.training.fit", diverge)
    found = cells.perform(job, tmp_path)
    file = tmp_path / "runs" / f"{job.name}.json"
    assert strict(file.read_text())["value"] is None
    assert found == cells.finished(job, tmp_path) and found.value == -math.inf and found.failed
    file.write_text(file.read_text().replace("null", "-Infinity", 1))  # as it was written before
    assert cells.finished(job, tmp_path) == found


@pytest.fixture(scope="module")
def compared(log, tmp_path_factory):
    """A folder and its comparison, of which one learning rate of three diverged."""
    from equipoise import training

    out, whole = tmp_path_factory.mktemp("cells") / "out", training.fit
    plan = compare.make_plan(
        log,
        models_=["shared_bottom"],
        methods=["equal"],
        seeds=2,
        base={"epochs": 1, "batch_size": 400},
        set_=CONFIG["set"],
        grid=[3e-4, 1e-3, 3e-3],
        num_candidates=0,
        num_tuning_seeds=1,
    )
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(training, "fit", lambda c, *rest: diverge() if c.lr > 0.002 else whole(c, *rest))
        compare.claim(plan, out)
        return out, compare.carry_out(plan, out, workers=0, quiet=True)


def test_what_was_tuned_is_json_where_a_rate_diverged(compared):
    tuned = strict((compared[0] / "tuning.json").read_text())
    assert all(each["tried"]["0.003"] is None and each["tried"]["0.001"] > 0 for each in tuned)


def test_findings_tell_how_far_they_are(compared):
    told = []
    findings(compared[1], 20, lambda done, total: told.append((done, total)))
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]  # two sides and the best other method


def test_the_command_shows_how_far_the_findings_are(log, compared, tmp_path, monkeypatch):
    monkeypatch.setattr(compare, "carry_out", lambda *args, **kwargs: compared[1])
    arguments = ["compare", str(log.path), "--models", "shared_bottom", "--methods", "equal", "--seeds", "2"]
    done = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "out"), "--json"])
    assert done.exit_code == 0, done.output
    assert "sides contrasted" in done.stderr and "100%" in done.stderr
    assert json.loads(done.stdout)["primary"] is not None


def test_json_has_no_nan():
    assert finite({1e-3: (math.nan, 1.5), "a": [math.inf, "x", None, True]}) == {
        "0.001": [None, 1.5],
        "a": [None, "x", None, True],
    }


def test_a_process_that_was_killed_says_so_and_finished_runs_stay(log, tmp_path, monkeypatch):
    jobs = [cells.Job(str(log.path), {**CONFIG, "seed": seed}) for seed in (0, 1)]
    cells.perform(jobs[0], tmp_path)
    monkeypatch.setattr(cells, "perform", killed)
    with pytest.raises(cells.Halted, match=r"killed from outside.*memory.*finished runs stay.*--jobs 1"):
        cells.perform_all(jobs, tmp_path, 1)
    assert [cells.finished(job, tmp_path) is None for job in jobs] == [False, True]


def test_the_command_says_in_one_line_why_it_cannot_go_on(log, tmp_path, monkeypatch):
    def carry_out(*args, **kwargs):
        raise cells.Halted("training code changed while runs were under way")

    monkeypatch.setattr(compare, "carry_out", carry_out)
    arguments = ["compare", str(log.path), "--models", "shared_bottom", "--methods", "equal", "--seeds", "2"]
    done = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "out")])
    assert done.exit_code == 2 and isinstance(done.exception, SystemExit)
    assert done.stderr.splitlines()[-1].startswith("equipoise: error: training code changed")


def test_memory_is_the_host_s_and_its_note_says_so():
    """`--device cuda` gives the same column, of which the model is no part."""
    assert "memory: peak of a run's process on the host; what a GPU holds is not in it" in present.NOTES


def test_a_run_has_the_cores_share_of_threads_and_no_more_than_were_asked_for(monkeypatch):
    """Two threads a run wait for each other on cores that are busy with something else."""
    monkeypatch.setattr(cells, "_cores", lambda: 8)
    for asked, workers, threads in ((8, 1, 8), (8, 3, 2), (1, 1, 1), (2, 2, 2), (8, 16, 1)):
        monkeypatch.setattr("torch.get_num_threads", lambda asked=asked: asked)
        assert cells._threads(workers) == threads
