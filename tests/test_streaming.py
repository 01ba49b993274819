"""The streaming AUC against the exact one."""

import numpy as np
import pytest

import equipoise as eq
from equipoise.metrics import auc


def drawn(n, rate, seed=0):
    rng = np.random.default_rng(seed)
    eta = rng.normal(size=n) * 1.5 + np.log(rate)
    return (rng.random(n) < 1 / (1 + np.exp(-eta))).astype(np.int8), (eta + rng.normal(size=n)).astype(
        np.float32
    )


@pytest.mark.parametrize("rate", (0.2, 0.0005))
def test_is_the_exact_auc_to_a_millionth(rate):
    y, s = drawn(300_000, rate)
    state = eq.StreamingAUC()
    for k in range(0, len(y), 10_007):
        state.update(y[k : k + 10_007], s[k : k + 10_007])
    assert state.value() == pytest.approx(auc(y, s), abs=1e-6)


def test_merges_and_weights():
    y, s = drawn(5_000, 0.1)
    w = np.random.default_rng(1).integers(0, 3, len(y)).astype(float)
    whole, parts = eq.StreamingAUC(), [eq.StreamingAUC() for _ in range(3)]
    whole.update(y, s, w)
    for k, part in enumerate(parts):
        part.update(y[k::3], s[k::3], w[k::3])
        if k:
            parts[0].merge(part)
    assert parts[0].value() == whole.value()
    assert whole.value() == pytest.approx(auc(y, s, w), abs=1e-4)
    repeated = eq.StreamingAUC()
    repeated.update(np.repeat(y, w.astype(int)), np.repeat(s, w.astype(int)))
    assert repeated.value() == pytest.approx(whole.value(), abs=1e-12)


def test_edges():
    state = eq.StreamingAUC()
    assert np.isnan(state.value())
    state.update([], [])
    state.update([1, 1], [0.0, 1.0])
    assert np.isnan(state.value())
    state.update([0], [-np.inf])
    state.update([1], [np.inf])
    assert state.value() == 1.0
    state = eq.StreamingAUC(bins=2)
    state.update([0, 1], [1.0, 2.0])
    assert state.value() == 0.5  # one bin


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (([0, 1], [0.0]), "equally long"),
        (([0, 2], [0.0, 1.0]), "0 or 1"),
        (([0, 1], [0.0, np.nan]), "must not be NaN"),
        (([0, 1], [0.0, 1.0], [1.0]), "as long as labels"),
    ],
)
def test_refuses(arguments, match):
    with pytest.raises(ValueError, match=match):
        eq.StreamingAUC().update(*arguments)
    with pytest.raises(ValueError, match="same bins"):
        eq.StreamingAUC().merge(eq.StreamingAUC(bins=4))
    with pytest.raises(ValueError, match="bins must be"):
        eq.StreamingAUC(bins=1)
