"""Update rules: (gradient, state, hyper-parameters) -> update and new state, on the user's optimizer state.

One rule a file, four pure functions each; `rule_for` finds the file of a torch optimizer. The words are those
of torch: `state` is `optimizer.state[p]`, `hyper` the parameter's `param_group`. A rule returns new tensors
and never writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from equipoise.updates import (
    adadelta,
    adafactor,
    adagrad,
    adam,
    adamax,
    adamw,
    asgd,
    generic,
    muon,
    nadam,
    radam,
    rmsprop,
    rowwise_adagrad,
    sgd,
    sparse_adam,
)

State = Mapping[str, Any]
Hyper = Mapping[str, Any]

__all__ = ["ELEMENTWISE", "RULES", "SPARSE", "Hyper", "Rule", "State", "prepare", "rule_for"]


class Rule(Protocol):
    """What one optimizer does to one parameter theta of any shape. A module with these functions is a rule.

    `gradient` is what `prepare` returns. `state` may be {}: not begun. `parameter` is theta before the step;
    only rules whose step reads theta (Adafactor, ASGD, the generic one) need it, the others ignore it.
    """

    def init(self, parameter: Tensor, hyper: Hyper) -> dict[str, Any]:
        """Return the slots that torch makes before the first step."""
        ...

    def peek(self, gradient: Tensor, state: State, hyper: Hyper, parameter: Tensor | None = None) -> Tensor:
        """Return the update u of this gradient alone: `theta - lr * u` is torch's step without decay."""
        ...

    def advance(
        self, gradient: Tensor, state: State, hyper: Hyper, parameter: Tensor | None = None
    ) -> dict[str, Any]:
        """Return the slots after the step, bit for bit those of torch's single-tensor form."""
        ...

    def apply(self, parameter: Tensor, update: Tensor, state: State, hyper: Hyper) -> Tensor:
        """Return theta after decoupled decay and `- lr * u`. `state` is from before the step."""
        ...

    def coupled(self, hyper: Hyper) -> bool:
        """Return whether weight decay is added to the gradient (L2) and so moves the state."""
        ...


RULES: dict[type[torch.optim.Optimizer], Rule] = {
    torch.optim.SGD: sgd,
    torch.optim.Adam: adam,
    torch.optim.AdamW: adamw,
    torch.optim.Adagrad: adagrad,
    torch.optim.RMSprop: rmsprop,
    torch.optim.NAdam: nadam,
    torch.optim.RAdam: radam,
    torch.optim.Adamax: adamax,
    torch.optim.Adadelta: adadelta,
    torch.optim.ASGD: asgd,
    torch.optim.Adafactor: adafactor,
    torch.optim.SparseAdam: sparse_adam,
    rowwise_adagrad.RowWiseAdagrad: rowwise_adagrad,
}
if hasattr(torch.optim, "Muon"):  # torch 2.9
    RULES[torch.optim.Muon] = muon

ELEMENTWISE: frozenset[Rule] = frozenset(
    {sgd, adam, adamw, adagrad, rmsprop, nadam, radam, adamax, adadelta, asgd, sparse_adam}
)
"""Rules that work entry by entry, so that a tensor may be cut in pieces; the others see each tensor as a whole."""

SPARSE: frozenset[Rule] = frozenset({sgd, adagrad, sparse_adam, rowwise_adagrad})
"""Rules that move only the rows of a row-sparse table that a step touches."""


def rule_for(optimizer: torch.optim.Optimizer) -> Rule:
    """Return the rule of the optimizer's exact class, else the generic one (a subclass may do anything).

    Raises:
        ValueError: LBFGS, whose step is a search along many evaluations of one loss.
    """
    if isinstance(optimizer, torch.optim.LBFGS):
        raise ValueError(
            "optimizer must make its step from one gradient, got LBFGS, a search along one loss; try Adam"
        )
    return RULES.get(type(optimizer)) or generic.Generic(optimizer)


def prepare(gradient: Tensor, parameter: Tensor, hyper: Hyper, share: float, rule: Rule) -> Tensor:
    """Return the gradient that the rule sees: `g + share * wd * theta`, with `-g` under maximize.

    The decay is added only where it is coupled. Order of operations as in torch, so share 1 gives torch's own
    bits.

    Args:
        gradient: dense, of theta's shape, or [T, ...] of T tasks.
        parameter: theta.
        share: part of the coupled decay, 1 for the weighted gradient, 1/S for one task's peek (S the weight
            sum).

    Raises:
        ValueError: a sparse or complex gradient.
    """
    if gradient.layout != torch.strided or gradient.is_complex():
        kind = "complex" if gradient.is_complex() else "sparse"
        raise ValueError(
            f"gradient must be dense and real where updates are mixed, got a {kind} one; "
            "mix gradients instead (level='gradients')"
        )
    seen = gradient.neg() if hyper.get("maximize") else gradient
    decay = hyper.get("weight_decay", 0)
    if decay != 0 and rule.coupled(hyper):
        seen = seen.add(parameter.detach(), alpha=float(decay) * share)
    return seen
