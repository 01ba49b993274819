"""`equipoise compare`: plans that cannot be mixed, runs that are read, findings of real runs that add up."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import re
import shutil
import statistics
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from equipoise.cli import app
from equipoise.data import Log, from_frame, simulate
from equipoise.metrics import auc
from equipoise.study import cells, compare, compare_page, present, published, tuning
from equipoise.study.contrast import contrast
from equipoise.study.delong import delong, placements
from equipoise.study.findings import findings
from equipoise.study.forecast import Forecast
from equipoise.study.forest import Bar, forest

TASKS = ("click", "like", "purchase")


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return simulate(tmp_path_factory.mktemp("compare") / "log", 4000, 3, "mixed")


def tiny(log, **changed):
    """Return a plan of seconds: two methods and single task, one epoch, two learning rates, two seeds."""
    chosen = {
        "models_": ["shared_bottom"],
        "methods": ["single", "equal", "uw"],
        "primary": "pub",
        "seeds": 2,
        "base": {"epochs": 1, "batch_size": 400},
        "set_": {"hidden": [8], "tower_sizes": [], "embedding_dim": 4},
        "grid": [1e-3, 3e-3],
        "num_candidates": 1,
        **changed,
    }
    return compare.make_plan(log, **chosen)


@pytest.fixture(scope="module")
def finished(log, tmp_path_factory):
    out = tmp_path_factory.mktemp("compare") / "out"
    plan = tiny(log)
    compare.claim(plan, out)
    done = compare.carry_out(plan, out, workers=0, quiet=True)
    return plan, out, done, findings(done, 50)


def test_findings_are_those_of_the_predictions(log, finished):
    _, _, done, found = finished
    test = log.split("test")
    y, known = test.labels("click")
    runs = {m: done.runs[tuning.Unit("shared_bottom", m)] for m in ("equal", "pub")}
    expected = {m: [auc(y[known], o.read("click")[known]) for o in os] for m, os in runs.items()}
    side = next(s for s in found["sides"] if s["method"] == "pub")
    assert side["metrics"]["click"]["auc"] == pytest.approx(expected["pub"], abs=1e-12)
    difference = np.mean(expected["pub"]) - np.mean(expected["equal"])
    assert side["contrasts"]["click"]["difference"] == pytest.approx(difference, abs=1e-12)
    assert [s["method"] for s in found["sides"]] == ["single", "equal", "uw", "pub"]
    assert found["tasks"]["purchase"]["grey"] and not found["tasks"]["click"]["grey"]
    # click alone enters the mean, since the others are grey
    assert side["mean"]["difference"] == pytest.approx(difference, abs=1e-12)
    alone = next(s for s in found["sides"] if s["method"] == "single")
    assert alone["delta_m"] == pytest.approx(0.0, abs=1e-12)
    assert found["primary"]["adjusted"] == found["primary"]["p"]


def test_what_is_finished_is_read_and_not_run_again(finished, monkeypatch):
    plan, out, done, _ = finished

    def fail(*args, **kwargs):
        raise AssertionError("trained again")

    monkeypatch.setattr("equipoise.training.fit", fail)
    again = compare.carry_out(plan, out, workers=0, quiet=True)
    assert again.tuned == done.tuned and again.runs == done.runs and again.tried == done.tried


def test_some_sides_go_on_as_they_were_tuned_beside_the_others(finished, monkeypatch):
    """More seeds of a few sides: they keep the rates that the grid, grown for any side, gave them, and no run is made again."""
    plan, out, done, _ = finished
    few = dataclasses.replace(plan, methods=("equal", "pub"))
    monkeypatch.setattr(cells, "perform", lambda *args, **kwargs: pytest.fail("a run was made again"))
    again = compare.carry_out(few, out, workers=0, quiet=True, tuned_with=plan)
    assert [unit.method for unit in again.tuned] == ["equal", "pub"]
    for unit, tuned in again.tuned.items():
        assert tuned == done.tuned[unit]
        assert again.runs[unit] == done.runs[unit] and again.tried[unit] == done.tried[unit]


def test_a_log_by_another_name_is_the_same(finished, monkeypatch):
    plan, out, done, _ = finished
    monkeypatch.chdir(Path(plan.data["path"]).parent)
    monkeypatch.setattr("equipoise.training.fit", None)
    aside = dataclasses.replace(plan, data={**plan.data, "path": "log"})
    compare.claim(aside, out)
    assert compare.carry_out(aside, out, workers=0, quiet=True).runs == done.runs


def test_code_that_changes_under_way_is_refused(log, tmp_path, monkeypatch):
    plan = tiny(log, num_candidates=0)
    whole, calls = cells.code, []
    monkeypatch.setattr(cells, "code", lambda: whole() if len(calls) < 3 else "another")
    told = compare.perform_all

    def perform_all(jobs, out, workers, tell, expected):
        return told(jobs, out, workers, lambda n: (tell(n), calls.append(n)), expected)

    monkeypatch.setattr(compare, "perform_all", perform_all)
    with pytest.raises(RuntimeError, match="training code changed while runs were under way"):
        compare.carry_out(plan, tmp_path / "out", workers=0, quiet=True)
    assert len(calls) == 3
    assert len(list((tmp_path / "out" / "runs").glob("*.json"))) == 3  # what was finished before stays


def test_luck_in_tuning_is_in_every_contrast(finished):
    """A task's settings were chosen by the mean, and differ from search to search all the same; a single-task model's by its own task."""
    _, _, done, found = finished
    for unit, tuned in done.tuned.items():
        means = [statistics.fmean(o.value for o in each) for each in done.tried[unit]]
        assert means == [*tuned.tried.values(), *(each.value for each in tuned.others[1:])]
    for side in found["sides"]:
        for found_ in (side["mean"], *side["contrasts"].values()) if side["mean"] else ():
            parts = (found_[key] for key in ("seed_se", "test_se", "tuning_se"))
            assert found_["se"] == pytest.approx(math.sqrt(sum(part**2 for part in parts)))
    single = next(s for s in found["sides"] if s["method"] == "single")
    assert single["mean"]["tuning_se"] > 0
    assert any(c["tuning_se"] > 0 for c in single["contrasts"].values())


def test_the_number_of_tuning_seeds_can_be_chosen(log):
    plan = tiny(log, num_tuning_seeds=4)
    assert plan.tuning_seeds == (1000, 1001, 1002, 1003)
    assert plan.setup(log).num_runs == 2 * 4 + 1 + 1 * 3
    with pytest.raises(ValueError, match="num_tuning_seeds must lie in 1"):
        tiny(log, num_tuning_seeds=0)


def test_the_ceiling_stands_in_every_table(finished):
    _, out, _, found = finished
    compare_page.write(found, out)
    click = next(s for s in found["sides"] if s["method"] == "pub")["metrics"]["click"]
    ceiling = f"{click['ceiling'][0]:.4f}"
    assert max(click["soft_auc"]) < click["ceiling"][0]
    for file in ("table.md", "table.tex", "report.html"):
        text = (out / file).read_text()
        assert "ceiling" in text and ceiling in text, file
    head, rows = present.columns(found, brief=True)
    assert rows[-1][:3] == ["ceiling", "soft AUC", ceiling] and len(rows[-1]) == len(head)


def test_a_task_with_two_positives_is_grey_and_no_end_of_the_report(log, tmp_path):
    """Resamples of its users would often have none: it is shown without an interval."""
    frame = pl.DataFrame(
        {
            "x": np.random.default_rng(0).normal(size=4000),
            "user": np.arange(4000) // 5,
            "click": np.random.default_rng(1).integers(0, 2, 4000),
            "rare": (np.arange(4000) % 1300 == 7).astype(int),
            "split": ["train"] * 2000 + ["valid"] * 1000 + ["test"] * 1000,
        }
    )
    rare = from_frame(frame, labels=["click", "rare"], group="user", split="split", out=tmp_path / "log")
    found = findings(
        compare.carry_out(
            tiny(rare, methods=["single", "equal"], num_candidates=0), tmp_path / "out", workers=0, quiet=True
        ),
        100,
    )
    assert found["tasks"]["rare"]["positives"] <= 2 and found["tasks"]["rare"]["grey"]
    pub = next(s for s in found["sides"] if s["method"] == "pub")
    assert set(pub["contrasts"]) == {"click"} and pub["mean"] is found["primary"] is not None
    assert "rare: only" in present.markdown(found)
    limited = {**found["primary"], "larger": "test rows"}
    assert "positives of click" in present.limit(
        limited, found["tasks"], [0, 1]
    )  # not of the task that is not in the mean


def test_half_a_score_file_is_run_again(finished, tmp_path):
    plan, out, _, _ = finished
    shutil.copytree(out, tmp_path / "out")
    job = plan.setup(Log.open(plan.data["path"])).job(
        tuning.Unit("shared_bottom", "equal"), 1e-3, 0, final=True
    )
    cells.perform(job, tmp_path / "out")
    file = tmp_path / "out" / "runs" / f"{job.name}.npz"
    file.write_bytes(file.read_bytes()[:100])
    assert cells.finished(job, tmp_path / "out") is None
    cells.perform(job, tmp_path / "out")
    assert cells.finished(job, tmp_path / "out") is not None


def test_tuning_runs_keep_nothing_of_the_test_split(finished):
    _, out, _, _ = finished
    names = [json.loads(f.read_text()) for f in (out / "runs").glob("*-s100[01]-*.json")]
    assert names and all("test" not in content["metrics"] and content["scores"] is None for content in names)


def test_a_diverged_side_is_a_row_that_says_so(log, tmp_path, monkeypatch):
    from equipoise import training

    whole = training.fit

    def fit(config, *rest):
        if config.method == "uw":
            raise ValueError("every task was non-finite")
        return whole(config, *rest)

    monkeypatch.setattr(training, "fit", fit)
    plan = tiny(log, methods=["equal", "uw"], num_candidates=1)
    found = findings(compare.carry_out(plan, tmp_path, workers=0, quiet=True), 50)
    side = next(s for s in found["sides"] if s["method"] == "uw")
    assert "non-finite" in side["failed"] and side["contrasts"] == {}
    assert "failed: every task" in present.markdown(found) and "failed" in compare_page.page(found)
    assert found["best_other"] is None


def test_contrast_without_groups_is_delong(log):
    rng = np.random.default_rng(0)
    test = log.split("test")
    test = type(test).__new__(type(test))
    test.__dict__ = dict(log.split("test").__dict__)
    test.parts = [{k: v for k, v in part.items() if k != "group"} for part in test.parts]
    a, b = ([{t: rng.random(len(test)) for t in TASKS} for _ in range(3)] for _ in range(2))
    found = contrast(test, TASKS, a, b)
    y, known = test.labels("like")
    sides = [placements(y[known], np.stack([r["like"][known] for r in runs])) for runs in (a, b)]
    difference, variance = delong(y[known], *sides)
    values, v = found.of(["like"])
    assert values.mean() == pytest.approx(difference, abs=1e-12) and v == pytest.approx(variance, rel=1e-9)
    mean, v = found.of(list(TASKS))
    assert mean == pytest.approx(np.mean([found.differences[t] for t in TASKS], axis=0))
    assert v == pytest.approx(found.covariance.sum() / 9)


def test_resampled_groups_agree_with_their_summed_influence(log):
    rng = np.random.default_rng(1)
    test = log.split("test")
    y = test.labels("click")[0]
    a = [{"click": y + rng.normal(size=len(y))} for _ in range(2)]
    b = [{"click": 0.8 * y + rng.normal(size=len(y))} for _ in range(2)]
    resampled, summed = (contrast(test, ["click"], a, b, num).of(["click"])[1] for num in (2000, 0))
    assert resampled == pytest.approx(summed, rel=0.15)  # 2000 resamples: 3 %; the rest is O(1 / groups)


def test_a_folder_takes_no_other_plan(log, finished, tmp_path):
    plan, out, _, _ = finished
    compare.claim(plan, out)
    with pytest.raises(ValueError, match=r"another seeds .*never mixed"):
        compare.claim(tiny(log, seeds=3), out)
    with pytest.raises(ValueError, match="another code"):
        compare.claim(dataclasses.replace(plan, code="0"), out)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(ValueError, match="no comparison"):
        compare.claim(plan, tmp_path / "mine", overwrite=True)
    shutil.copytree(out, tmp_path / "copy")
    compare.claim(tiny(log, seeds=3), tmp_path / "copy", overwrite=True)
    assert not (tmp_path / "copy" / "runs").exists()


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"methods": ["pubb"]}, "did you mean|method must be one of"),
        ({"models_": ["mmo"]}, "mmoe"),
        ({"models_": ["mmoe", "mmoe"]}, "models must name each once, got 'mmoe' twice"),
        ({"methods": ["equal", "uw", "uw"]}, "methods must name each once, got 'uw' twice.*equal#2"),
        (
            {"tasks": ["click", "like", "click"]},
            "tasks must name each once, got 'click' twice in click, like, click",
        ),
        ({"seeds": 1}, "seeds must be >= 2"),
        ({"primary": "equal"}, "another method than the reference"),
        ({"primary": "single"}, "row of its own"),
        ({"margin": 0.0}, "margin must lie"),
        ({"base": {"lr": 1e-3}}, "protocol's own"),
        ({"base": {"epoch": 1}}, "epochs"),
        ({"set_": {"hiden": [8]}}, "hidden"),
        ({"set_": {"hidden": "x"}}, "hidden"),
        ({"tasks": ["clik"]}, "click"),
    ],
)
def test_a_plan_is_checked_before_anything_trains(log, changed, message):
    with pytest.raises(ValueError, match=message):
        tiny(log, **changed)


def test_a_log_that_changed_since_the_plan_is_refused(log, tmp_path):
    plan = tiny(log)
    other = simulate(tmp_path / "log", 4000, 4, "mixed")
    plan = dataclasses.replace(plan, data={**plan.data, "path": str(other.path)})
    with pytest.raises(ValueError, match="has changed since the plan"):
        compare.carry_out(plan, tmp_path / "out", workers=0, quiet=True)


def test_a_budget_drops_secondary_methods_from_the_end(log):
    plan = tiny(log, methods=["single", "equal", "fixed", "uw", "famo"])
    expected = Forecast(dict.fromkeys(plan.units(), 1.0), {})
    kept = compare.trim(plan, expected, 7.0)
    assert kept.methods == ("single", "equal", "fixed", "uw", "pub") and kept.dropped == ("famo",)
    with pytest.raises(ValueError, match="must hold the primary contrast"):
        compare.trim(plan, expected, 2.0)


def test_every_form_of_the_findings_is_written(finished):
    _, out, _, found = finished
    compare_page.write(found, out)
    content = json.loads((out / "findings.json").read_text())
    assert content["primary"]["difference"] == pytest.approx(found["primary"]["difference"])
    text = (out / "table.md").read_text()
    for words in (present.SCREENING, "simulated", "Named before the run: pub against equal", "grey"):
        assert words in text
    rows = list(csv.DictReader(io.StringIO((out / "table.csv").read_text())))
    pick = [r for r in rows if (r["method"], r["task"], r["metric"]) == ("pub", "click", "auc")]
    assert [r["seed"] for r in pick] == ["0", "1"]
    side = next(s for s in found["sides"] if s["method"] == "pub")
    assert [float(r["value"]) for r in pick] == side["metrics"]["click"]["auc"]
    tex = (out / "table.tex").read_text()
    assert tex.count(r"\\") == 2 + len(found["sides"]) and "shared\\_bottom" in tex
    page = (out / "report.html").read_text()
    assert page.count("<svg") == 5 and "<script" not in page


def test_the_paper_s_figures_stand_beside_ours_on_aliexpress_only(finished):
    plan, _, _, found = finished
    assert found["published"] is None
    sides = [
        {
            "model": "mmoe",
            "method": "pub",
            "failed": None,
            "metrics": {t: {"auc": [0.5, 0.7]} for t in published.TASKS},
        }
    ]
    country = dataclasses.replace(plan, data={**plan.data, "country": "nl"})
    shown = published.published(country, sides, ["click", "conversion"])
    assert shown["rows"] == [["mmoe", "pub", "0.7268", "0.6000", "0.8670", "0.6000"]]
    assert "test split" in shown["note"]
    with pytest.raises(ValueError, match="pub-table2"):
        published.preset("table2")


def test_the_preset_s_sizes_are_taken_by_its_models(log):
    chosen = {**published.preset("pub-table2")}
    plan = compare.make_plan(
        log, seeds=2, preset="pub-table2", **{**chosen, "set_": {**chosen["set_"], "embedding_dim": 4}}
    )
    assert plan.options["mmoe"]["num_experts"] == 8 and "num_experts" not in plan.options["ple"]
    assert plan.options["ple"]["num_own"] == 4


def test_a_forest_holds_every_interval_and_the_margin():
    drawn = forest(
        "t", "x", [Bar("pub", 0.01, 0.005, 0.015, "win"), Bar("uw", 0, -0.01, 0.01, "undecided")], 0.002
    )
    assert drawn.count("<polyline") == 2 and 'class="band"' in drawn and "win" in drawn
    assert "nothing to compare" in forest("t", "x", [], 0.002)


@pytest.mark.parametrize("name", ["pub", "pub@representation+adatask+clippy", "n" * 60])
def test_a_forest_has_room_for_its_names(name):
    drawn = forest("t", "x", [Bar(name, 0.01, 0.005, 0.015, "win")], 0.002)
    at = float(re.search(rf'x="([\d.]+)"[^>]*>{re.escape(name)}<', drawn)[1])
    assert at >= 7.7 * len(name)  # the text ends there; letters are 14 px high on a phone, .55 of that wide
    width = float(re.search(r'viewBox="0 0 ([\d.]+)', drawn)[1])
    assert all(float(x) <= width for x in re.findall(r'x="([\d.]+)"', drawn))


def test_the_command_plans_trains_and_goes_on(log, tmp_path):
    arguments = [
        "compare",
        str(log.path),
        "--models",
        "shared_bottom",
        "--methods",
        "equal",
        "--primary",
        "pub",
    ]
    arguments += [
        "--seeds",
        "2",
        "--epochs",
        "1",
        "--batch-size",
        "800",
        "--max-rows",
        "800",
        "--set",
        "hidden=[8]",
    ]
    arguments += [
        "--set",
        "tower_sizes=[]",
        "--set",
        "embedding_dim=2",
        "--out",
        str(tmp_path / "out"),
        "--json",
    ]
    dry = CliRunner().invoke(app, [*arguments, "--dry-run"])
    assert dry.exit_code == 0, dry.output
    content = json.loads(dry.stdout.strip().splitlines()[-1])
    assert content["hours"] > 0 and set(content["detectable"]) == set(TASKS)
    assert not (tmp_path / "out").exists()
    wrong = CliRunner().invoke(app, [*arguments, "--jobs", "0"])
    assert wrong.exit_code == 2 and "jobs must be >= 1" in wrong.output
