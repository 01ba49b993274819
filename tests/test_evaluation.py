"""From outputs to losses and scores: precision, undefined metrics, and a model that fails in the middle."""

from __future__ import annotations

import pytest
import torch
from logs import small_log

from equipoise.evaluation import check_monitor, monitored, predict, score, score_task
from equipoise.losses import task_losses
from equipoise.metrics import auc
from equipoise.models import ESMM, SharedBottom


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return small_log(tmp_path_factory.mktemp("evaluation") / "log", n=240)


def test_half_precision_outputs_lose_nothing_in_the_loss(log):
    batch = next(log.split("train").batches(240))
    half = {task: torch.linspace(-3, 3, 240).bfloat16() for task in log.schema.tasks}
    found = task_losses(half, batch, log.schema)
    wanted = task_losses({task: values.float() for task, values in half.items()}, batch, log.schema)
    assert all(found[t].dtype == torch.float32 and torch.equal(found[t], wanted[t]) for t in wanted)
    assert found.counts == wanted.counts


def test_outputs_that_do_not_fit_are_refused(log):
    batch = next(log.split("train").batches(8))
    with pytest.raises(ValueError, match=r"outputs\['click'\] must have shape \(8,\), got \(8, 1\)"):
        task_losses({"click": torch.zeros(8, 1)}, batch, log.schema)
    with pytest.raises(ValueError, match="at least one task"):
        task_losses({}, batch, log.schema)


def test_a_models_mode_survives_a_failure(log, monkeypatch):
    model = SharedBottom(log.schema, embedding_dim=2, hidden=(4,), seed=0)
    monkeypatch.setattr(model, "predict", lambda batch: {"nobody": batch.row})
    with pytest.raises(KeyError):
        predict(model, log.split("test"))
    assert model.training


def test_scores_name_the_share_of_rows_and_groups_with_both_classes(log):
    split = log.split("test")
    model = SharedBottom(log.schema, embedding_dim=2, hidden=(4,), seed=0)
    found = score(model, split)["click"]
    labels, known = split.labels("click")
    both = [g for g in set(split.group[known]) if 0 < labels[known][split.group[known] == g].mean() < 1]
    assert found["eligible_groups"] == pytest.approx(len(both) / len(set(split.group[known])))
    assert found["eligible"] == pytest.approx(
        sum((split.group[known] == g).sum() for g in both) / known.sum()
    )
    with pytest.raises(ValueError, match="task 'click' predicts NaN or Inf"):
        score_task(split, "click", torch.full((len(split),), torch.nan).numpy())


def test_an_undefined_monitor_says_so(log):
    scores = {"click": {"auc": 0.7, "gauc": None, "logloss": 0.4}}
    with pytest.raises(ValueError, match="'click:gauc' is not defined on this split"):
        monitored(log.schema, scores, "click:gauc")
    with pytest.raises(ValueError, match="did you mean 'click:gauc'"):
        monitored(log.schema, scores, "click:guac")
    assert monitored(log.schema, scores, "click:logloss") == -0.4


def test_a_conversion_is_also_judged_among_the_rows_that_passed_the_step_before(log):
    model = ESMM(log.only(["click", "buy"]).schema, embedding_dim=2, hidden=(4,), seed=0).eval()
    test = log.only(["click", "buy"]).split("test")
    found = score(model, test)
    assert "cvr_auc" not in found["click"]
    batch = next(test.batches(len(test)))
    rows = batch.masks["buy"] & (batch.labels["click"] > 0)
    wanted = auc(batch.labels["buy"][rows].numpy(), model.named(batch)["cvr"][rows].numpy())
    assert found["buy"]["cvr_auc"] == pytest.approx(wanted, abs=0.02)  # rounding breaks ties of equal rows
    check_monitor(log.schema, "buy:cvr_auc")
    with pytest.raises(ValueError, match="monitor must be"):
        check_monitor(log.schema, "click:cvr_auc")
