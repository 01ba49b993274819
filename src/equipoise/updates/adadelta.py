"""Adadelta: steps in the parameter's own units.

    v' = rho v + (1 - rho) g^2,  u = g sqrt(d + eps) / sqrt(v' + eps),  d' = rho d + (1 - rho) u^2

d' moves with the update of the weighted gradient, as torch's would, not with the joint update.

Source: Zeiler, ADADELTA, arXiv 1212.5701; torch.optim.adadelta._single_tensor_adadelta, whose order of operations we keep.
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
    """Return slots step, square_avg (v) and acc_delta (d), all 0."""
    return {
        "step": counter.begin(parameter, on_device=bool(hyper.get("capturable"))),
        **{name: torch.zeros_like(parameter.detach()) for name in ("square_avg", "acc_delta")},
    }


def advance(gradient: Tensor, state: State, hyper: Hyper, parameter: Tensor | None = None) -> dict[str, Any]:
    """Return the slots after a step with this gradient."""
    return _step(gradient, state, hyper)[0]


def peek(gradient: Tensor, state: State, hyper: Hyper, parameter: Tensor | None = None) -> Tensor:
    """Return the update of this gradient alone."""
    return _step(gradient, state, hyper)[1]


def apply(parameter: Tensor, update: Tensor, state: State, hyper: Hyper) -> Tensor:
    """Return `theta - lr u`. Reads a tensor lr (synchronises)."""
    return parameter.detach().add(update, alpha=-float(hyper["lr"]))


def coupled(hyper: Hyper) -> bool:
    """Return True: its decay is L2."""
    return True


def _step(gradient: Tensor, state: State, hyper: Hyper) -> tuple[dict[str, Any], Tensor]:
    """Return (slots after the step, update): the second slot is made of the update."""
    state, rho, eps = state or init(gradient, hyper), hyper["rho"], hyper["eps"]
    square = state["square_avg"].mul(rho).addcmul_(gradient, gradient, value=1 - rho)
    update: Tensor = state["acc_delta"].add(eps).sqrt_().div_(square.add(eps).sqrt_()).mul_(gradient)
    after = {
        **state,
        "step": state["step"] + 1,
        "square_avg": square,
        "acc_delta": state["acc_delta"].mul(rho).addcmul_(update, update, value=1 - rho),
    }
    return after, update
