"""PCGrad: each gradient loses what opposes another, in random order, and all are summed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor


@dataclass(frozen=True)
class PCGrad:
    """PCGrad: each gradient loses what opposes another, in random order, and all are summed.

    For each task i, over the others j in random order: where <g_i', g_j> < 0, g_i' -= <g_i', g_j> / |g_j|^2 g_j. Row i of
    the coefficient matrix [P, P] holds g_i' in terms of the g_j; the weights are its column sums. Without conflict
    it is the sum of gradients, and so is the step for equal gradients. With two tasks no order matters.

    Source: NeurIPS 2020, algorithm 1 (sum, as there; the means of some ports are this over T).
    """

    level: ClassVar[str] = "gradients"
    any_level: ClassVar[bool] = False
    scale: ClassVar[str] = "raw"
    total: ClassVar[str | None] = None
    needs: ClassVar[tuple[str, ...]] = ("generator",)
    solves: ClassVar[bool] = False
    paper: ClassVar[str] = "Yu et al., Gradient Surgery for Multi-Task Learning, NeurIPS 2020"
    use: ClassVar[str] = (
        "A cheap first try against conflict, in pairs: with three and more tasks the sum may still oppose one."
    )

    def init(self, num_tasks: int) -> dict[str, Any]:
        """Return no state."""
        return {}

    def __call__(
        self, statistic: Tensor, state: dict[str, Any], *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return the weights [P] float64 for a Gram matrix [P, P]; orders are drawn from `generator`."""
        m = statistic.double()
        coefficients = torch.eye(len(m), dtype=torch.float64)
        for i, row in enumerate(coefficients):
            for j in torch.randperm(len(m), generator=generator).tolist():
                inner = m[j] @ row
                if j != i and inner < 0.0:
                    row[j] -= inner / m[j, j]
        return coefficients.sum(0), state
