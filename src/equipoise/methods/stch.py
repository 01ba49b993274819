"""STCH: a smooth maximum of the tasks' losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from equipoise.methods.learned import check_number, check_positive, everyone
from equipoise.methods.priorities import Priorities, check, check_tasks, resolve


@dataclass(frozen=True)
class STCH:
    """STCH: a smooth maximum of the tasks' losses.

    The combined loss is `P mu log sum_t exp(a_t log(L_t / nadir_t) / mu)`, a the priorities with mean 1 and nadir_t the task's
    mean loss in the warm-up, during which it is `sum_t log L_t`. So w_t = P a_t softmax(a log(L / nadir) / mu)_t / L_t; a task
    that was absent throughout the warm-up takes its first loss as nadir.

    Args:
        mu: smoothness; towards 0 only the worst task counts.
        warmup: steps of the warm-up.
        priorities: relative importance of tasks, see `equipoise.methods.priorities`; the paper's preference vector.

    Raises:
        ValueError: mu or warmup out of range; at a step a loss that is not positive.

    Source: ICML 2024, its smooth Tchebycheff scalarisation with ideal point 0; logarithms, nadir and warm-up as LibMTL
    has them after the authors' code, where warm-up and nadir are counted in epochs and there are no priorities.
    """

    mu: float = 1.0
    warmup: int = 100
    priorities: Priorities = None
    level: ClassVar[str] = "losses"
    any_level: ClassVar[bool] = False
    scale: ClassVar[str] = "raw"
    total: ClassVar[str | None] = None
    needs: ClassVar[tuple[str, ...]] = ("present", "tasks")
    solves: ClassVar[bool] = False
    paper: ClassVar[str] = "Lin, Zhang, Yang, Liu, Wang, Zhang, Smooth Tchebycheff Scalarization, ICML 2024"
    use: ClassVar[str] = "When the worst-off task decides, at one backward a step; takes priorities."

    def __post_init__(self) -> None:
        check_number("mu", self.mu, 0.0)
        check_number("warmup", self.warmup, 0, strict=False)
        check(self.priorities)

    def check_tasks(self, tasks: Sequence[str]) -> None:
        """Raise a ValueError for a priority whose task does not exist."""
        check_tasks(self.priorities, tasks)

    def init(self, num_tasks: int) -> dict[str, Any]:
        """Return steps, and sums and counts [T] of the warm-up's losses."""
        return {"steps": 0, **{n: torch.zeros(num_tasks, dtype=torch.float64) for n in ("sum", "count")}}

    def __call__(
        self,
        statistic: Tensor,
        state: dict[str, Any],
        *,
        present: Tensor | None = None,
        tasks: Sequence[str] | None = None,
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return the weights [P] for losses [P]."""
        check_positive(statistic, "STCH")
        here = everyone(statistic, present)
        total, count = state["sum"].clone(), state["count"].clone()
        warm = state["steps"] < self.warmup
        late = here & ((count == 0) | warm)
        total[late] += statistic[late[here]]
        count[late] += 1
        after = {"steps": state["steps"] + 1, "sum": total, "count": count}
        if warm:
            return 1.0 / statistic, after
        a = resolve(self.priorities, tasks, here)
        a = torch.ones_like(statistic) if a is None else a
        worse = a * (statistic / (total[here] / count[here])).log()
        return len(statistic) * a * torch.softmax(worse / self.mu, 0) / statistic, after
