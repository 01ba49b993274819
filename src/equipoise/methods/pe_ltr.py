"""PE-LTR: the min-norm direction with a least weight for each task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from equipoise.methods.priorities import Priorities, check, check_tasks, resolve
from equipoise.solve import Solution, min_norm


@dataclass(frozen=True)
class PELTR:
    """PE-LTR: the min-norm direction with a least weight for each task.

    w minimises `w'Mw` over sum w = 1, `w_t >= c_t`, with `c_t = floor a_t / P`, a the priorities with mean 1: the bounds use up `floor`
    of the weight, the rest goes where the norm falls most. floor = 0 is MGDA, floor = 1 the weights a / P.

    Args:
        floor: in [0, 1]. priorities: relative importance of tasks, see `equipoise.methods.priorities`.

    Raises:
        ValueError: floor out of range.

    Source: RecSys 2019, its Pareto-efficient condition with bounds w_t >= c_t; solved exactly here, the paper relaxes the
    bounds and projects. How bounds come from priorities, and floor, are ours.
    """

    floor: float = 0.5
    priorities: Priorities = None
    level: ClassVar[str] = "gradients"
    any_level: ClassVar[bool] = False
    scale: ClassVar[str] = "raw"
    total: ClassVar[str | None] = "one"
    needs: ClassVar[tuple[str, ...]] = ("present", "tasks")
    solves: ClassVar[bool] = True
    paper: ClassVar[str] = (
        "Lin, Chen, Pei et al., A Pareto-Efficient Algorithm for Multiple Objective Optimization in E-Commerce Recommendation, RecSys 2019"
    )
    use: ClassVar[str] = "When each task must keep a share of the weight, set by its business value."

    def __post_init__(self) -> None:
        if not 0.0 <= self.floor <= 1.0:
            raise ValueError(f"floor must lie in [0, 1], got {self.floor!r}")
        check(self.priorities)

    def check_tasks(self, tasks: Sequence[str]) -> None:
        """Raise a ValueError for a priority whose task does not exist."""
        check_tasks(self.priorities, tasks)

    def init(self, num_tasks: int) -> dict[str, Any]:
        """Return no state."""
        return {}

    def solve(
        self, statistic: Tensor, *, present: Tensor | None = None, tasks: Sequence[str] | None = None
    ) -> Solution:
        """Return the solution with its residual and status for a Gram matrix [P, P]."""
        a = resolve(self.priorities, tasks, present)
        a = torch.ones(len(statistic), dtype=torch.float64) if a is None else a
        return min_norm(statistic, lower=self.floor * a / len(a))

    def __call__(
        self,
        statistic: Tensor,
        state: dict[str, Any],
        *,
        present: Tensor | None = None,
        tasks: Sequence[str] | None = None,
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return the weights [P] float64 of `solve`, sum 1."""
        return self.solve(statistic, present=present, tasks=tasks).weights.double(), state
