"""The forecast of a comparison: errors of the rows that theory gives, and the family that the comparison corrects for."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from equipoise.cli import app
from equipoise.data import from_frame
from equipoise.study import compare
from equipoise.study.delong import delong, placements
from equipoise.study.forecast import ASSUMED_AUC, ASSUMED_CORRELATION, ASSUMED_SEED_SD, hanley_mcneil
from equipoise.study.power import detectable

SMALL = {"hidden": [4], "tower_sizes": [], "embedding_dim": 2}


def expected(log, **changed):
    """The forecast of a small plan."""
    chosen = {
        "models_": ["shared_bottom"],
        "methods": ["equal", "uw"],
        "seeds": 5,
        "set_": SMALL,
        "grid": [1e-3],
    }
    return compare.expect(compare.make_plan(log, **{**chosen, **changed}))


def alone(log, task, family):
    """What 5 seeds detect of a task under Holm among `family` contrasts."""
    y = log.split("test").labels(task)[0]
    se = hanley_mcneil(y.sum(), (1 - y).sum(), ASSUMED_AUC) * math.sqrt(2 * (1 - ASSUMED_CORRELATION))
    return detectable(ASSUMED_SEED_SD, 5, se, num_comparisons=family)


def test_hanley_and_mcneil_agree_with_delong_on_exponential_scores():
    rng = np.random.default_rng(2)
    y = np.arange(4000) < 400
    s = np.where(y, 3.0, 1.0) * rng.exponential(size=len(y))  # AUC = 3 / 4, the model behind their formula
    p = placements(y, s)
    se = math.sqrt(delong(y, p, placements(y, rng.permutation(len(y)) * 0.0))[1])
    assert hanley_mcneil(400, 3600, 0.75) == pytest.approx(se, rel=0.08)


@pytest.mark.parametrize("positive", [True, False])
def test_a_task_without_both_classes_ends_no_forecast(tmp_path, positive):
    """Its AUC is not defined, so nothing of it is detected; it was a division by 0, in a dry run, too."""
    rng = np.random.default_rng(0)
    split = np.repeat(["train", "valid", "test"], 800)
    common = np.where(split == "test", positive, rng.random(2400) < 0.5).astype(int)
    frame = pl.DataFrame(
        {"x": rng.normal(size=2400), "a": rng.integers(0, 2, 2400), "common": common, "split": split}
    )
    log = from_frame(frame, labels=["a", "common"], split="split", out=tmp_path / "log")
    found = expected(log)
    # uw and pub in a and in the mean, less the primary contrast, and uw against pub
    assert found.detectable == {"a": pytest.approx(alone(log, "a", 2 * 2 - 1 + 1))}
    assert found.primary == pytest.approx(alone(log, "a", 1))
    done = CliRunner().invoke(app, ["compare", str(log.path), "--models", "shared_bottom", "--dry-run"])
    assert done.exit_code == 0, done.output


def test_what_can_be_detected_is_under_holm_among_what_is_judged(tmp_path):
    """Grey tasks, and those that are not binary, are in no family; without a secondary method there is no best other one."""
    rng = np.random.default_rng(0)
    columns = {"x": rng.normal(size=2400), "split": np.repeat(["train", "valid", "test"], 800)}
    columns |= {"a": rng.integers(0, 2, 2400), "rare": (rng.random(2400) < 0.05).astype(int)}
    frame = pl.DataFrame({**columns, "dwell": rng.exponential(size=2400)})
    log = from_frame(frame, labels=["a", "rare", "dwell:regression"], split="split", out=tmp_path / "log")
    found = expected(log)
    assert found.detectable == {
        task: pytest.approx(alone(log, task, 2 * 2 - 1 + 1)) for task in ("a", "rare")
    }
    assert expected(log, methods=["equal"]).detectable["a"] == pytest.approx(alone(log, "a", 2 - 1))
    assert expected(log, methods=["single", "equal"]).detectable["a"] == pytest.approx(alone(log, "a", 4 - 1))
    assert found.primary == pytest.approx(alone(log, "a", 1))
