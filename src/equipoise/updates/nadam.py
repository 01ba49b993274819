"""NAdam, with coupled or decoupled decay.

    mu_k = beta1 (1 - .96^(k psi) / 2),  P_k = P_{k-1} mu_k
    m' = m + (1 - beta1) (g - m),  v' = beta2 v + (1 - beta2) g^2
    u  = (g (1 - mu_k) / (1 - P_k) + m' mu_{k+1} / (1 - P_k mu_{k+1})) / (sqrt(v' / (1 - beta2^k)) + eps)

for step k, psi the momentum decay.

Source: Dozat, Incorporating Nesterov Momentum into Adam, ICLR workshop 2016; torch.optim.nadam._single_tensor_nadam,
whose order of operations we keep.
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
    """Return slots step 0, mu_product (P) 1, exp_avg (m) and exp_avg_sq (v) 0."""
    step = counter.begin(parameter, on_device=bool(hyper.get("capturable")))
    return {
        "step": step,
        "mu_product": torch.ones_like(step),
        **{name: torch.zeros_like(parameter.detach()) for name in ("exp_avg", "exp_avg_sq")},
    }


def advance(gradient: Tensor, state: State, hyper: Hyper, parameter: Tensor | None = None) -> dict[str, Any]:
    """Return the slots after a step with this gradient."""
    state = state or init(gradient, hyper)
    beta1, beta2 = hyper["betas"]
    after = {**state, "step": state["step"] + 1}
    after["mu_product"] = state["mu_product"] * _mu(counter.read(after), hyper)
    after["exp_avg"] = state["exp_avg"].lerp(gradient, 1 - beta1)
    after["exp_avg_sq"] = state["exp_avg_sq"].mul(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    return after


def peek(gradient: Tensor, state: State, hyper: Hyper, parameter: Tensor | None = None) -> Tensor:
    """Return the update of this gradient alone. Reads the product of mu (synchronises under capturable)."""
    after = advance(gradient, state, hyper)
    step, product = counter.read(after), float(after["mu_product"])
    length = after["exp_avg_sq"].div(1 - hyper["betas"][1] ** step).sqrt().add_(hyper["eps"])
    mu, following = _mu(step, hyper), _mu(step + 1, hyper)
    update: Tensor = gradient / length * ((1.0 - mu) / (1.0 - product))
    return update.addcdiv_(after["exp_avg"], length, value=float(following / (1.0 - product * following)))


def apply(parameter: Tensor, update: Tensor, state: State, hyper: Hyper) -> Tensor:
    """Return `theta (1 - lr wd) - lr u` under decoupled decay, else `theta - lr u`. Reads a tensor lr."""
    theta, lr = parameter.detach(), float(hyper["lr"])
    if not coupled(hyper) and hyper["weight_decay"] != 0:
        theta = theta.mul(1 - lr * hyper["weight_decay"])
    return theta.add(update, alpha=-lr)


def coupled(hyper: Hyper) -> bool:
    """Return False under `decoupled_weight_decay`."""
    return not hyper.get("decoupled_weight_decay", False)


def _mu(step: Any, hyper: Hyper) -> Any:
    """Return mu of a step."""
    return hyper["betas"][0] * (1.0 - 0.5 * (0.96 ** (step * hyper["momentum_decay"])))
