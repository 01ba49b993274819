"""Fake-negative weighting: F of the rows, the expectation of the weighted loss, what cannot be."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
import torch

from equipoise.data import Label, Log, Numerical, Schema, SplitRule, extend, parse_label, prepare_table
from equipoise.data.batches import Batch
from equipoise.data.schema import Negatives
from equipoise.data.seen import MOST, delays_for, share_seen
from equipoise.delayed import FLOOR, fake_negative_weights
from equipoise.losses import task_losses
from equipoise.models import build

DAY = 86_400_000
BUY = Label(name="buy", event_time="conv", window="4d", pending="negative", correction="fnw")
RATE = 0.4
"""True probability of a purchase within the window."""


def schema(label=BUY, **own):
    own = {"time": "ts", "split": SplitRule(by="time"), **own}
    return Schema(features=(Numerical(name="x"),), labels=(Label(name="click"), label), **own)


def table(n=40_000, days=8, start=0, seed=0):
    """Rows of `days` days; a purchase with probability .4, its delay exponential with mean 1 day, cut at 4."""
    g = np.random.default_rng(seed)
    at = np.sort(g.integers(start * DAY, (start + days) * DAY, n))
    delay = -np.log(1 - g.random(n) * (1 - np.exp(-4))) * DAY
    conv = [int(t + d) if yes else None for t, d, yes in zip(at, delay, g.random(n) < RATE, strict=True)]
    return pl.DataFrame(
        {
            "x": g.normal(size=n),
            "click": g.integers(0, 2, n),
            "ts": pl.Series(at).cast(pl.Datetime("ms")),
            "conv": pl.Series(conv, dtype=pl.Int64).cast(pl.Datetime("ms")),
        }
    )


def one_batch(log, split="train"):
    return next(iter(log.split(split).batches(len(log.split(split)), shuffle=False)))


def fitted(batch, described):
    """Return p of the constant logit at which the gradient of the loss is 0, by bisection."""
    low, high = -8.0, 8.0
    for _ in range(50):
        z = torch.full((), (low + high) / 2, dtype=torch.float64, requires_grad=True)
        task_losses({"buy": z.expand(len(batch))}, batch, described)["buy"].backward()
        low, high = (float(z.detach()), high) if z.grad < 0 else (low, float(z.detach()))
    return 1 / (1 + np.exp(-low))


def test_the_expected_gradient_is_zero_at_the_true_probability_alone():
    described = schema()
    for p in (0.01, 0.3, 0.9):
        for seen in (0.001, 0.02, FLOOR, 0.3, 0.99, 1.0):
            gradients = []
            for guess in (p / 2, p, (1 + p) / 2):
                z = torch.full((2,), float(np.log(guess / (1 - guess))), dtype=torch.float64)
                batch = batch_of([1.0, 0.0], [seen, seen])
                weights = fake_negative_weights("buy", z, batch, described)
                chance = np.array([p * seen, 1 - p * seen])
                gradients.append(float((chance * weights.numpy() * np.array([guess - 1, guess])).sum()))
                if guess == p and seen >= FLOOR:
                    losses = chance * weights.numpy()
                    np.testing.assert_allclose(losses, [p, 1 - p], rtol=1e-5)  # F is float32
            assert gradients[0] < -1e-8 < abs(gradients[1]) + 1e-8 and gradients[2] > 1e-8
            assert abs(gradients[1]) < 1e-7
            assert float(weights[0]) <= 1 / FLOOR


def batch_of(labels, seen):
    n = len(labels)
    return Batch(
        torch.zeros(n, 0, dtype=torch.int32),
        torch.zeros(n, 1),
        {},
        {"buy": torch.tensor(labels)},
        {"buy": torch.ones(n, dtype=torch.bool)},
        torch.arange(n),
        seen={} if seen is None else {"buy": torch.tensor(seen)},
    )


def test_a_log_of_late_purchases_is_learned_without_the_bias_of_pending_negatives(tmp_path):
    log, _ = prepare_table(table(), tmp_path / "log", schema=schema())
    batch = one_batch(log)
    assert (
        abs(fitted(batch, log.schema) - RATE) < 0.015
    )  # 32,000 rows: 4 standard errors are .011, F's own come on top
    plain = schema(BUY.model_copy(update={"correction": None}))
    assert fitted(batch, plain) < RATE - 0.03
    # the F of each row, against the law that the delays were drawn by
    moment = log.manifest["notes"]["late"]["moments"]["train"]
    elapsed = (moment - np.asarray(log.split("train").arrays["time"])) / DAY
    truth = np.where(elapsed >= 4, 1, (1 - np.exp(-elapsed)) / (1 - np.exp(-4)))
    assert np.abs(batch.seen["buy"].numpy() - truth).max() < 0.03
    assert (batch.seen["click"] == 1).all() and one_batch(log.only(["buy"])).seen.keys() == {"buy"}


@pytest.mark.parametrize("correct", ["weights", "logit"])
def test_thinned_out_negatives_too(tmp_path, correct):
    rule = Negatives(of="buy", keep=0.3, correct=correct)
    log, _ = prepare_table(table(), tmp_path / "log", schema=schema(negatives=rule))
    assert abs(fitted(one_batch(log), log.schema) - RATE) < 0.02


def test_no_gradient_goes_through_the_weights():
    z = torch.tensor([0.3, -1.0, 2.0, 50.0, -50.0], requires_grad=True)
    batch = batch_of([1.0, 0.0, 0.0, 0.0, 0.0], [0.5, 0.4, 1.0, 0.5, 0.0])
    weights = fake_negative_weights("buy", z, batch, schema())
    assert not weights.requires_grad and torch.isfinite(weights).all()
    assert weights[2] == 1 and weights[4] == 0
    task_losses({"buy": z}, batch, schema())["buy"].backward()
    expected = weights * (torch.sigmoid(z.detach()) - batch.labels["buy"]) / 5
    torch.testing.assert_close(z.grad, expected)


def test_a_day_more_keeps_the_delays_of_the_first(tmp_path):
    log, _ = prepare_table(table(4000), tmp_path / "log", schema=schema())
    old = [np.array(part["seen"]) for name in log.splits for part in log.split(name).parts]
    held = log.manifest["notes"]["late"]["tasks"]["buy"]["seen"]
    log = extend(log, table(1000, days=1, start=13, seed=1))  # no row's window is over within it
    now = log.split("train").parts
    for before, after in zip(old, now, strict=False):
        np.testing.assert_array_equal(before, after["seen"])
    day = log.manifest["notes"]["extended"][-1]["late"]
    expected = share_seen(np.array(held), np.asarray(now[-1]["time"]), 4 * DAY, day["moments"]["train"])
    np.testing.assert_array_equal(now[-1]["seen"][:, 1], expected)
    assert day["tasks"]["buy"]["seen"] == held and 0 < expected.max() < 1
    assert log.manifest["notes"]["late"]["tasks"]["buy"]["seen"] == held
    manifest = json.loads((log.path / "manifest.json").read_text())
    del manifest["notes"]["late"]["tasks"]["buy"]["seen"]
    (log.path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"damaged: notes\.late\.tasks\.buy\.seen"):
        extend(Log.open(log.path), table(1000, days=1, start=30))


def test_many_delays_become_a_thousand():
    delays = np.arange(1, 2501)
    kept = delays_for(BUY, delays)
    assert len(kept) == MOST and kept[-1] == 2500
    exact = (delays[None] <= delays[:, None]).mean(1)
    found = share_seen(kept, -delays, 10**9, 0)
    assert np.abs(found - exact).max() <= 1 / MOST + 1e-6


def test_what_cannot_be(tmp_path):
    assert parse_label("buy:event_time=conv:window=4d:pending=negative:correction=fnw") == BUY
    for pending in ("mask", "exclude"):
        with pytest.raises(ValueError, match=r"correction='fnw', which needs pending='negative'"):
            Label(name="buy", event_time="conv", window="4d", pending=pending, correction="fnw")
    with pytest.raises(ValueError, match=r"window \(4d\) was over when train ended, got none"):
        prepare_table(table(400, days=2), tmp_path / "log", schema=schema())
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match=r"batch\.seen must hold task 'buy'"):
        task_losses({"buy": torch.zeros(1)}, batch_of([1.0], None), schema())
    log, suspects = prepare_table(table(100), tmp_path / "log", schema=schema())
    assert any("its correction is rough" in line for line in suspects)
    (tmp_path / "log" / "train" / "seen.npy").unlink()
    with pytest.raises(ValueError, match=r"seen\.npy is missing"):
        Log.open(log.path)


def test_a_funnel_is_weighted_by_its_product():
    funnel = schema(BUY.model_copy(update={"given": "click"}))
    with pytest.raises(ValueError, match="must be 'ctcvr' where a label has a correction"):
        build("esmm", funnel, loss="ips")
    model = build("esmm", funnel, seed=0)
    batch = batch_of([1.0, 0.0, 0.0], [0.5, 0.4, 1.0])
    batch.labels["click"], batch.masks["click"] = torch.ones(3), torch.ones(3, dtype=torch.bool)
    z = model.outputs(batch, model.represent(batch))["buy"]
    rows = torch.nn.functional.binary_cross_entropy_with_logits(z, batch.labels["buy"], reduction="none")
    expected = (rows * fake_negative_weights("buy", z, batch, funnel)).mean()
    torch.testing.assert_close(model.losses(batch)["buy"].float(), expected)
