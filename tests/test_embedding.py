"""The input of the backbones: pooling with weights, id dropout, and batches that do not fit."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from logs import small_log

from equipoise.data import Multi, Schema
from equipoise.data.batches import Ragged
from equipoise.models.embedding import FeatureEmbedding


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return small_log(tmp_path_factory.mktemp("embedding") / "log", n=64)


@pytest.fixture
def batch(log):
    return next(log.split("train").batches(5))


def only_tags(log, pooling="mean"):
    """Schema of one multi-valued feature of 7 ids."""
    return log.schema.model_copy(update={"features": (Multi(name="tags", pooling=pooling),)})


def with_tags(batch, weights):
    """Five rows of tags: (1, 2), none, (3, 4), (5,), (2, 2)."""
    tags = Ragged(torch.tensor([1, 2, 3, 4, 5, 2, 2]), torch.tensor([0, 2, 2, 4, 5, 7]), weights)
    return replace(batch, ids=batch.ids[:, :0], numerical=batch.numerical[:, :0], multi={"tags": tags})


@pytest.mark.parametrize("pooling", ["mean", "sum"])
def test_weighted_pooling_divides_a_mean_by_the_sum_of_weights(log, batch, pooling):
    # the third row's weights sum to 0, the fourth's only one is 0
    weights = torch.tensor([0.5, 1.5, 1.0, -1.0, 0.0, 1.0, 3.0])
    layer = FeatureEmbedding(only_tags(log, pooling), dim=3).double().eval()
    table = layer.table.weight
    zero = torch.zeros(3, dtype=torch.float64)
    wanted = [0.5 * table[1] + 1.5 * table[2], zero, table[3] - table[4], zero, 4 * table[2]]
    if pooling == "mean":
        wanted = [wanted[0] / 2, zero, zero, zero, table[2]]
    found = layer(with_tags(batch, weights))
    assert torch.allclose(found, torch.stack(wanted), atol=1e-15)  # sums of two numbers of size .1
    (gradient,) = torch.autograd.grad(found.sum(), table)
    assert gradient.isfinite().all()


def test_equal_weights_are_no_weights(log, batch):
    layer = FeatureEmbedding(only_tags(log)).eval()
    found = layer(with_tags(batch, torch.full((7,), 2.0)))
    assert torch.allclose(found, layer(with_tags(batch, None)), atol=1e-7)  # 2 / 4 of a float32 of size .1


def test_id_dropout_sends_ids_of_multi_valued_features_to_the_unseen_row(log, batch):
    layer = FeatureEmbedding(only_tags(log), id_dropout=0.5)
    many = Ragged(torch.full((4000,), 3), torch.arange(0, 4001, 800))
    torch.manual_seed(0)
    found = layer(replace(with_tags(batch, None), multi={"tags": many})).mean(0)
    table = layer.table.weight
    share = ((found - table[3]) @ (table[0] - table[3]) / (table[0] - table[3]).square().sum()).item()
    assert share == pytest.approx(
        0.5, abs=4 * math.sqrt(0.25 / 4000)
    )  # four standard deviations of 4000 coins
    assert torch.allclose(layer.eval()(with_tags(batch, None))[3], table[5])


@pytest.mark.parametrize(("what", "wanted"), [("ids", 2), ("numerical", 1)])
@pytest.mark.parametrize("change", [-1, 1])
def test_another_number_of_columns_is_refused(log, batch, what, wanted, change):
    old = getattr(batch, what)
    wrong = replace(batch, **{what: torch.zeros(5, wanted + change, dtype=old.dtype)})
    with pytest.raises(
        ValueError, match=rf"batch.{what} must have shape \[B, {wanted}\], .* got \(5, {wanted + change}\)"
    ):
        FeatureEmbedding(log.schema)(wrong)


def test_the_message_shows_the_id_that_does_not_fit(log, batch):
    ids = batch.ids.clone()
    ids[2, 0] = -4
    with pytest.raises(ValueError, match=r"'user' must lie in .* got -4"):
        FeatureEmbedding(log.schema)(replace(batch, ids=ids))


def test_what_cannot_be_built_is_refused(log):
    with pytest.raises(ValueError, match="at least one feature"):
        FeatureEmbedding(Schema(features=(), labels=log.schema.labels))
    with pytest.raises(ValueError, match="id_dropout must lie in"):
        FeatureEmbedding(log.schema, id_dropout=1.0)
