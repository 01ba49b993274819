"""What a comparison shows, on made-up scores: every part of a difference is of the tasks that the difference is of."""

from __future__ import annotations

import numpy as np
import pytest
from comparing import ROWS, made, made_log, side

from equipoise.study import compare_page, present
from equipoise.study.contrast import contrast
from equipoise.study.decide import holm
from equipoise.study.findings import findings
from equipoise.study.luck import luck_of
from equipoise.study.tuning import Unit

PARTS = ("difference", "seed_se", "test_se", "tuning_se", "low", "high", "p")


def test_the_mean_over_one_task_is_that_task(tmp_path):
    """A grey task is not in the mean, so it is in no part of its error either: luck in tuning was that of all tasks' mean."""
    log = made_log(tmp_path / "log", {"click": 0.5, "like": 0.02})
    worth = {"single": 0.5, "equal": 0.5, "uw": 0.5, "pub": 0.5}
    found = findings(made(log, tmp_path / "out", worth), 50)
    assert found["tasks"]["like"]["grey"] and not found["tasks"]["click"]["grey"]
    for method in ("single", "uw", "pub"):
        mean, click = side(found, method)["mean"], side(found, method)["contrasts"]["click"]
        for part in PARTS:
            assert mean[part] == pytest.approx(click[part], rel=1e-9), (
                method,
                part,
            )


def test_luck_of_a_mean_is_that_of_the_choice_by_all_tasks(tmp_path):
    """Settings that the mean of a and b cannot tell apart differ in each: the luck of one task, none of both, a half of it with c."""
    log = made_log(tmp_path / "log", {"a": 0.5, "b": 0.5, "c": 0.5})
    gap = {"a": 0.05, "b": -0.05, "c": 0.0}
    comparison = made(
        log, tmp_path / "out", {"equal": 0.5, "pub": 0.5}, settings=(0.0,) * 6,
        change=lambda task, setting: gap[task] * (-1) ** setting,
    )  # fmt: skip
    units = [Unit("shared_bottom", "pub")]
    of = {tasks: luck_of(comparison, units, tasks) ** 0.5 for tasks in (("a",), ("a", "b"), ("a", "c"))}
    assert of["a",] == pytest.approx(0.05, rel=0.2)
    assert of["a", "b"] < 0.01 and of["a", "c"] == pytest.approx(of["a",] / 2, rel=0.4)


def test_luck_of_single_task_models_is_that_of_the_mean_s_tasks(tmp_path):
    log = made_log(tmp_path / "log", {"a": 0.5, "b": 0.5})
    comparison = made(log, tmp_path / "out", {"single": 0.5, "equal": 0.5, "pub": 0.5})
    units = [unit for unit in comparison.tuned if unit.method == "single"]
    alone = [luck_of(comparison, units, [task]) for task in ("a", "b")]
    assert min(alone) > 0 and luck_of(comparison, units, ["a", "b"]) == pytest.approx(np.sum(alone) / 4)
    assert luck_of(comparison, units[:1], ["b"]) == 0.0


@pytest.mark.parametrize("name", ["mean", "other", "mean over tasks"])
def test_a_task_may_have_any_name(tmp_path, name):
    """What is said of a task and of the mean does not hang on what the task is called."""
    worth = {"single": 0.5, "equal": 0.5, "uw": 0.53, "pub": 0.6}
    told = []
    for at, task in enumerate(("like", name)):
        log = made_log(tmp_path / f"log{at}", {"click": 0.5, task: 0.3})
        found = findings(made(log, tmp_path / f"out{at}", worth), 50)
        told.append([found["primary"], found["best_other"], [each["counts"] for each in found["counts"]]])
        told[-1] += [[s["mean"], *s["contrasts"].values()] for s in found["sides"]]
        rows = present.contrasts(found)[1]
        assert len(rows) == 3 * 3 and compare_page.page(found).count("<svg") == 3 + 1
        told[-1].append([row[3:] for row in rows])
    assert told[0] == told[1]


def test_holm_is_over_all_but_the_primary_and_grey_tasks(tmp_path):
    """Each p-value is Holm's of its own family: a model's contrasts without the primary and grey tasks, with the best other method."""
    log = made_log(tmp_path / "log", {"click": 0.5, "like": 0.3, "rare": 0.05})
    worth = {"single": 0.5, "equal": 0.5, "uw": 0.58, "famo": 0.5, "pub": 0.62}
    found = findings(made(log, tmp_path / "out", worth), 50)
    assert [t for t, fact in found["tasks"].items() if fact["grey"]] == ["rare"]
    family = [s["mean"] for s in found["sides"] if s["mean"] and s["method"] != "pub"]
    family += [c for s in found["sides"] for t, c in s["contrasts"].items() if t != "rare"]
    family.append(found["best_other"])
    assert len(family) == 3 + 4 * 2 + 1
    adjusted = holm([each["p"] for each in family])
    assert [each["adjusted"] for each in family] == pytest.approx(adjusted, abs=1e-15)
    assert any(each["p"] < each["adjusted"] < 1 for each in family)
    assert found["primary"]["adjusted"] == found["primary"]["p"]
    grey = [s["contrasts"]["rare"] for s in found["sides"] if s["mean"]]
    assert [c["adjusted"] for c in grey] == [1.0] * 4 and not any(c["decision"] == "win" for c in grey)


def test_the_best_other_method_is_chosen_on_validation(tmp_path):
    """famo is the better one on validation, uw on test rows, which have no say."""
    log = made_log(tmp_path / "log", {"click": 0.5, "like": 0.3})
    worth = {"single": 0.9, "equal": 0.5, "uw": (0.4, 0.7), "famo": (0.6, 0.3), "pub": 0.5}
    found = findings(made(log, tmp_path / "out", worth), 50)
    auc = {s["method"]: np.mean(s["metrics"]["click"]["auc"]) for s in found["sides"]}
    assert auc["uw"] > auc["famo"] + 0.05
    assert found["best_other"]["method"] == "famo" and found["best_other"]["difference"] > 0.03


def test_one_group_of_test_rows_is_no_group(tmp_path):
    """Between groups nothing is known; the variance was exactly 0. It is that of rows, and the report says so."""
    rates, worth = {"click": 0.5, "like": 0.3}, {"single": 0.5, "equal": 0.5, "pub": 0.5}
    told = []
    for at, groups in enumerate((None, np.zeros(ROWS, int))):
        log = made_log(tmp_path / f"log{at}", rates, groups)
        told.append(findings(made(log, tmp_path / f"out{at}", worth), 50))
    rows, one = (side(found, "pub") for found in told)
    assert (
        rows["mean"] == one["mean"] and rows["contrasts"] == one["contrasts"] and rows["mean"]["test_se"] > 0
    )
    assert "of one group" in " ".join(present.heading(told[1]))
    assert "group" not in " ".join(present.heading(told[0]))


@pytest.mark.parametrize("num, said", [(3, True), (40, False)])
def test_few_test_groups_are_counted_in_the_report(tmp_path, num, said):
    log = made_log(tmp_path / "log", {"click": 0.5, "like": 0.3}, np.arange(ROWS) % num)
    found = findings(made(log, tmp_path / "out", {"equal": 0.5, "pub": 0.5}), 50)
    assert {fact["groups"] for fact in found["tasks"].values()} == {num}
    assert (f"({num} of click, {num} of like)" in " ".join(present.heading(found))) == said
    limited = present.limit({**found["primary"], "larger": "test rows"}, found["tasks"], [0, 1])
    assert ("3 hold a class" if said else "positives of like") in limited


def test_a_class_in_one_group_alone_is_grey(tmp_path):
    groups = np.maximum(np.arange(ROWS) // 10 - 40, 0)  # the first of 81 holds 410 rows
    log = made_log(tmp_path / "log", {"click": 0.5, "odd": 0.5}, groups, same_group="odd")
    found = findings(made(log, tmp_path / "out", {"equal": 0.5, "pub": 0.5}), 50)
    assert "in one group" in found["tasks"]["odd"]["grey"] and found["tasks"]["odd"]["groups"] == 1
    said = " ".join(present.heading(found))
    assert "of one group" not in said and "Few test groups" not in said  # click has 81
    assert set(side(found, "pub")["contrasts"]) == {"click"} and found["primary"] is not None


def test_delta_m_is_over_the_tasks_of_the_mean(tmp_path):
    """A grey task's AUC is mostly noise, one without a class has none: they are in no mean, and end it not."""
    log = made_log(tmp_path / "log", {"click": 0.5, "like": 0.3, "rare": 0.02, "none": 0.0})
    found = findings(made(log, tmp_path / "out", {"single": 0.6, "equal": 0.5, "pub": 0.55}), 50)
    assert found["tasks"]["rare"]["grey"] and found["tasks"]["none"]["grey"]
    auc = {
        s["method"]: {t: np.mean(s["metrics"][t]["auc"]) for t in ("click", "like")} for s in found["sides"]
    }
    wanted = [auc["pub"][t] / auc["single"][t] - 1 for t in ("click", "like")]
    assert side(found, "pub")["delta_m"] == pytest.approx(100 * np.mean(wanted))
    assert side(found, "single")["delta_m"] == pytest.approx(0.0, abs=1e-12)


class Rows:
    """A test split of one task."""

    def __init__(self, y, group):
        self.y, self.group = y, group

    def __len__(self):
        return len(self.y)

    def labels(self, task):
        return self.y, np.ones(len(self.y), bool)


@pytest.mark.parametrize("num", [2, 3, 5])
def test_intervals_of_few_groups_cover(num):
    """Sides that are equal over all groups and differ in each: without the factor and degrees of freedom .77 to .89 held 0."""
    rng, inside = np.random.default_rng(num), 0
    group = np.repeat(np.arange(num), 40)
    for _ in range(200):
        y = (rng.random(len(group)) < 0.3).astype(float)
        worth = 1 + 0.4 * rng.normal(size=(2, num))
        a, b = ([{"t": w[group] * y + rng.normal(size=len(y))} for _ in range(3)] for w in worth)
        low, high = contrast(Rows(y, group), ["t"], a, b, 0).estimate(["t"]).interval
        inside += low <= 0 <= high
    assert inside > 0.92 * 200  # .95 but for two standard errors
