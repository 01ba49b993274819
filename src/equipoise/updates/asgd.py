"""Averaged stochastic gradient descent: plain steps of a falling size, and the mean of the parameters they reach.

    theta' = (1 - lambd eta) theta - eta g,   ax' = ax + mu (theta' - ax)
    eta'   = lr / (1 + lambd lr k)^alpha,     mu' = 1 / max(1, k - t0)

The update is g itself; lambd is treated as decoupled decay, once a step. The average `ax` moves with the step that torch would
make of the weighted gradient: the same as the joint one to rounding, unless Clippy or `max_norm` changes that.

Source: Polyak, Juditsky, SIAM J. Control Optim. 1992; torch.optim.asgd._single_tensor_asgd, whose order of operations we keep.
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
    """Return slots step 0, eta (the learning rate), mu 1 and ax 0."""
    step = counter.begin(parameter, on_device=True)
    return {
        "step": step,
        "eta": torch.full_like(step, float(hyper["lr"])),
        "mu": torch.ones_like(step),
        "ax": torch.zeros_like(parameter.detach()),
    }


def advance(gradient: Tensor, state: State, hyper: Hyper, parameter: Tensor | None = None) -> dict[str, Any]:
    """Return the slots after a step with this gradient from theta = `parameter`.

    Raises:
        ValueError: no parameter.
    """
    if parameter is None:
        raise ValueError("parameter must be given to ASGD's rule, got None; pass theta before the step")
    state = state or init(parameter, hyper)
    theta, ax, mu = apply(parameter, gradient, state, hyper), state["ax"], state["mu"]
    capturable = bool(hyper.get("capturable"))
    step = state["step"] + 1
    lr, lambd = float(hyper["lr"]), hyper["lambd"]
    count = step if capturable else step.item()  # synchronises on a device, as torch does
    eta = lr / ((1 + lambd * lr * count) ** hyper["alpha"])
    share = 1 / torch.clamp(step - hyper["t0"], min=1) if capturable else 1 / max(1, count - hyper["t0"])
    return {
        **state,
        "step": step,
        "eta": torch.as_tensor(eta).to(state["eta"], copy=True),
        "mu": torch.as_tensor(share).to(mu, copy=True),
        "ax": ax + theta.sub(ax).mul_(mu) if capturable or mu.item() != 1 else theta,
    }


def peek(gradient: Tensor, state: State, hyper: Hyper, parameter: Tensor | None = None) -> Tensor:
    """Return the gradient: the rule is linear in it."""
    return gradient


def apply(parameter: Tensor, update: Tensor, state: State, hyper: Hyper) -> Tensor:
    """Return `(1 - lambd eta) theta - eta u`. Reads eta (synchronises)."""
    eta = float((state or init(parameter, hyper))["eta"])
    return parameter.detach().mul(1 - hyper["lambd"] * eta).add_(update, alpha=-eta)


def coupled(hyper: Hyper) -> bool:
    """Return True: `weight_decay` is L2 (lambd is not)."""
    return True
