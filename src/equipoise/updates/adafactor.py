"""Adafactor: Adam's second moment from its row and column means, a step in the parameter's own size.

    R' = R + b (mean_columns g^2 - R),  C' = C + b (mean_rows g^2 - C),  b = k^beta2_decay
    V  = R'C' / max(mean_rows R', eps1)              (a vector keeps V itself)
    u  = max(eps2, rms(theta)) g / sqrt(V) / max(1, rms(g / sqrt(V)) / d)
    theta' = (1 - lr wd) theta - min(lr, 1/sqrt(k)) u   at step k

The rule sees a matrix as a whole. u reads theta, so it has the unit of theta.

Source: Shazeer, Stern, ICML 2018; torch.optim._adafactor._single_tensor_adafactor, whose order of operations we keep.
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
    """Return slots step and row_var [..., r, 1], col_var [..., 1, c], or variance [n] of a vector, all 0."""
    theta = parameter.detach()
    state: dict[str, Any] = {"step": counter.begin(theta, on_device=False)}
    if theta.dim() > 1:
        shape = theta.shape
        state["row_var"] = theta.new_zeros((*shape[:-1], 1))
        state["col_var"] = theta.new_zeros((*shape[:-2], 1, shape[-1]))
    else:
        state["variance"] = torch.zeros_like(theta)
    return state


def advance(gradient: Tensor, state: State, hyper: Hyper, parameter: Tensor | None = None) -> dict[str, Any]:
    """Return the slots after a step with this gradient."""
    state = state or init(gradient, hyper)
    step = state["step"] + 1
    fresh = step.item() ** hyper["beta2_decay"]
    after = {**state, "step": step}
    if gradient.dim() > 1:
        rows = torch.norm(gradient, dim=-1, keepdim=True).square_().div_(gradient.size(-1))
        columns = torch.norm(gradient, dim=-2, keepdim=True).square_().div_(gradient.size(-2))
        after["row_var"] = state["row_var"].lerp(rows, fresh)
        after["col_var"] = state["col_var"].lerp(columns, fresh)
    else:
        after["variance"] = state["variance"].lerp(gradient * gradient, fresh)
    return after


def peek(gradient: Tensor, state: State, hyper: Hyper, parameter: Tensor | None = None) -> Tensor:
    """Return the update of this gradient alone at theta = `parameter`. Synchronises twice.

    Raises:
        ValueError: no parameter.
    """
    if parameter is None:
        raise ValueError("parameter must be given to Adafactor's rule, got None; pass theta before the step")
    eps1, eps2 = hyper["eps"]
    eps1 = torch.finfo(parameter.dtype).eps if eps1 is None else eps1
    after = advance(gradient, state, hyper)
    if gradient.dim() > 1:
        rows = after["row_var"]
        second = (rows @ after["col_var"]).div_(rows.mean(dim=-2, keepdim=True).clamp_(min=eps1))
    else:
        second = after["variance"]
    update: Tensor = second.clamp(min=eps1 * eps1).rsqrt_().mul_(gradient)
    size = max(eps2, _rms(parameter.detach()))
    return update.mul_(size / max(1.0, _rms(update) / hyper["d"]))  # in place on our own new tensor


def apply(parameter: Tensor, update: Tensor, state: State, hyper: Hyper) -> Tensor:
    """Return `(1 - lr wd) theta - min(lr, 1/sqrt(k)) u` for step k."""
    theta, lr = parameter.detach(), float(hyper["lr"])
    step = counter.read(state) + 1 if state else 1.0
    if hyper["weight_decay"] != 0:
        theta = theta.mul(1 - lr * hyper["weight_decay"])
    return theta.add(update, alpha=-min(lr, 1 / float(step) ** 0.5))


def coupled(hyper: Hyper) -> bool:
    """Return False: its decay is decoupled."""
    return False


def _rms(value: Tensor) -> float:
    """Return |value| / sqrt(n). Synchronises."""
    return float(value.norm(2)) / float(value.numel() ** 0.5)
