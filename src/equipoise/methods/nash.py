"""Nash-MTL: the balance equation M w = 1/w on the tasks' gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from equipoise.solve import Solution, balance


@dataclass(frozen=True)
class Nash:
    """Nash-MTL: the balance equation M w = 1/w on the tasks' gradients.

    The same equation as PUB's, one level below: the rows are gradients, the weighted gradient goes to the optimizer.
    Scaled "norm" (|u| = mean_t |g_t|), since unscaled |u| is sqrt(T) and its size depends on no loss.

    Source: ICML 2022, section 3.2; the authors' code bounds |u| by max_norm = 1 instead and solves by a sequence of
    convex programs.
    """

    level: ClassVar[str] = "gradients"
    any_level: ClassVar[bool] = False
    scale: ClassVar[str] = "norm"
    total: ClassVar[str | None] = None
    needs: ClassVar[tuple[str, ...]] = ()
    solves: ClassVar[bool] = True
    paper: ClassVar[str] = "Navon et al., Multi-Task Learning as a Bargaining Game, ICML 2022"
    use: ClassVar[str] = (
        "When gradients conflict and no task may be given up; with momentum optimizers prefer PUB."
    )

    def init(self, num_tasks: int) -> dict[str, Any]:
        """Return no state."""
        return {}

    def solve(self, statistic: Tensor) -> Solution:
        """Return the solution with its residual and status for a Gram matrix [T, T]."""
        return balance(statistic)

    def __call__(self, statistic: Tensor, state: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        """Return unscaled weights [T] float64 for a Gram matrix [T, T] of the tasks' gradients."""
        return self.solve(statistic).weights.double(), state
