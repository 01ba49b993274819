"""ConFIG: the direction with the same cosine to every gradient, as long as what the tasks gain by it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from equipoise.methods.priorities import Priorities, check, check_tasks, resolve


@dataclass(frozen=True)
class ConFIG:
    """ConFIG: the direction with the same cosine to every gradient, as long as what the tasks gain by it.

    u ~ pinv(unit gradients) p, |u| = sum_t <g_t, u / |u|>: cosines are proportional to p, 1 without priorities.
    Independent gradients: <g_t, u> has one sign for all tasks. Equal gradients: u is their sum. In Gram form, C the
    cosines: x = pinv(C) p, u ~ sum_t x_t g_t / |g_t|. Where x gives 0 (opposite gradients) all weights are 0.

    Args:
        priorities: {task: a_t >= 0} or one a task, relative importance; cosines are proportional to it.

    Source: ICLR 2025, equation 2; the momentum form M-ConFIG is another method.
    """

    priorities: Priorities = None
    level: ClassVar[str] = "gradients"
    any_level: ClassVar[bool] = False
    scale: ClassVar[str] = "raw"
    total: ClassVar[str | None] = None
    needs: ClassVar[tuple[str, ...]] = ("present", "tasks")
    solves: ClassVar[bool] = False
    paper: ClassVar[str] = (
        "Liu, Chu, Thuerey, ConFIG: Towards Conflict-free Training of Physics Informed Neural Networks, ICLR 2025"
    )
    use: ClassVar[str] = "When every task should be met at the same angle, however long its gradient is."

    def __post_init__(self) -> None:
        check(self.priorities)

    def init(self, num_tasks: int) -> dict[str, Any]:
        """Return no state."""
        return {}

    def check_tasks(self, tasks: Sequence[str]) -> None:
        """Raise a ValueError for priorities that do not fit the tasks."""
        check_tasks(self.priorities, tasks)

    def __call__(
        self,
        statistic: Tensor,
        state: dict[str, Any],
        *,
        present: Tensor | None = None,
        tasks: Sequence[str] | None = None,
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return the weights [P] float64 for a Gram matrix [P, P]."""
        a = resolve(self.priorities, tasks, present)
        m = statistic.double() / statistic.diagonal().max()
        p = torch.ones(len(m), dtype=torch.float64) if a is None else a
        d = m.diagonal().sqrt()
        cut = 10 * len(d) * torch.finfo(torch.float64).eps  # under it an eigenvalue is rounding
        x = torch.linalg.pinv(m / d[:, None] / d[None, :], rtol=cut, hermitian=True) @ p
        w = x / d
        squared = w @ m @ w
        if squared <= 1e-24 * (x.abs().sum()) ** 2 or not bool(x.any()):
            return torch.zeros_like(w), state
        return w * ((m @ w).sum() / squared), state
