"""`compile=True`: both passes over a piece of a parameter as compiled functions, for the rules that have a form here.

The first makes the tasks' updates and their products and keeps nothing; the second makes the updates again, mixes them, and writes
parameter and slots. Each entry is then read twice and written once, and what lies between stays in registers and cache. Pieces have
one size, so that each function is compiled once; what is left over goes the eager way.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from equipoise.updates import Rule, adagrad, adam, adamw, counter, sgd
from equipoise.updates.rows import BLOCK, View

WIDTH = 4096
"""Entries whose products are summed in float32; sums of these are added in float64."""


class Form(NamedTuple):
    """One rule as formulas over entries: `c` are its scalars [k], `slots` its slots in the order of `names`."""

    names: tuple[str, ...]
    scalars: Callable[[Mapping[str, Any], Mapping[str, Any]], list[float]]
    advance: Callable[[Tensor, Sequence[Tensor], Tensor], list[Tensor]]
    peek: Callable[[Tensor, Sequence[Tensor], Tensor], Tensor]


def _adam_scalars(state: Mapping[str, Any], hyper: Mapping[str, Any]) -> list[float]:
    (b1, b2), step = (float(b) for b in hyper["betas"]), float(counter.read(state)) + 1
    return [float(hyper["lr"]), 1 - b1, b2, 1 - b2, 1 - b1**step, (1 - b2**step) ** 0.5, hyper["eps"]]


def _adam_advance(g: Tensor, slots: Sequence[Tensor], c: Tensor) -> list[Tensor]:
    m, v = slots
    return [m + (g - m) * c[1], v * c[2] + g * g * c[3]]


def _adam_peek(g: Tensor, slots: Sequence[Tensor], c: Tensor) -> Tensor:
    m, v = _adam_advance(g, slots, c)
    return (m / c[4]) / (v.sqrt() / c[5] + c[6])


def _adagrad_scalars(state: Mapping[str, Any], hyper: Mapping[str, Any]) -> list[float]:
    return [
        float(hyper["lr"]) / (1 + float(counter.read(state)) * hyper["lr_decay"]),
        hyper["eps"],
    ]


def _adagrad_advance(g: Tensor, slots: Sequence[Tensor], c: Tensor) -> list[Tensor]:
    return [slots[0] + g * g]


def _adagrad_peek(g: Tensor, slots: Sequence[Tensor], c: Tensor) -> Tensor:
    return g / (_adagrad_advance(g, slots, c)[0].sqrt() + c[1])


def _sgd_scalars(state: Mapping[str, Any], hyper: Mapping[str, Any]) -> list[float]:
    return [float(hyper["lr"]), hyper["momentum"], 1 - hyper["dampening"]]


def _sgd_advance(g: Tensor, slots: Sequence[Tensor], c: Tensor) -> list[Tensor]:
    return [slots[0] * c[1] + g * c[2]] if slots else []


def _sgd_peek(g: Tensor, slots: Sequence[Tensor], c: Tensor) -> Tensor:
    return _sgd_advance(g, slots, c)[0] if slots else g


def _nesterov_peek(g: Tensor, slots: Sequence[Tensor], c: Tensor) -> Tensor:
    return g + _sgd_advance(g, slots, c)[0] * c[1]


def form_of(rule: Rule, state: Mapping[str, Any], hyper: Mapping[str, Any]) -> Form | None:
    """Return the compiled form of a rule with these options and slots, None where it has none."""
    if rule in (adam, adamw) and not hyper["amsgrad"] and state:
        return Form(("exp_avg", "exp_avg_sq"), _adam_scalars, _adam_advance, _adam_peek)
    if rule is adagrad and state:
        return Form(("sum",), _adagrad_scalars, _adagrad_advance, _adagrad_peek)
    if rule is sgd and hyper["momentum"] == 0:
        return Form((), _sgd_scalars, _sgd_advance, _sgd_peek)
    if rule is sgd and state.get("momentum_buffer") is not None:
        peek = _nesterov_peek if hyper["nesterov"] else _sgd_peek
        return Form(("momentum_buffer",), _sgd_scalars, _sgd_advance, peek)
    return None


def has_form(rule: Rule) -> bool:
    """Whether a rule has a compiled form for some of its options."""
    return rule in (adam, adamw, adagrad, sgd)


def check_compiler() -> None:
    """Raise a ValueError where no C++ compiler is found."""
    if not any(shutil.which(name) for name in ("c++", "g++", "clang++", "cl")):
        raise ValueError(
            "compile=True needs a C++ compiler, none was found on this machine; install one, or leave compile=False"
        )


class Fast:
    """The compiled passes over one view. `shares`: of the coupled decay in a task's peek, and in the weighted gradient's."""

    def __init__(self, view: View, form: Form, share: float) -> None:
        group, state = view.shared.group, view.states[0]
        decay = float(group.get("weight_decay", 0) or 0)
        coupled = view.shared.rule.coupled(group)
        self.decays = coupled and decay != 0
        sign = -1.0 if group.get("maximize") else 1.0
        lr = float(group["lr"])
        keeps = 1.0 if coupled else 1 - lr * decay
        self.view, self.form, self.slots = view, form, [state[name] for name in form.names]
        self.c = torch.tensor(form.scalars(state, group))
        self.shares = torch.tensor([sign, decay * share, decay, keeps])

    def takes(self, piece: slice) -> bool:
        """Whether a piece has the size that is compiled."""
        return int(piece.stop) <= len(self.view.theta)

    def _inputs(self, piece: slice) -> tuple[list[Tensor], Tensor, list[Tensor]]:
        cut = [v[piece].view(-1, WIDTH) for v in (*self.view.gradients, self.view.theta, *self.slots)]
        num = len(self.view.gradients)
        return cut[:num], cut[num], cut[num + 1 :]

    def products(self, piece: slice) -> tuple[Tensor, Tensor]:
        """Return [T (T+1) / 2] float64 products of gradients and of updates, lower triangle row by row."""
        gradients, theta, slots = self._inputs(piece)
        found: tuple[Tensor, Tensor] = _compiled(_first)(
            gradients, theta, slots, self.c, self.shares, self.form.peek, self.decays
        )
        return found

    def write(self, piece: slice, weights: Tensor) -> None:
        """Move parameter and slots by the joint update of a piece. In place."""
        gradients, theta, slots = self._inputs(piece)
        form = self.form
        _compiled(_second)(
            gradients, theta, slots, self.c, self.shares, weights, form.peek, form.advance, self.decays
        )


def fast(view: View, share: float) -> Fast | None:
    """Return the compiled passes over a view, None where it has to go the eager way."""
    if not view.cut or len(view.states) != 1 or view.theta.dtype != torch.float32:
        return None
    if view.theta.device.type != "cpu" or len(view.theta) < BLOCK:
        return None
    form = form_of(view.shared.rule, view.states[0], view.shared.group)
    return None if form is None else Fast(view, form, share)


def matrix(products: Tensor, num: int) -> Tensor:
    """Return [T, T] of a lower triangle row by row."""
    found = products.new_zeros(num, num)
    rows, columns = torch.tril_indices(num, num)
    found[rows, columns] = products
    found[columns, rows] = products
    return found


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, fullgraph=True, dynamic=False)


def _seen(g: Tensor, theta: Tensor, sign: Tensor, decay: Tensor, decays: bool) -> Tensor:
    return g * sign + theta * decay if decays else g * sign


def _first(
    gradients: list[Tensor],
    theta: Tensor,
    slots: list[Tensor],
    c: Tensor,
    shares: Tensor,
    peek: Callable[..., Tensor],
    decays: bool,
) -> tuple[Tensor, Tensor]:
    updates = [peek(_seen(g, theta, shares[0], shares[1], decays), slots, c) for g in gradients]
    found = []
    for rows in (gradients, updates):
        pairs = [(a * b).sum(-1).double().sum() for i, a in enumerate(rows) for b in rows[: i + 1]]
        found.append(torch.stack(pairs))
    return found[0], found[1]


def _second(
    gradients: list[Tensor],
    theta: Tensor,
    slots: list[Tensor],
    c: Tensor,
    shares: Tensor,
    weights: Tensor,
    peek: Callable[..., Tensor],
    advance: Callable[..., list[Tensor]],
    decays: bool,
) -> None:
    update = torch.zeros_like(theta)
    mixed = torch.zeros_like(theta)
    for t, g in enumerate(gradients):
        update = update + peek(_seen(g, theta, shares[0], shares[1], decays), slots, c) * weights[t]
        mixed = mixed + g * weights[t]
    after = advance(_seen(mixed, theta, shares[0], shares[2], decays), slots, c)
    theta.copy_(theta * shares[3] - update * c[0])
    for slot, value in zip(slots, after, strict=True):
        slot.copy_(value)
