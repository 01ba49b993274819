"""MultiBalance: min-norm weights of the gradients at the shared representation, at even lengths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from equipoise.methods.learned import averaged, everyone
from equipoise.solve import min_norm


@dataclass(frozen=True)
class MultiBalance:
    """MultiBalance: min-norm weights of the gradients at the shared representation, at even lengths.

    Rows are divided by a moving average of their norms, `m_t <- beta m_t + (1 - beta) |g_t|` (the norm itself at the first), and w is
    the min-norm point of the simplex over them: `w_t = s_t (mean m) / m_t`, s the point.

    Args:
        beta: share of the past in the average norm, in [0, 1).

    Raises:
        ValueError: beta out of range.

    Source: arXiv 2411.11871, from its abstract and public summaries (balance of gradients at the shared representation,
    with a moving average of their magnitude): the full rule could not be had, so details may differ.
    """

    beta: float = 0.9
    level: ClassVar[str] = "representation"
    any_level: ClassVar[bool] = False
    scale: ClassVar[str] = "raw"
    total: ClassVar[str | None] = None
    needs: ClassVar[tuple[str, ...]] = ("present",)
    solves: ClassVar[bool] = False
    paper: ClassVar[str] = (
        "MultiBalance: Multi-Objective Gradient Balancing in Industrial-Scale Multi-Task Recommendation, arXiv 2411.11871"
    )
    use: ClassVar[str] = "When T backward passes through large tables are too dear."

    def __post_init__(self) -> None:
        if not 0.0 <= self.beta < 1.0:
            raise ValueError(f"beta must lie in [0, 1), got {self.beta!r}")

    def init(self, num_tasks: int) -> dict[str, Any]:
        """Return average norms m [T], 0 before the first."""
        return {"m": torch.zeros(num_tasks, dtype=torch.float64)}

    def __call__(
        self, statistic: Tensor, state: dict[str, Any], *, present: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return the weights [P] for a Gram matrix [P, P]."""
        m, norms = averaged(state["m"], statistic, everyone(statistic, present), self.beta)
        s = min_norm(statistic / norms[:, None] / norms[None, :]).weights.double()
        return s * norms.mean() / norms, {"m": m}
