"""FairGrad: alpha-fair gains of the tasks, M w = w^(-1/alpha)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from equipoise.solve import Solution, fair


@dataclass(frozen=True)
class FairGrad:
    """FairGrad: alpha-fair gains of the tasks, `M w = w^(-1/alpha)`.

    The step u = sum_t w_t g_t maximises sum_t <g_t, u>^(1 - alpha) / (1 - alpha) within a ball: each gain is
    w_t^(-1/alpha) > 0. alpha = 1 is Nash-MTL; larger alpha equalises gains, smaller favours their sum. Invariant to a
    task's scale for alpha = 1 only. Scaled "norm", since unscaled |u| depends on no loss but on alpha.

    Args:
        alpha: fairness > 0.

    Raises:
        ValueError: alpha is not a finite number > 0.

    Source: ICML 2024, equation 4; alpha 1 is the default of the authors' code, the paper uses 1, 2 and others by data set.
    """

    alpha: float = 1.0
    level: ClassVar[str] = "gradients"
    any_level: ClassVar[bool] = False
    scale: ClassVar[str] = "norm"
    total: ClassVar[str | None] = None
    needs: ClassVar[tuple[str, ...]] = ()
    solves: ClassVar[bool] = True
    paper: ClassVar[str] = "Ban, Ji, Fair Resource Allocation in Multi-Task Learning, ICML 2024"
    use: ClassVar[str] = (
        "As Nash-MTL, with a dial from the largest total gain (alpha < 1) to the fairest (alpha > 1)."
    )

    def __post_init__(self) -> None:
        if not math.isfinite(self.alpha) or self.alpha <= 0.0:
            raise ValueError(f"alpha must be a finite number > 0, got {self.alpha!r}")

    def init(self, num_tasks: int) -> dict[str, Any]:
        """Return no state."""
        return {}

    def solve(self, statistic: Tensor) -> Solution:
        """Return the solution with its residual and status for a Gram matrix [P, P]."""
        return fair(statistic, self.alpha)

    def __call__(self, statistic: Tensor, state: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        """Return the weights [P] float64 of `solve`."""
        return self.solve(statistic).weights.double(), state
