"""RAdam, with coupled or decoupled decay.

    m' = m + (1 - beta1) (g - m),  v' = beta2 v + (1 - beta2) g^2
    rho = 2 / (1 - beta2) - 1,  rho_k = rho - 2 k beta2^k / (1 - beta2^k)
    u  = m' / (1 - beta1^k) * r_k sqrt(1 - beta2^k) / (sqrt(v') + eps)   where rho_k > 5
    u  = m' / (1 - beta1^k)                                              else

for step k, r_k^2 = (rho_k - 4)(rho_k - 2) rho / ((rho - 4)(rho - 2) rho_k).

Source: Liu et al., On the Variance of the Adaptive Learning Rate and Beyond, ICLR 2020;
torch.optim.radam._single_tensor_radam, whose order of operations we keep.
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
    """Return slots step, exp_avg (m) and exp_avg_sq (v), all 0."""
    return {
        "step": counter.begin(parameter, on_device=bool(hyper.get("capturable"))),
        **{name: torch.zeros_like(parameter.detach()) for name in ("exp_avg", "exp_avg_sq")},
    }


def advance(gradient: Tensor, state: State, hyper: Hyper, parameter: Tensor | None = None) -> dict[str, Any]:
    """Return the slots after a step with this gradient."""
    state = state or init(gradient, hyper)
    beta1, beta2 = hyper["betas"]
    return {
        **state,
        "step": state["step"] + 1,
        "exp_avg": state["exp_avg"].lerp(gradient, 1 - beta1),
        "exp_avg_sq": state["exp_avg_sq"].mul(beta2).addcmul_(gradient, gradient, value=1 - beta2),
    }


def peek(gradient: Tensor, state: State, hyper: Hyper, parameter: Tensor | None = None) -> Tensor:
    """Return the update of this gradient alone. Reads the step (synchronises under capturable)."""
    after = advance(gradient, state, hyper)
    (beta1, beta2), step = (float(beta) for beta in hyper["betas"]), float(counter.read(after))
    update: Tensor = after["exp_avg"] / (1 - beta1**step)
    rho, correction = 2 / (1 - beta2) - 1, 1 - beta2**step
    now = rho - 2 * step * beta2**step / correction
    if now > 5.0:
        rectified = ((now - 4) * (now - 2) * rho / ((rho - 4) * (rho - 2) * now)) ** 0.5
        update = update * (correction**0.5 / after["exp_avg_sq"].sqrt().add_(hyper["eps"])) * rectified
    return update


def apply(parameter: Tensor, update: Tensor, state: State, hyper: Hyper) -> Tensor:
    """Return `theta (1 - lr wd) - lr u` under decoupled decay, else `theta - lr u`. Reads a tensor lr."""
    theta, lr = parameter.detach(), float(hyper["lr"])
    if not coupled(hyper) and hyper["weight_decay"] != 0:
        theta = theta.mul(1 - lr * hyper["weight_decay"])
    return theta.add(update, alpha=-lr)


def coupled(hyper: Hyper) -> bool:
    """Return False under `decoupled_weight_decay`."""
    return not hyper.get("decoupled_weight_decay", False)
