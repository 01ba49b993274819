"""Parameter Update Balancing: the balance equation M w = 1/w on the tasks' updates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from equipoise.solve import Solution, balance


@dataclass(frozen=True)
class PUB:
    """Parameter Update Balancing: the balance equation M w = 1/w on the tasks' updates.

    The joint update u = sum_t w_t u_t maximises the product of the utilities <u_t, u>; each is 1/w_t > 0 before
    scaling, so no task's own update is opposed. Scaled "convex" (sum w = 1) so that the learning rate tuned for the
    plain optimizer still holds: unscaled, |u| is sqrt(T) whatever the number of parameters.

    Source: arXiv 2410.05806, equation of the bargaining solution on updates; the released script squares the weighted
    sum of gradients in Adam's second moment and never runs its solver, we follow the paper's text.
    """

    level: ClassVar[str] = "updates"
    any_level: ClassVar[bool] = False
    scale: ClassVar[str] = "convex"
    total: ClassVar[str | None] = None
    needs: ClassVar[tuple[str, ...]] = ()
    solves: ClassVar[bool] = True
    paper: ClassVar[str] = "Yuan, Cai, Dong, arXiv 2410.05806"
    use: ClassVar[str] = "With Adam and its kin, when every task must gain from each step."

    def init(self, num_tasks: int) -> dict[str, Any]:
        """Return no state."""
        return {}

    def solve(self, statistic: Tensor) -> Solution:
        """Return the solution with its residual and status for a Gram matrix [T, T]."""
        return balance(statistic)

    def __call__(self, statistic: Tensor, state: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        """Return unscaled weights [T] float64 for a Gram matrix [T, T] of the tasks' updates."""
        return self.solve(statistic).weights.double(), state
