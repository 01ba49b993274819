"""What a comparison shows, on made-up scores: every part of a difference is of the tasks that the difference is of."""

from __future__ import annotations

import numpy as np
import pytest
from comparing import made, made_log, side

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
        contrasts = side(found, method)["contrasts"]
        for part in PARTS:
            assert contrasts["mean"][part] == pytest.approx(contrasts["click"][part], rel=1e-9), (
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
