"""MGDA: the shortest convex combination of the tasks' gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from equipoise.solve import Solution, min_norm


@dataclass(frozen=True)
class MGDA:
    """MGDA: the shortest convex combination of the tasks' gradients.

    w on the simplex minimises `w'Mw`; u = sum_t w_t g_t then has <g_t, u> >= |u|^2: the common descent direction that
    helps the task it helps least most, per length of u. The shortest gradients lead, tasks with long ones may get
    weight 0. At a Pareto stationary point u = 0, and the status says `stationary`.

    Source: Desideri, C. R. Math. 2012; Sener, Koltun, NeurIPS 2018, whose Frank-Wolfe steps stop early; ours is an exact
    active set. Normalising gradients first, an option there, is not done.
    """

    level: ClassVar[str] = "gradients"
    any_level: ClassVar[bool] = False
    scale: ClassVar[str] = "raw"
    total: ClassVar[str | None] = "one"
    needs: ClassVar[tuple[str, ...]] = ()
    solves: ClassVar[bool] = True
    paper: ClassVar[str] = (
        "Désidéri, Multiple-Gradient Descent Algorithm, C. R. Math. 2012; Sener, Koltun, NeurIPS 2018"
    )
    use: ClassVar[str] = (
        "When every task must gain and Pareto stationarity is the stopping rule; slow when gradients differ in length."
    )

    def init(self, num_tasks: int) -> dict[str, Any]:
        """Return no state."""
        return {}

    def solve(self, statistic: Tensor) -> Solution:
        """Return the solution with its residual and status for a Gram matrix [P, P]."""
        return min_norm(statistic)

    def __call__(self, statistic: Tensor, state: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        """Return the weights [P] float64 of `solve`."""
        return self.solve(statistic).weights.double(), state
