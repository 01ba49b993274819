"""The folder of a comparison or a search: never mixed, never lost to a kill, replaced when asked to and never a stranger's."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
from typer.testing import CliRunner

from equipoise.cli import app
from equipoise.data import simulate
from equipoise.study import claim, compare, tune
from equipoise.study.forecast import Forecast

SMALL = {"hidden": [8], "tower_sizes": [], "embedding_dim": 2}


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return simulate(tmp_path_factory.mktemp("claim") / "log", 2000, 3, "mixed")


def make_plan(log, methods=("equal", "uw", "famo"), **changed):
    return compare.make_plan(
        log, models_=["shared_bottom"], methods=list(methods), seeds=2, set_=SMALL, **changed
    )


@pytest.fixture(params=["comparison", "search"])
def take(request, log):
    """`take(out, seeds, overwrite)` claims a folder for one of two plans."""

    def of_compare(out, number=2, overwrite=False):
        compare.claim(dataclasses.replace(make_plan(log), seeds=tuple(range(number))), out, overwrite)

    def of_tune(out, number=2, overwrite=False):
        plan = {"fingerprint": "x", "code": "y", "models": ["mmoe"], "seed": number}
        tune._claim(out, plan, log.path, overwrite)

    found = of_compare if request.param == "comparison" else of_tune
    found.kind, found.file = request.param, "plan.json" if found is of_compare else "search.json"
    return found


def with_a_run(take, out):
    take(out)
    (out / "runs").mkdir()
    (out / "runs" / "x.json").write_text("{}")
    return out / "runs" / "x.json"


def earlier(out):
    return out.with_name(f".{out.name}.earlier")


def test_the_same_plan_goes_on_and_another_is_refused(take, tmp_path):
    run = with_a_run(take, tmp_path / "out")
    take(tmp_path / "out")
    with pytest.raises(ValueError, match="--overwrite to start again"):
        take(tmp_path / "out", 3)
    assert run.is_file()


@pytest.mark.parametrize("number", [2, 3])
def test_overwrite_replaces_the_same_plan_too(take, tmp_path, number):
    run = with_a_run(take, tmp_path / "out")
    take(tmp_path / "out", number, overwrite=True)
    assert not run.exists() and [p.name for p in (tmp_path / "out").iterdir()] == [take.file]
    assert not earlier(tmp_path / "out").exists()


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_kill_while_the_plan_is_written_leaves_a_folder_that_can_be_taken(take, tmp_path, overwrite):
    out = tmp_path / "out"
    out.mkdir()
    (out / f".{take.file}.new").write_text("{")
    take(out, overwrite=overwrite)
    assert [p.name for p in out.iterdir()] == [take.file]


@pytest.mark.parametrize("half_written", [False, True])
def test_a_kill_before_the_new_plan_leaves_the_old_study(take, tmp_path, monkeypatch, half_written):
    out = tmp_path / "out"
    run = with_a_run(take, out)

    def killed(path, text):
        if half_written:
            path.with_name(f".{path.name}.new").write_text(text[:5])
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(claim, "write_text", killed)
        take(out, 3, overwrite=True)
    assert not run.exists()
    take(out)
    assert run.is_file() and not earlier(out).exists()


def test_a_kill_while_the_old_study_is_deleted_leaves_the_new_one(take, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with_a_run(take, out)

    def killed(path, ignore_errors):
        if path.exists():
            (path / take.file).unlink()  # the plan goes first, the runs are left
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(shutil, "rmtree", killed)
        take(out, 3, overwrite=True)
    assert earlier(out).exists()
    take(out, 3)
    assert [p.name for p in out.iterdir()] == [take.file] and not earlier(out).exists()


@pytest.mark.parametrize("content", [b'{"resource": 1}', b"[1]", b"not JSON", b"\xff", None])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_stranger_s_plan_is_one_error_and_is_not_touched(take, tmp_path, content, overwrite):
    out = tmp_path / "out"
    run = with_a_run(take, out)
    if content is None:  # a plan in another form
        content = json.loads((out / take.file).read_text())
        content = json.dumps({**content, "data": "log", "models": "mmoe"}).encode()
    (out / take.file).write_bytes(content)
    with pytest.raises(ValueError, match=f"is no {take.kind}: its {take.file} is something else or damaged"):
        take(out, overwrite=overwrite)
    assert (out / take.file).read_bytes() == content and run.is_file()


def test_a_plan_of_an_earlier_version_is_told_apart_by_what_it_lacks(log, tmp_path):
    compare.claim(make_plan(log), tmp_path / "out")
    file = tmp_path / "out" / "plan.json"
    there = json.loads(file.read_text())
    del there["origins"], there["dropped"]
    file.write_text(json.dumps(there))
    with pytest.raises(ValueError, match="another dropped and origins"):
        compare.claim(make_plan(log), tmp_path / "out")
    compare.claim(make_plan(log), tmp_path / "out", overwrite=True)


def test_a_study_with_the_data_or_the_reader_in_it_is_not_replaced(log, tmp_path, monkeypatch):
    shutil.copytree(log.path, tmp_path / "log")
    plan = make_plan(tmp_path / "log")
    compare.claim(plan, tmp_path / "out")
    (tmp_path / "log").rename(tmp_path / "out" / "log")
    plan = dataclasses.replace(plan, data={**plan.data, "path": str(tmp_path / "out" / "log")})
    with pytest.raises(ValueError, match=r"holds the data .*log', so it is not replaced"):
        compare.claim(plan, tmp_path / "out", overwrite=True)
    monkeypatch.chdir(tmp_path / "out")
    plan = dataclasses.replace(plan, data={**plan.data, "path": str(log.path)})
    compare.claim(plan, tmp_path / "out")
    with pytest.raises(ValueError, match="holds the folder you are in"):
        compare.claim(plan, tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "log" / "manifest.json").is_file()


def test_a_comparison_goes_on_with_what_its_budget_left(log, tmp_path):
    plan, out = make_plan(log), tmp_path / "out"
    assert compare.planned(plan, out) is None
    kept = compare.trim(plan, Forecast(dict.fromkeys(plan.units(), 1.0), {}), 3.0)
    assert kept.dropped == ("famo",)
    compare.claim(kept, out)
    assert compare.planned(plan, out) == kept
    assert compare.planned(make_plan(log, margin=0.01), out) is None
    assert compare.planned(make_plan(log, methods=["equal", "uw"]), out) is None
    compare.claim(plan, out, overwrite=True)
    assert compare.planned(plan, out) == plan


def test_the_command_with_a_budget_goes_on_on_a_busier_machine(log, tmp_path, monkeypatch):
    carried = []

    def carry_out(plan, *args, **kwargs):
        carried.append(plan.methods)
        raise ValueError("stop here")

    monkeypatch.setattr(compare, "carry_out", carry_out)
    arguments = ["compare", str(log.path), "--models", "shared_bottom", "--methods", "equal,uw,famo"]
    arguments += ["--budget", "3.1", "--out", str(tmp_path / "out")]
    for hours, more in ((1.0, []), (1.5, []), (2.0, []), (1.5, ["--overwrite"])):
        expected = Forecast(dict.fromkeys(make_plan(log).units(), hours), {})
        monkeypatch.setattr(compare, "expect", lambda plan, expected=expected: expected)
        done = CliRunner().invoke(app, [*arguments, *more])
        assert "stop here" in done.stderr, done.output
        assert ("its methods are taken, whatever the budget" in done.stderr) == (len(carried) in (2, 3))
    assert carried == [("equal", "uw", "pub")] * 3 + [("equal", "pub")]
