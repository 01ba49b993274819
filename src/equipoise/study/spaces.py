"""What each side of a comparison may tune beside its learning rate: the same number of runs for every side."""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from equipoise.presets import parse_method

LR_LIMITS = (1e-5, 1.0)
"""A best value at an end of `LR_GRID` adds the next one, within these."""
NUM_CANDIDATES = 8
"""Runs after the learning rates: three on weight decay, two on the rates beside the best (decay where the grid has them), three on constants (decay where
there are none)."""
NUM_FINALISTS = 3
"""Of these, the settings that run with the other tuning seeds, too, before one is chosen."""
WEIGHT_DECAYS = (1e-5, 1e-4)
"""Coupled as Adam has it; tried first beside the default, 0. `next_decay` goes on from the best."""
DECAY_LIMITS = (1e-7, 0.1)

SPACES: dict[str, dict[str, tuple[Any, ...]]] = {
    "uw": {"lr": (0.001, 0.003, 0.03, 0.1)},
    "dwa": {"temperature": (1.0, 4.0), "window": (30, 300)},
    "imtl_l": {"lr": (0.001, 0.003, 0.03, 0.1)},
    "famo": {"lr": (0.005, 0.01, 0.05, 0.1), "gamma": (0.001, 0.03)},
    "stch": {"mu": (0.1, 0.3, 3.0, 10.0), "warmup": (30, 300)},
    "gradnorm": {"alpha": (0.5, 1.0, 2.0, 3.0), "lr": (0.005, 0.01, 0.05)},
    "excess_mtl": {"eta": (0.001, 0.003, 0.03, 0.1)},
    "bandit_mtl": {"eta": (0.1, 0.2, 1.0), "rho": (0.6, 0.9, 1.5)},
    "gradvac": {"beta": (0.001, 0.003, 0.03, 0.1)},
    "cagrad": {"c": (0.1, 0.2, 0.4, 0.6, 0.8, 0.9)},
    "fairgrad": {"alpha": (0.5, 0.75, 1.5, 2.0, 3.0, 5.0)},
    "moco": {"beta": (0.3, 0.8, 0.99), "gamma": (0.01, 0.5), "rho": (0.01, 0.1)},
    "sdmgrad": {"lam": (0.1, 0.2, 0.5, 0.7, 0.9)},
    "aligned_mtl": {"scale_mode": ("median", "rmse")},
    "db_mtl": {"beta": (0.1, 0.5, 0.99), "sigma": (0.1, 0.5)},
    "pe_ltr": {"floor": (0.1, 0.3, 0.7, 0.9)},
    "pcd": {"tau": (0.005, 0.01, 0.05, 0.1), "beta": (0.99,)},
    "multibalance": {"beta": (0.5, 0.8, 0.99)},
    "gradcraft": {"relax": (0.3, 0.5, 0.9), "beta": (0.5, 0.99)},
    "conic_grad": {"c": (0.1, 0.25, 0.75, 0.9)},
    "metabalance": {"relax": (0.3, 0.5, 0.9), "beta": (0.5, 0.99)},
    "graddrop": {"leak": (0.1, 0.3, 0.5, 0.7)},
}
"""{method: {constant: values beside its default}}. Methods that are not here have no constant to tune."""


def constants(
    method: str, tasks: Sequence[str], rates: Mapping[str, float], num: int
) -> list[dict[str, Any]]:
    """Return up to `num` settings of a side's own to try at its chosen learning rate and weight decay, none the default.

    "fixed" has task weights with sum T: first the inverse entropies of the labels, so that tasks start with equal losses, then the square roots
    of these, then log-uniform draws in [1/5, 5]. A method with constants (`SPACES`) draws single values before pairs; one without
    gets an empty list. The draw hangs on the method's name alone, so it is the same in each run of a comparison.

    Args:
        method: as the command line takes it, "single" included. tasks: names. rates: {task: share of positives}, tasks
            that are not binary left out. num: >= 0.
    """
    name = "equal" if method == "single" else parse_method(method)[0]
    draw = np.random.default_rng(zlib.crc32(method.encode()))
    if name == "fixed" and len(tasks) > 1:
        even = [1.0 / _entropy(rates.get(task)) for task in tasks]
        found = [_weights(even, tasks), _weights([math.sqrt(w) for w in even], tasks)]
        while len(found) < num:
            drawn = np.exp(draw.uniform(-math.log(5), math.log(5), len(tasks)))
            found.append(_weights(drawn.tolist(), tasks))
        return found[:num]
    space = SPACES.get(name, {})
    one = [{f"method.{key}": value} for key, values in space.items() for value in values]
    pairs = [
        {f"method.{a}": x, f"method.{b}": y}
        for a, b in itertools.combinations(space, 2)
        for x in space[a]
        for y in space[b]
    ]
    pool = [*(one[i] for i in draw.permutation(len(one))), *(pairs[i] for i in draw.permutation(len(pairs)))]
    return pool[:num]


def next_decay(tried: Mapping[float, float]) -> float | None:
    """Return the weight decay to try after {decay: value}: the untried half-decade nearest to the best, the larger of two.

    Where no decay at all is best, a decade below the smallest that was tried. None when none within `DECAY_LIMITS` is left.
    """
    best = max(tried, key=lambda decay: tried[decay])
    low, high = (round(2 * math.log10(limit)) for limit in DECAY_LIMITS)
    known = {round(2 * math.log10(decay)) for decay in tried if decay > 0}
    at = round(2 * math.log10(best)) if best > 0 else min(known, default=-8) - 2
    for away in range(high - low + 1):
        for step in (at + away, at - away):
            if low <= step <= high and step not in known:
                return _half_decade(step)
    return None


def next_rate(tried: Mapping[float, float]) -> float | None:
    """Return the half-decade beyond the best of {rate: value} when that is an end of what was tried, else None."""
    best = max(tried, key=lambda lr: tried[lr])
    ordered = sorted(tried)
    if best not in (ordered[0], ordered[-1]):
        return None
    step = 1 if best == ordered[-1] else -1
    beyond = _half_decade(round(2 * math.log10(best)) + step)
    return beyond if LR_LIMITS[0] <= beyond <= LR_LIMITS[1] else None


def beside(lr: float) -> list[float]:
    """Return the half-decades next to a learning rate, the lower first, within `LR_LIMITS`."""
    at = round(2 * math.log10(lr))
    near = [_half_decade(step) for step in (at - 1, at + 1)]
    return [rate for rate in near if LR_LIMITS[0] <= rate <= LR_LIMITS[1]]


def _half_decade(step: int) -> float:
    """Return 10 to half of `step`, to one digit: 1, 3, 10."""
    return float(f"{10.0 ** (step / 2):.1g}")


def _weights(raw: Sequence[float], tasks: Sequence[str]) -> dict[str, Any]:
    """Return the option that sets task weights in these proportions, with sum T."""
    total = sum(raw)
    return {
        "method.weights": {
            task: round(float(w) * len(tasks) / total, 4) for task, w in zip(tasks, raw, strict=True)
        }
    }


def _entropy(rate: float | None) -> float:
    """Return the entropy of a label of this rate, in nats; 1 for a standardised regression (its variance)."""
    if rate is None:
        return 1.0
    p = min(max(rate, 1e-6), 1 - 1e-6)
    return -p * math.log(p) - (1 - p) * math.log(1 - p)
