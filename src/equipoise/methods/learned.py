"""What methods with numbers of their own share: an Adam step on them, moving averages, and checks."""

from __future__ import annotations

import math

import torch
from torch import Tensor

Moments = dict[str, Tensor]
BETAS, EPS = (0.9, 0.999), 1e-8


def begin(num_tasks: int) -> Moments:
    """Return Adam's moments [T] and step counters [T], all 0."""
    return {name: torch.zeros(num_tasks, dtype=torch.float64) for name in ("m", "v", "k")}


def adam(
    value: Tensor, gradient: Tensor, moments: Moments, present: Tensor, lr: float
) -> tuple[Tensor, Moments]:
    """Return value [T] and moments after one Adam step on the present entries; the others stay as they are.

    Args:
        value: [T]. gradient: [P]. present: bool [T].
    """
    m, v, k = (moments[name].clone() for name in ("m", "v", "k"))
    m[present] = BETAS[0] * m[present] + (1 - BETAS[0]) * gradient
    v[present] = BETAS[1] * v[present] + (1 - BETAS[1]) * gradient**2
    k[present] += 1
    step = (m[present] / (1 - BETAS[0] ** k[present])) / (
        (v[present] / (1 - BETAS[1] ** k[present])).sqrt() + EPS
    )
    moved = value.clone()
    moved[present] -= lr * step
    return moved, {"m": m, "v": v, "k": k}


def everyone(statistic: Tensor, present: Tensor | None) -> Tensor:
    """Return `present`, or all tasks where it is None."""
    return torch.ones(len(statistic), dtype=torch.bool) if present is None else present


def averaged(m: Tensor, gram: Tensor, present: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Return moving averages of norms [T] (a first norm as it is), and those of the present tasks [P]."""
    norms, moved = gram.diagonal().sqrt(), m.clone()
    moved[present] = torch.where(m[present] > 0, beta * m[present] + (1.0 - beta) * norms, norms)
    return moved, moved[present]


def check_positive(losses: Tensor, name: str) -> None:
    """Raise a ValueError unless all losses are > 0, as the method's logarithm needs."""
    if not bool((losses > 0).all()):
        raise ValueError(
            f"losses must be > 0 for {name}, which takes their logarithm or ratio, got {float(losses.min()):g}; add a "
            "constant, or use another method"
        )


def check_number(name: str, value: float, least: float, strict: bool = True) -> None:
    """Raise a ValueError unless the number is finite and > least (>= without `strict`)."""
    if not math.isfinite(value) or value < least or (strict and value == least):
        raise ValueError(f"{name} must be a finite number {'>' if strict else '>='} {least:g}, got {value!r}")
