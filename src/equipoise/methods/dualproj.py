"""DualProj: the mean gradient, projected on the cone of steps that oppose no task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from equipoise.methods.priorities import Priorities, check, check_tasks, resolve
from equipoise.solve import Solution, project


@dataclass(frozen=True)
class DualProj:
    """DualProj: the mean gradient, projected on the cone of steps that oppose no task.

    u is the nearest to sum_t p_t g_t with <g_t, u> >= 0 for every t; w minimises `w'Mw` over w >= p. p = a / sum a,
    1/T without priorities. Where the mean opposes no task it is the step.

    Args:
        priorities: {task: a_t >= 0} or one a task, relative importance; p is proportional to it.

    Source: the projection of GEM (Lopez-Paz, Ranzato, NeurIPS 2017, equation 11), named and given preferences in Quinton,
    Rey, arXiv 2406.16232.
    """

    priorities: Priorities = None
    level: ClassVar[str] = "gradients"
    any_level: ClassVar[bool] = False
    scale: ClassVar[str] = "raw"
    total: ClassVar[str | None] = None
    needs: ClassVar[tuple[str, ...]] = ("present", "tasks")
    solves: ClassVar[bool] = True
    paper: ClassVar[str] = "Lopez-Paz, Ranzato, NeurIPS 2017; Quinton, Rey, arXiv 2406.16232"
    use: ClassVar[str] = (
        "When the mean is what you want and no task may be opposed: the smallest change that sees to it."
    )

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
        """Return the solution with its residual and status for a Gram matrix [P, P]."""
        a = resolve(self.priorities, tasks, present)
        p = torch.ones(len(statistic), dtype=torch.float64) if a is None else a
        return project(statistic.double(), p / len(p))

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
