"""SparseAdam: Adam on the rows of a table that a step touches; the others keep value and moments.

    m' = m + (1 - beta1) (g - m),  v' = v + (1 - beta2) (g^2 - v)
    u  = sqrt(1 - beta2^k) / (1 - beta1^k) m' / (sqrt(v') + eps)

for step k of the table, not of the row: a row first touched at step 1000 moves further than one at step 1. That is another
algorithm than dense Adam, and eps is not corrected for the step. The functions see the touched rows.

Source: torch.optim._functional.sparse_adam, whose order of operations we keep.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

State = Mapping[str, Any]
Hyper = Mapping[str, Any]


def init(parameter: Tensor, hyper: Hyper) -> dict[str, Any]:
    """Return slots step (an int), exp_avg (m) and exp_avg_sq (v), all 0."""
    theta = parameter.detach()
    return {"step": 0, "exp_avg": torch.zeros_like(theta), "exp_avg_sq": torch.zeros_like(theta)}


def advance(gradient: Tensor, state: State, hyper: Hyper, parameter: Tensor | None = None) -> dict[str, Any]:
    """Return the slots after a step with this gradient."""
    state = state or init(gradient, hyper)
    beta1, beta2 = hyper["betas"]
    m, v = state["exp_avg"], state["exp_avg_sq"]
    return {
        **state,
        "step": state["step"] + 1,
        "exp_avg": m + gradient.sub(m).mul_(1 - beta1),
        "exp_avg_sq": v + gradient.pow(2).sub_(v).mul_(1 - beta2),
    }


def peek(gradient: Tensor, state: State, hyper: Hyper, parameter: Tensor | None = None) -> Tensor:
    """Return the update of this gradient alone."""
    after = advance(gradient, state, hyper)
    (beta1, beta2), step = hyper["betas"], after["step"]
    length = after["exp_avg_sq"].sqrt_().add_(hyper["eps"])  # in place on our own new tensor
    update: Tensor = after["exp_avg"].div_(length)
    return update.mul_((1 - beta2**step) ** 0.5 / (1 - beta1**step))


def apply(parameter: Tensor, update: Tensor, state: State, hyper: Hyper) -> Tensor:
    """Return `theta - lr u`. Reads a tensor lr (synchronises)."""
    return parameter.detach().add(update, alpha=-float(hyper["lr"]))


def coupled(hyper: Hyper) -> bool:
    """Return True: it has no decay."""
    return True
