"""What each side of a comparison may tune beside its learning rate: the same number of runs for every side."""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from equipoise.presets import parse_method

LR_GRID = (3e-4, 1e-3, 3e-3, 1e-2)
"""Half-decades. A best value at an end adds the next one, within `LR_LIMITS`."""
LR_LIMITS = (1e-5, 1.0)
NUM_CANDIDATES = 6
WEIGHT_DECAYS = (1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4)
"""Of sides without constants of their own, coupled as Adam has it; the default, 0, is what they are compared with."""

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


def candidates(
    method: str, tasks: Sequence[str], rates: Mapping[str, float], num: int = NUM_CANDIDATES
) -> list[dict[str, Any]]:
    """Return `num` settings {"set": {...}, "weight_decay": float} to try at the chosen learning rate, none the default.

    A side with constants draws them and a weight decay (half of the settings have none); "fixed" draws task weights: first
    the inverse entropies of the labels, so that tasks start with equal losses, then log-uniform ones in [1/5, 5], sum T; every
    other side tries `WEIGHT_DECAYS`. The draw hangs on the method's name alone, so it is the same in each run of a comparison.

    Args:
        method: as the command line takes it, "single" included. tasks: names. rates: {task: share of positives}, tasks
            that are not binary left out.
        num: >= 0.
    """
    name = "equal" if method == "single" else parse_method(method)[0]
    draw = np.random.default_rng(zlib.crc32(method.encode()))
    if num == 0:
        return []
    if name == "fixed" and len(tasks) > 1:
        found = [_weights([1.0 / _entropy(rates.get(task)) for task in tasks], tasks)]
        while len(found) < num:
            found.append(
                _weights(np.exp(draw.uniform(-math.log(5), math.log(5), len(tasks))).tolist(), tasks)
            )
        return [
            {"set": chosen, "weight_decay": (0.0, 1e-5)[at % 2 if at else 0]}
            for at, chosen in enumerate(found)
        ]
    if name in SPACES:
        space = SPACES[name]
        one = [{f"method.{key}": value} for key, values in space.items() for value in values]
        pairs = [
            {f"method.{a}": x, f"method.{b}": y}
            for a, b in itertools.combinations(space, 2)
            for x in space[a]
            for y in space[b]
        ]
        pool = [{"set": chosen, "weight_decay": 0.0} for chosen in one + pairs]
        pool += [{"set": chosen, "weight_decay": decay} for chosen in one for decay in (1e-6, 1e-5, 1e-4)]
        halves = (
            [entry for entry in pool if not entry["weight_decay"]],
            [e for e in pool if e["weight_decay"]],
        )
        wanted = min(len(halves[0]), num - num // 2)
        chosen = [halves[0][i] for i in draw.permutation(len(halves[0]))[:wanted]]
        return chosen + [halves[1][i] for i in draw.permutation(len(halves[1]))[: num - wanted]]
    decays = WEIGHT_DECAYS if num <= len(WEIGHT_DECAYS) else tuple(np.geomspace(1e-6, 3e-4, num).tolist())
    return [{"set": {}, "weight_decay": decay} for decay in decays[:num]]


def next_rate(tried: Mapping[float, float]) -> float | None:
    """Return the half-decade beyond the best of {rate: value} when that is an end of what was tried, else None."""
    best = max(tried, key=lambda lr: tried[lr])
    ordered = sorted(tried)
    if best not in (ordered[0], ordered[-1]):
        return None
    step = 1 if best == ordered[-1] else -1
    beyond = float(f"{10.0 ** ((round(2 * math.log10(best)) + step) / 2):.1g}")
    return beyond if LR_LIMITS[0] <= beyond <= LR_LIMITS[1] else None


def _weights(raw: Sequence[float], tasks: Sequence[str]) -> dict[str, Any]:
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
