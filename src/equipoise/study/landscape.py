"""Two losses of two parameters that conflict: the landscape of CAGrad's Figure 2, which PUB's Figure 2 takes over."""

from __future__ import annotations

import torch
from torch import Tensor

LOWER = 5e-6
"""The logarithm's argument is at least this."""
STARTS = ((-8.5, 7.5), (0.0, 0.0), (9.0, 9.0), (-7.5, -0.5), (9.0, -1.0))
OPTIMUM = (-15.1, -15.1)
"""The losses at (0, -8), where both are equal on the Pareto front."""


def losses(x: Tensor) -> Tensor:
    """Return the two losses [..., 2] at x [..., 2].

    With c1 = max(tanh(x2 / 2), 0), c2 = max(tanh(-x2 / 2), 0), l_t = c1 (log max(|a_t|, 5e-6) + 6) + c2 (q_t - 20):
    a_1 = (-x1 - 7) / 2 - tanh(-x2), a_2 = (-x1 + 3) / 2 + tanh(-x2) + 2,
    q_1 = ((-x1 + 7)^2 + .1 (-x2 - 8)^2) / 10, q_2 = ((-x1 - 7)^2 + .1 (-x2 - 8)^2) / 10.

    A clamp passes the gradient at its bound, as torch.clamp does.

    Source: Liu et al., Conflict-Averse Gradient Descent, NeurIPS 2021, Figure 2; formula read in the authors' toy script and in ports of
    it that agree.
    """
    x1, x2 = x.unbind(-1)
    bend = torch.tanh(-x2)
    above, below = torch.tanh(x2 * 0.5).clamp(min=0), torch.tanh(-x2 * 0.5).clamp(min=0)
    valley = 0.1 * (-x2 - 8).square()
    first = above * ((0.5 * (-x1 - 7) - bend).abs().clamp(min=LOWER).log() + 6)
    second = above * ((0.5 * (-x1 + 3) + bend + 2).abs().clamp(min=LOWER).log() + 6)
    return torch.stack(
        [
            first + below * (((-x1 + 7).square() + valley) / 10 - 20),
            second + below * (((-x1 - 7).square() + valley) / 10 - 20),
        ],
        dim=-1,
    )


def losses_and_gradients(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the losses [..., 2] and their gradients [..., 2 losses, 2 parameters], by the derivatives of `losses` written out."""
    x1, x2 = x[..., 0], x[..., 1]
    bend, half = torch.tanh(-x2), torch.tanh(x2 * 0.5)
    above, below = half.clamp(min=0), (-half).clamp(min=0)
    slope = 0.5 * (1 - half * half)
    d_above, d_below = slope * (half >= 0), -slope * (half <= 0)
    d_bend = bend * bend - 1
    valley, d_valley = 0.1 * (x2 + 8).square() / 10 - 20, 0.02 * (x2 + 8)
    values, parts = [], []
    for a, sign, far in ((0.5 * (-x1 - 7) - bend, -1.0, -7.0), (0.5 * (-x1 + 3) + bend + 2, 1.0, 7.0)):
        size = a.abs()
        free = (size >= LOWER) / size.clamp(min=LOWER) * a.sign()
        steep = size.clamp(min=LOWER).log() + 6
        bowl = (x1 + far).square() / 10 + valley
        values.append(above * steep + below * bowl)
        along = -0.5 * above * free + below * (x1 + far) / 5
        up = d_above * steep + above * free * sign * d_bend + d_below * bowl + below * d_valley
        parts.append(torch.stack([along, up], dim=-1))
    return torch.stack(values, dim=-1), torch.stack(parts, dim=-2)


def front(num: int = 141) -> Tensor:
    """Return the Pareto front [num, 2] in loss space, from (loss 1 least) to (loss 2 least).

    Below x2 = 0 the bowls are left; for each x1 between their bottoms the x2 near -8 with the least sum of losses is taken
    on a grid of 1e-3.
    """
    x1 = torch.linspace(7, -7, num, dtype=torch.float64)
    x2 = torch.linspace(-9, -7, 2001, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(x1, x2, indexing="ij"), dim=-1)
    found = losses(grid)
    best = found.sum(-1).argmin(1)
    return found[torch.arange(num), best]
