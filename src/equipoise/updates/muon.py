"""Muon: momentum, made orthogonal by Newton and Schulz's iteration. Matrices only, each as a whole.

    B' = B + (1 - mu) (g - B),   N = g + mu (B' - g) under Nesterov, else B'
    X  = N / |N|, k times X <- a X + (b A + c A^2) X with A = X X^T (in bfloat16, on the wide side)
    u  = ratio X,   theta' = (1 - lr wd) theta - lr u

ratio is sqrt(max(1, rows / columns)), or .2 sqrt(max(rows, columns)) under `match_rms_adamw`. Every task's update has nearly
the same length, so that their Gram matrix holds angles alone.

Source: Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024; torch.optim._muon (torch 2.9 and later),
whose order of operations we keep.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

State = Mapping[str, Any]
Hyper = Mapping[str, Any]


def init(parameter: Tensor, hyper: Hyper) -> dict[str, Any]:
    """Return slot momentum_buffer (B), 0."""
    return {"momentum_buffer": torch.zeros_like(parameter.detach())}


def advance(gradient: Tensor, state: State, hyper: Hyper, parameter: Tensor | None = None) -> dict[str, Any]:
    """Return the slots after a step with this gradient."""
    state = state or init(gradient, hyper)
    return {**state, "momentum_buffer": state["momentum_buffer"].lerp(gradient, 1 - hyper["momentum"])}


def peek(gradient: Tensor, state: State, hyper: Hyper, parameter: Tensor | None = None) -> Tensor:
    """Return the update of this gradient alone, in the gradient's dtype."""
    moved: Tensor = advance(gradient, state, hyper)["momentum_buffer"]
    if hyper["nesterov"]:
        moved = gradient.lerp(moved, hyper["momentum"])
    rows, columns = gradient.shape
    if hyper.get("adjust_lr_fn") in (None, "original"):
        ratio = math.sqrt(max(1, rows / columns))
    else:
        ratio = 0.2 * math.sqrt(max(rows, columns))
    return (
        orthogonal(moved, hyper["ns_coefficients"], hyper["ns_steps"], hyper["eps"]).to(gradient.dtype)
        * ratio
    )


def apply(parameter: Tensor, update: Tensor, state: State, hyper: Hyper) -> Tensor:
    """Return `(1 - lr wd) theta - lr u`."""
    lr = float(hyper["lr"])
    return parameter.detach().mul(1 - lr * hyper["weight_decay"]).add_(update, alpha=-lr)


def coupled(hyper: Hyper) -> bool:
    """Return False: its decay is decoupled."""
    return False


def orthogonal(matrix: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """Return bfloat16 of the matrix's shape, near its orthogonal polar factor: singular values about .7 to 1.2."""
    a, b, c = coefficients
    tall = matrix.size(0) > matrix.size(1)
    x = (matrix.T if tall else matrix).to(torch.bfloat16, copy=True)
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        products = x @ x.T
        x = torch.addmm(x, torch.addmm(products, products, products, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x
