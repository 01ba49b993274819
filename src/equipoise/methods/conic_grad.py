"""ConicGrad: the step inside a cone around the mean gradient that helps the worst-off task most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from equipoise.solve import Solution, conic


@dataclass(frozen=True)
class ConicGrad:
    """ConicGrad: the step inside a cone around the mean gradient that helps the worst-off task most.

    d maximises `min_t <g_t, d>` over `<g_0, d> >= c |g_0| |d|` with `|d| = |g_0|`, g_0 the mean gradient: unlike CAGrad's
    ball the cone bounds the angle alone. c = 1 is the mean; a small c tends to MGDA's direction at the mean's length. One
    task, and equal ones, are stepped with g. It has no published way to take priorities. Where no direction of the cone
    helps every task, the step is the mean and the status `stationary`.

    Args:
        c: least cosine between the step and the mean gradient, in (0, 1].

    Raises:
        ValueError: c is not in (0, 1].

    Source: arXiv 2502.00217, its objective alone, from the abstract and public summaries: neither the text of its
    algorithm nor two implementations could be had. The authors keep task weights and move them by one step of gradient
    descent a training step; we solve the objective at each step, without state.
    """

    c: float = 0.5
    level: ClassVar[str] = "gradients"
    any_level: ClassVar[bool] = False
    scale: ClassVar[str] = "raw"
    total: ClassVar[str | None] = None
    needs: ClassVar[tuple[str, ...]] = ()
    solves: ClassVar[bool] = True
    paper: ClassVar[str] = (
        "Hassanpour, Janjua, Zhang et al., Fantastic Multi-Task Gradient Updates and How to Find Them In a Cone, "
        "arXiv 2502.00217"
    )
    use: ClassVar[str] = "As CAGrad, with the bound on the angle: the step keeps the mean gradient's length."

    def __post_init__(self) -> None:
        if not 0.0 < self.c <= 1.0:
            raise ValueError(f"c must lie in (0, 1], got {self.c!r}")

    def init(self, num_tasks: int) -> dict[str, Any]:
        """Return no state."""
        return {}

    def solve(self, statistic: Tensor) -> Solution:
        """Return the solution with its residual and status for a Gram matrix [P, P]."""
        return conic(statistic, self.c)

    def __call__(self, statistic: Tensor, state: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        """Return the weights [P] float64 of `solve`."""
        return self.solve(statistic).weights.double(), state
