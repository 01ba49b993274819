"""UPGrad: the mean of the tasks' gradients, each projected on the cone of steps that oppose no task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from equipoise.methods.priorities import Priorities, check, check_tasks, resolve
from equipoise.solve import Solution, Status, project


@dataclass(frozen=True)
class UPGrad:
    """UPGrad: the mean of the tasks' gradients, each projected on the cone of steps that oppose no task.

    u = sum_t p_t pi(g_t), pi(g) the nearest to g with <g_s, pi(g)> >= 0 for every s. p = a / sum a, 1/T without
    priorities. Opposes no task, is linear in each gradient's length, and where no two gradients conflict it is the mean.

    Args:
        priorities: {task: a_t >= 0} or one a task, relative importance; p is proportional to it.

    Source: arXiv 2406.16232, equation 4 and proposition 1. torchjd adds 1e-4 to the diagonal of M / trace; we add nothing.
    """

    priorities: Priorities = None
    level: ClassVar[str] = "gradients"
    any_level: ClassVar[bool] = False
    scale: ClassVar[str] = "raw"
    total: ClassVar[str | None] = None
    needs: ClassVar[tuple[str, ...]] = ("present", "tasks")
    solves: ClassVar[bool] = True
    paper: ClassVar[str] = "Quinton, Rey, Jacobian Descent for Multi-Objective Optimization, arXiv 2406.16232"
    use: ClassVar[str] = "When no task may be opposed and a task's gain should grow with its gradient."

    def __post_init__(self) -> None:
        check(self.priorities)

    def init(self, num_tasks: int) -> dict[str, Any]:
        """Return no state."""
        return {}

    def check_tasks(self, tasks: Sequence[str]) -> None:
        """Raise a ValueError for priorities that do not fit the tasks."""
        check_tasks(self.priorities, tasks)

    def solve(
        self,
        statistic: Tensor,
        *,
        present: Tensor | None = None,
        tasks: Sequence[str] | None = None,
    ) -> Solution:
        """Return the sum of the projections, with the worst of their residuals, all steps, and the worst status."""
        a = resolve(self.priorities, tasks, present)
        p = torch.ones(len(statistic), dtype=torch.float64) if a is None else a
        found = [project(statistic.double(), row) for row in torch.diag(p / len(p))]
        return Solution(
            torch.stack([f.weights for f in found]).sum(0),
            max(f.residual for f in found),
            sum(f.steps for f in found),
            next((f.status for f in found if f.status is not Status.SOLVED), Status.SOLVED),
        )

    def __call__(
        self,
        statistic: Tensor,
        state: dict[str, Any],
        *,
        present: Tensor | None = None,
        tasks: Sequence[str] | None = None,
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return the weights [P] float64 of `solve`."""
        return self.solve(statistic, present=present, tasks=tasks).weights.double(), state
