"""Equal weights: the plain summed loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor


@dataclass(frozen=True)
class Equal:
    """w_t = 1 for every present task: plain summed loss, the baseline to tune first.

    With `moments="per_task"` it is AdaTask (AAAI 2023), with `clip=` Clippy on each task's update.
    """

    level: ClassVar[str] = "losses"
    any_level: ClassVar[bool] = True
    scale: ClassVar[str] = "raw"
    total: ClassVar[str | None] = "tasks"
    needs: ClassVar[tuple[str, ...]] = ()
    solves: ClassVar[bool] = False
    paper: ClassVar[str] = "linear scalarisation"
    use: ClassVar[str] = "Always, first, at a tuned learning rate: the baseline that others must beat."

    def init(self, num_tasks: int) -> dict[str, Any]:
        """Return no state."""
        return {}

    def __call__(self, statistic: Tensor, state: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        """Return ones [T], whatever the statistic ([T] losses or [T, T] Gram matrix) holds."""
        return torch.ones(len(statistic), dtype=torch.float64), state
