"""CAGrad: the step near the mean gradient that helps the worst-off task most."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from equipoise.solve import Solution, conflict_averse


@dataclass(frozen=True)
class CAGrad:
    """CAGrad: the step near the mean gradient that helps the worst-off task most.

    d maximises `min_t <g_t, d>` over `|d - g_0| <= c |g_0|`, g_0 the mean gradient; d = sum_t w_t g_t with
    w = 1/T + z, z >= 0. c = 0 is the mean; from c = 1 on it tends to MGDA's direction. It has no
    published way to take priorities. One task, and equal ones, are stepped with (1 + c) g. Where the ball holds nothing that helps every task, though
    something that opposes none, weights are 0 and the status is `stationary`.

    Args:
        c: radius of the ball in units of |g_0|, in [0, 1) for convergence to a minimum of the mean loss.

    Raises:
        ValueError: c is negative or not finite.

    Source: NeurIPS 2021, algorithm 1. The authors' code has the option, on in their experiments, to divide by 1 + c^2;
    we follow the paper's text.
    """

    c: float = 0.5
    level: ClassVar[str] = "gradients"
    any_level: ClassVar[bool] = False
    scale: ClassVar[str] = "raw"
    total: ClassVar[str | None] = None
    needs: ClassVar[tuple[str, ...]] = ()
    solves: ClassVar[bool] = True
    paper: ClassVar[str] = "Liu, Liu, Jin, Stone, Liu, Conflict-Averse Gradient Descent, NeurIPS 2021"
    use: ClassVar[str] = (
        "When the mean is nearly right but one task loses: c sets how far the step may leave the mean."
    )

    def __post_init__(self) -> None:
        if not math.isfinite(self.c) or self.c < 0.0:
            raise ValueError(f"c must be a finite number >= 0, got {self.c!r}")

    def init(self, num_tasks: int) -> dict[str, Any]:
        """Return no state."""
        return {}

    def solve(self, statistic: Tensor) -> Solution:
        """Return the solution with its residual and status for a Gram matrix [P, P]."""
        return conflict_averse(statistic, self.c)

    def __call__(self, statistic: Tensor, state: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        """Return the weights [P] float64 of `solve`."""
        return self.solve(statistic).weights.double(), state
