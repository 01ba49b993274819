"""Backbones against their formulas, and whose parameters are whose."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from logs import SCHEMA, schema_of, small_log
from plain import linear, numpy_embedding, numpy_experts, numpy_mixture, numpy_tower

from equipoise.data import Label
from equipoise.losses import predictions, task_losses
from equipoise.metrics import auc, xauc
from equipoise.models import MODELS, MMoE, SharedBottom, build, options


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return small_log(tmp_path_factory.mktemp("models") / "log", n=256)


@pytest.fixture(scope="module")
def batch(log):
    return next(log.split("train").batches(256))


@pytest.mark.parametrize("name", ["single_task", "shared_bottom"])
def test_a_trunk_with_towers_is_its_formula(log, batch, name):
    model = build(name, schema_of(name, log), seed=0).double().eval()
    x = numpy_embedding(model, batch)
    for layer in model.trunk:
        x = np.maximum(linear(layer, x), 0) if isinstance(layer, torch.nn.Linear) else x
    for task, out in model(batch).items():
        assert np.allclose(
            out.detach().numpy(), numpy_tower(model.own[task], x), atol=1e-12
        )  # float64 sums reordered


@pytest.mark.parametrize("gates", ["own", "shared"])
def test_mmoe_is_its_formula(log, batch, gates):
    model = MMoE(log.schema, num_experts=3, gates=gates, seed=0).double().eval()
    x = numpy_embedding(model, batch)
    experts = numpy_experts(model.experts, x)
    for task, out in model(batch).items():
        mixture = numpy_mixture(model.gate if gates == "shared" else model.own[task]["gate"], x, experts)
        assert np.allclose(out.detach().numpy(), numpy_tower(model.own[task]["tower"], mixture), atol=1e-12)


@pytest.mark.parametrize("name", list(MODELS))
def test_a_task_may_have_any_name(log, batch, name):
    """`forward`, `train` and `a.b` are names that torch's ModuleDict refuses."""
    plain = schema_of(name, log)
    other = {
        "buy": "a.b",
        "click": "forward",
        "dwell": "train",
    }  # in the same alphabetical order, by which some models join
    labels = tuple(
        y.model_copy(
            update={"name": other[y.name], "column": y.column or y.name, "given": other.get(y.given)}
        )
        for y in plain.labels
    )
    scales = {other[k]: v for k, v in plain.label_scale.items() if k in other}
    levels = {other[k]: v for k, v in plain.label_levels.items() if k in other}
    renamed = plain.model_copy(update={"labels": labels, "label_scale": scales, "label_levels": levels})
    first, second = build(name, plain, seed=0).eval(), build(name, renamed, seed=0).eval()
    found = second(batch)
    for task, out in first(batch).items():
        assert torch.equal(found[other[task]], out)
    assert len(second.task_parameters("forward")) == len(first.task_parameters("click"))
    third = build(name, renamed, seed=1).eval()
    third.load_state_dict(second.state_dict())
    assert all(torch.equal(v, found[task]) for task, v in third(batch).items())


@pytest.mark.parametrize("name", list(MODELS))
def test_every_parameter_is_shared_or_one_tasks_own(log, batch, name):
    schema = schema_of(name, log)
    model = build(name, schema, seed=0)
    groups = [model.shared_parameters(), *(model.task_parameters(t) for t in schema.tasks)]
    ids = [id(p) for group in groups for p in group]
    assert len(ids) == len(set(ids)) and set(ids) == {id(p) for p in model.parameters()}
    losses = model.losses(batch)
    for task, loss in losses.items():
        for other in schema.tasks:
            assert all(reached == (task == other) for reached in reach(loss, model.task_parameters(other)))
    times = zip(*(reach(loss, model.shared_parameters()) for loss in losses.values()), strict=True)
    assert all(sum(each) >= min(2, len(losses)) for each in times)  # a funnel's first tower: not by all


def reach(loss, parameters):
    """Whether a loss reaches each parameter."""
    return (
        [g is not None for g in torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)]
        if parameters
        else []
    )


@pytest.mark.parametrize("name", list(MODELS))
def test_a_row_does_not_depend_on_its_batch_in_eval_mode(log, batch, name):
    model = build(name, schema_of(name, log), seed=0, batch_norm=True, dropout=0.3)
    model.train()
    model.losses(batch)
    model.eval()
    whole = model.predict(batch)
    part = model.predict(next(log.split("train").batches(7)))
    for task, values in part.items():
        assert torch.allclose(
            values, whole[task][:7], atol=1e-6
        )  # batched products are summed in other orders


def test_number_of_parameters(log):
    dim, ids = 4, sum(log.schema.num_ids.values())
    model = MMoE(log.schema, num_experts=3, embedding_dim=dim, expert=(8, 5), tower_sizes=(6,))
    width = dim * 3 + 1
    experts = 3 * (width * 8 + 8 + 8 * 5 + 5)
    own = width * 3 + (5 * 6 + 6) + (6 + 1)
    assert sum(p.numel() for p in model.parameters()) == dim * ids + experts + 3 * own


def test_a_seed_gives_the_same_start(log):
    for a, b in zip(
        MMoE(log.schema, seed=3).parameters(), MMoE(log.schema, seed=3).parameters(), strict=True
    ):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", list(MODELS))
def test_it_overfits_256_rows(log, batch, name):
    model = build(name, schema_of(name, log), seed=0, id_dropout=0.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        sum(model.losses(batch).values()).backward()
        optimizer.step()
    for task, values in model.eval().predict(batch).items():
        known = batch.masks[task]
        y, p = batch.labels[task][known].numpy(), values[known].detach().numpy()
        assert (xauc if task == "dwell" else auc)(y, p) > 0.99


def test_the_unseen_row_is_trained_by_id_dropout(log, batch):
    model = SharedBottom(log.schema, id_dropout=0.5, seed=0)
    before = model.embedding.table.weight[0].clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sum(model.losses(batch).values()).backward()
    optimizer.step()
    assert not torch.equal(before, model.embedding.table.weight[0])


def test_bad_input_is_refused(log, batch):
    model = SharedBottom(log.schema, seed=0)
    with pytest.raises(ValueError, match="feature 'user' must lie in"):
        model(type(batch)(**{**batch.__dict__, "ids": batch.ids + 1000}))
    with pytest.raises(ValueError, match="prepared log"):
        SharedBottom(SCHEMA)
    with pytest.raises(ValueError, match="did you mean 'num_experts'"):
        build("mmoe", log.schema, num_expert=4)
    with pytest.raises(ValueError, match="did you mean 'mmoe'"):
        options("mmo")
    with pytest.raises(ValueError, match="task 'clck'"):
        model.task_parameters("clck")


def test_loss_is_the_weighted_mean_over_known_labels(log, batch):
    model = SharedBottom(log.schema, seed=0).eval()
    outputs = model(batch)
    losses = task_losses(outputs, batch, log.schema)
    w = (batch.weight * batch.masks["buy"]).double().numpy()
    y, z = batch.labels["buy"].double().numpy(), outputs["buy"].detach().double().numpy()
    each = np.log1p(np.exp(-np.abs(z))) + np.maximum(z, 0) - y * z
    assert losses["buy"].item() == pytest.approx((w * each).sum() / w.sum(), rel=1e-5)
    assert losses.counts["buy"] == pytest.approx(w.sum())
    mean, std = log.schema.label_scale["dwell"]
    target = (np.log1p(batch.labels["dwell"].double().numpy()) - mean) / std
    wanted = np.average((outputs["dwell"].detach().double().numpy() - target) ** 2, weights=batch.weight)
    assert losses["dwell"].item() == pytest.approx(wanted, rel=1e-5)


def test_a_task_without_a_valid_label_has_no_loss(log, batch):
    hidden = {**batch.masks, "buy": torch.zeros(256, dtype=torch.bool)}
    losses = SharedBottom(log.schema, seed=0).losses(type(batch)(**{**batch.__dict__, "masks": hidden}))
    assert losses["buy"] is None and losses["click"] is not None and losses.counts["buy"] == 0.0


def test_predictions_are_in_the_labels_units(log):
    mean, std = log.schema.label_scale["dwell"]
    found = predictions({"click": torch.tensor([0.0]), "dwell": torch.tensor([0.0])}, log.schema)
    assert found["click"].item() == 0.5
    assert found["dwell"].item() == pytest.approx(np.expm1(mean), rel=1e-6) and std > 0


def test_huber_is_linear_far_out(log):
    schema = log.schema.model_copy(update={"labels": (Label(name="dwell", kind="regression", loss="huber"),)})
    schema = schema.model_copy(update={"label_scale": {"dwell": (0.0, 1.0)}})
    batch = next(log.split("train").batches(4))
    far = {"dwell": batch.labels["dwell"] + 11.0}
    assert task_losses(far, batch, schema)["dwell"].item() == pytest.approx(10.5, rel=1e-4)  # |d| - 1/2


@pytest.mark.parametrize("wrong", ["negative", "too large"])
def test_multi_valued_ids_that_do_not_fit_are_refused(log, batch, wrong):
    model = SharedBottom(log.schema, seed=0)
    ragged = batch.multi["tags"]
    values = ragged.values.clone()
    values[0] = -1 if wrong == "negative" else log.schema.num_ids["tags"]
    multi = {"tags": type(ragged)(values, ragged.offsets)}
    with pytest.raises(ValueError, match="feature 'tags' must hold ids in"):
        model(type(batch)(**{**batch.__dict__, "multi": multi}))


def test_a_batch_without_a_multi_valued_feature_is_refused(log, batch):
    with pytest.raises(ValueError, match="must hold feature 'tags', got none"):
        SharedBottom(log.schema, seed=0)(type(batch)(**{**batch.__dict__, "multi": {}}))
