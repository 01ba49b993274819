"""Row-wise Adagrad: one accumulator a row of an embedding table, so that its state is 1/d of Adagrad's.

    s' = s + mean_over_the_row g^2,  u = g / (sqrt(s') + eps),  theta' = theta - lr u

Source: Mudigere et al., Software-Hardware Co-design for Fast and Scalable Training of Deep Learning Recommendation Models, ISCA 2022
(the "exact row-wise Adagrad" of FBGEMM).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

State = Mapping[str, Any]
Hyper = Mapping[str, Any]


class RowWiseAdagrad(torch.optim.Optimizer):
    """Adagrad with one accumulator a row, for embedding tables with dense or sparse gradients.

    Args:
        params: parameters, or groups of them; the first dimension is that of the rows.
        lr: learning rate, >= 0.
        eps: added to the root, >= 0.
        initial_accumulator_value: of every row's accumulator, >= 0.

    Raises:
        ValueError: a constant below 0; at a step a 0-dim parameter.

    Example:
        >>> table = torch.nn.Parameter(torch.ones(3, 2))
        >>> optimizer = RowWiseAdagrad([table], lr=1.0, eps=0.0)
        >>> (table[1] * torch.tensor([1.0, 7.0])).sum().backward()   # s = (1 + 49) / 2 = 25, u = g / 5
        >>> optimizer.step()
        >>> [[round(x, 4) for x in row] for row in table.tolist()]
        [[1.0, 1.0], [0.8, -0.4], [1.0, 1.0]]
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        eps: float = 1e-10,
        initial_accumulator_value: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "eps": eps, "initial_accumulator_value": initial_accumulator_value}
        for name, value in defaults.items():
            if not value >= 0.0:
                raise ValueError(f"{name} must be >= 0, got {value!r}")
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Make a step from every `p.grad`; rows without a gradient stay."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state.update(init(p, group))
                if p.grad.is_sparse:
                    gradient = p.grad.coalesce()  # a row's square is that of its whole gradient
                    rows, values = gradient.indices()[0], gradient.values()
                else:
                    rows, values = slice(None), p.grad
                here = {"sum": state["sum"][rows]}
                p[rows] = apply(p[rows], peek(values, here, group), here, group)
                state["sum"][rows] = advance(values, here, group)["sum"]
        return loss


def init(parameter: Tensor, hyper: Hyper) -> dict[str, Any]:
    """Return slot sum (s), [rows], at initial_accumulator_value."""
    if parameter.dim() == 0:
        raise ValueError("RowWiseAdagrad needs parameters with rows, got a 0-dim one; give it to Adagrad")
    return {"sum": parameter.detach().new_full((len(parameter),), hyper["initial_accumulator_value"])}


def advance(gradient: Tensor, state: State, hyper: Hyper, parameter: Tensor | None = None) -> dict[str, Any]:
    """Return the slots after a step with this gradient."""
    state = state or init(gradient, hyper)
    square = gradient.square()
    return {**state, "sum": state["sum"] + (square.flatten(1).mean(1) if gradient.dim() > 1 else square)}


def peek(gradient: Tensor, state: State, hyper: Hyper, parameter: Tensor | None = None) -> Tensor:
    """Return the update of this gradient alone; 0 for a row whose gradient and accumulator are 0."""
    length: Tensor = advance(gradient, state, hyper)["sum"].sqrt().add_(hyper["eps"])
    length = length.masked_fill_(length == 0, 1.0)  # in place on our own new tensor
    return gradient / length.view(-1, *[1] * (gradient.dim() - 1))


def apply(parameter: Tensor, update: Tensor, state: State, hyper: Hyper) -> Tensor:
    """Return `theta - lr u`. Reads a tensor lr (synchronises)."""
    return parameter.detach().add(update, alpha=-float(hyper["lr"]))


def coupled(hyper: Hyper) -> bool:
    """Return True: it has no decay."""
    return True
