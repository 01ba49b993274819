"""Dynamic weight average: more weight for the task whose loss falls slowest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from equipoise.methods.learned import check_number, check_positive, everyone


@dataclass(frozen=True)
class DWA:
    """Dynamic weight average: more weight for the task whose loss falls slowest.

    `w = P softmax(r / temperature)`, r_t the task's mean loss in the last window over that in the window before; r_t = 1
    until a task has two windows. The sum of weights is the number P of present tasks.

    Args:
        window: steps whose losses are averaged; the paper's is an epoch.
        temperature: the larger, the more even.

    Raises:
        ValueError: window < 1, temperature <= 0; at a step a loss that is not positive.

    Source: CVPR 2019, equation 7.
    """

    window: int = 100
    temperature: float = 2.0
    level: ClassVar[str] = "losses"
    any_level: ClassVar[bool] = False
    scale: ClassVar[str] = "raw"
    total: ClassVar[str | None] = "tasks"
    needs: ClassVar[tuple[str, ...]] = ("present",)
    solves: ClassVar[bool] = False
    paper: ClassVar[str] = "Liu, Johns, Davison, End-to-End Multi-Task Learning with Attention, CVPR 2019"
    use: ClassVar[str] = "When tasks learn at different speed, at one backward a step."

    def __post_init__(self) -> None:
        check_number("window", self.window, 1, strict=False)
        check_number("temperature", self.temperature, 0.0)

    def init(self, num_tasks: int) -> dict[str, Any]:
        """Return sums and counts [T] of the window under way, and means [T] of the last two (0: none yet)."""
        names = ("sum", "count", "last", "before")
        return {"steps": 0, **{name: torch.zeros(num_tasks, dtype=torch.float64) for name in names}}

    def __call__(
        self, statistic: Tensor, state: dict[str, Any], *, present: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return P softmax(r / temperature) [P] for losses [P]."""
        check_positive(statistic, "DWA")
        here = everyone(statistic, present)
        total, count, last, before = (state[name].clone() for name in ("sum", "count", "last", "before"))
        known = before[here] > 0
        ratio = torch.where(known, last[here] / before[here].where(known, torch.ones_like(statistic)), 1.0)
        weights = torch.softmax(ratio / self.temperature, 0) * len(statistic)
        total[here] += statistic
        count[here] += 1
        steps = state["steps"] + 1
        if steps % self.window == 0:
            seen = count > 0
            before = torch.where(seen, last, before)
            last = torch.where(seen, total / count.clamp_min(1.0), last)
            total, count = torch.zeros_like(total), torch.zeros_like(count)
        return weights, {"steps": steps, "sum": total, "count": count, "last": last, "before": before}
