"""GradCraft: lengths brought together, then every conflict of a task resolved at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from equipoise.gram import cosines
from equipoise.methods.learned import check_number, everyone


@dataclass(frozen=True)
class GradCraft:
    """GradCraft: lengths brought together, then every conflict of a task resolved at once.

    Lengths: `g_t <- g_t (r max_s m_s / m_t + 1 - r)`, m the moving averages of norms, from 0. Directions: task i, with the set C of tasks whose rows
    oppose its row, becomes `g_i + sum_{j in C} v_j g_j` with `<that, g_j> = eps |g_i| |g_j|` for every j in C together (PCGrad resolves
    one pair after the other, and later ones undo earlier ones). The joint row is the mean over i.

    Args:
        relax: r in [0, 1]. beta: share of the past in the averages. eps: what is left of the cosine, >= 0.

    Raises:
        ValueError: a constant out of range.

    Source: KDD 2024 (arXiv 2407.19682) and the authors' code, the mean of rows included; r, beta and eps are its arguments
    without defaults. Where the rows of C are dependent we take the least-squares v, the code an inverse.
    """

    relax: float = 0.7
    beta: float = 0.9
    eps: float = 1e-3
    level: ClassVar[str] = "gradients"
    any_level: ClassVar[bool] = False
    scale: ClassVar[str] = "raw"
    total: ClassVar[str | None] = None
    needs: ClassVar[tuple[str, ...]] = ("present",)
    solves: ClassVar[bool] = False
    paper: ClassVar[str] = "Bai, Zhang, Feng et al., GradCraft, KDD 2024"
    use: ClassVar[str] = "When several tasks conflict with the same task at once."

    def __post_init__(self) -> None:
        if not 0.0 <= self.relax <= 1.0:
            raise ValueError(f"relax must lie in [0, 1], got {self.relax!r}")
        if not 0.0 <= self.beta < 1.0:
            raise ValueError(f"beta must lie in [0, 1), got {self.beta!r}")
        check_number("eps", self.eps, 0.0, strict=False)

    def init(self, num_tasks: int) -> dict[str, Any]:
        """Return average norms m [T], 0 before the first."""
        return {"m": torch.zeros(num_tasks, dtype=torch.float64)}

    def __call__(
        self, statistic: Tensor, state: dict[str, Any], *, present: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return the weights [P] for a Gram matrix [P, P]: the column sums of the coefficients."""
        here, m = everyone(statistic, present), state["m"].clone()
        m[here] = self.beta * m[here] + (1.0 - self.beta) * statistic.diagonal().sqrt()
        average = m[here]
        lengths = self.relax * average.max() / average + (1.0 - self.relax)
        unit = cosines(statistic)
        scaled = lengths * statistic.diagonal().sqrt()  # the rows' lengths once scaled
        total = torch.ones(len(statistic), dtype=torch.float64)
        for i, row in enumerate(unit):
            against = torch.nonzero(row < 0).flatten()
            if len(against):
                gap = self.eps - row[against]
                v = torch.linalg.lstsq(unit[against][:, against], gap[:, None], driver="gelsd").solution[:, 0]
                total[against] += v * scaled[i] / scaled[against]
        return total * lengths / len(total), {"m": m}
