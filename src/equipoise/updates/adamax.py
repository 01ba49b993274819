"""Adamax: Adam with the infinity norm.

    m' = m + (1 - beta1) (g - m),  n' = max(beta2 n, |g| + eps)
    u  = m' / ((1 - beta1^k) n')

for step k.

Source: Kingma and Ba, ICLR 2015, section 7.1; torch.optim.adamax._single_tensor_adamax, whose order of operations we keep.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from equipoise.updates import counter

State = Mapping[str, Any]
Hyper = Mapping[str, Any]


def init(parameter: Tensor, hyper: Hyper) -> dict[str, Any]:
    """Return slots step, exp_avg (m) and exp_inf (n), all 0."""
    return {
        "step": counter.begin(parameter, on_device=bool(hyper.get("capturable"))),
        **{name: torch.zeros_like(parameter.detach()) for name in ("exp_avg", "exp_inf")},
    }


def advance(gradient: Tensor, state: State, hyper: Hyper, parameter: Tensor | None = None) -> dict[str, Any]:
    """Return the slots after a step with this gradient."""
    state = state or init(gradient, hyper)
    beta1, beta2 = hyper["betas"]
    return {
        **state,
        "step": state["step"] + 1,
        "exp_avg": state["exp_avg"].lerp(gradient, 1 - beta1),
        "exp_inf": torch.maximum(state["exp_inf"].mul(beta2), gradient.abs().add_(hyper["eps"])),
    }


def peek(gradient: Tensor, state: State, hyper: Hyper, parameter: Tensor | None = None) -> Tensor:
    """Return the update of this gradient alone."""
    after = advance(gradient, state, hyper)
    update: Tensor = after["exp_avg"] / after["exp_inf"] / (1 - hyper["betas"][0] ** counter.read(after))
    return update


def apply(parameter: Tensor, update: Tensor, state: State, hyper: Hyper) -> Tensor:
    """Return `theta - lr u`. Reads a tensor lr (synchronises)."""
    return parameter.detach().add(update, alpha=-float(hyper["lr"]))


def coupled(hyper: Hyper) -> bool:
    """Return True: its decay is L2."""
    return True
