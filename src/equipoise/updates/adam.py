"""Adam, with amsgrad and with coupled or decoupled decay.

    m' = m + (1 - beta1) (g - m),  v' = beta2 v + (1 - beta2) g^2
    u  = (m' / (1 - beta1^k)) / (sqrt(v') / sqrt(1 - beta2^k) + eps)

for step k; amsgrad puts the largest v' so far in place of v'. A zero gradient still has an update, that of
its momentum.

Source: Kingma and Ba, ICLR 2015, and torch.optim.adam._single_tensor_adam, whose order of operations we keep.
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
    """Return slots step, exp_avg (m), exp_avg_sq (v) and, for amsgrad, max_exp_avg_sq, all 0."""
    fused, capturable = bool(hyper.get("fused")), bool(hyper.get("capturable"))
    names = ["exp_avg", "exp_avg_sq"] + ["max_exp_avg_sq"] * bool(hyper["amsgrad"])
    return {
        "step": counter.begin(parameter, on_device=fused or capturable, fused=fused),
        **{name: torch.zeros_like(parameter.detach()) for name in names},
    }


def advance(gradient: Tensor, state: State, hyper: Hyper, parameter: Tensor | None = None) -> dict[str, Any]:
    """Return the slots after a step with this gradient."""
    state = state or init(gradient, hyper)
    beta1, beta2 = hyper["betas"]
    if isinstance(beta1, Tensor):
        beta1 = beta1.to(gradient)  # as torch does, and as it does not for beta2
    after = {
        **state,
        "step": state["step"] + 1,
        "exp_avg": state["exp_avg"].lerp(gradient, 1 - beta1),
        "exp_avg_sq": state["exp_avg_sq"].mul(beta2).addcmul_(gradient, gradient, value=1 - beta2),
    }
    if hyper["amsgrad"]:
        after["max_exp_avg_sq"] = torch.maximum(state["max_exp_avg_sq"], after["exp_avg_sq"])
    return after


def peek(gradient: Tensor, state: State, hyper: Hyper, parameter: Tensor | None = None) -> Tensor:
    """Return the update of this gradient alone."""
    after = advance(gradient, state, hyper)
    (beta1, beta2), step = hyper["betas"], counter.read(after)
    second = after["max_exp_avg_sq"] if hyper["amsgrad"] else after["exp_avg_sq"]
    length = (
        second.sqrt_().div_((1 - beta2**step) ** 0.5).add_(hyper["eps"])
    )  # in place on our own new tensors
    update: Tensor = after["exp_avg"].div_(1 - beta1**step).div_(length)
    return update


def apply(parameter: Tensor, update: Tensor, state: State, hyper: Hyper) -> Tensor:
    """Return `theta (1 - lr wd) - lr u` under decoupled decay, else `theta - lr u`. Reads a tensor lr."""
    theta, lr = parameter.detach(), float(hyper["lr"])
    if not coupled(hyper) and hyper["weight_decay"] != 0:
        theta = theta.mul(1 - lr * hyper["weight_decay"])
    return theta.add(update, alpha=-lr)


def coupled(hyper: Hyper) -> bool:
    """Return False under `decoupled_weight_decay`; torch before 2.7 has no such key in Adam."""
    return not hyper.get("decoupled_weight_decay", False)
