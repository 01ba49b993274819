"""Equal weights: the plain summed loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor


@dataclass(frozen=True)
class Equal:
    """w_t = 1 for every present task: plain summed loss, the baseline to tune first.

    Args:
        reduce: "sum", or "mean": w_t = 1/P, the mean loss over the P present tasks.

    Raises:
        ValueError: another `reduce`.

    With `moments="per_task"` it is AdaTask (AAAI 2023), with `clip=` Clippy on each task's update.
    """

    reduce: str = "sum"
    level: ClassVar[str] = "losses"
    any_level: ClassVar[bool] = True
    scale: ClassVar[str] = "raw"
    total: ClassVar[str | None] = "tasks"
    needs: ClassVar[tuple[str, ...]] = ()
    solves: ClassVar[bool] = False
    paper: ClassVar[str] = "linear scalarisation"
    use: ClassVar[str] = "Always, first, at a tuned learning rate: the baseline that others must beat."

    def __post_init__(self) -> None:
        if self.reduce not in ("sum", "mean"):
            raise ValueError(f"reduce must be 'sum' or 'mean', got {self.reduce!r}")
        if self.reduce == "mean":
            object.__setattr__(self, "total", "one")

    def init(self, num_tasks: int) -> dict[str, Any]:
        """Return no state."""
        return {}

    def __call__(self, statistic: Tensor, state: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        """Return ones (or 1/P) [P], whatever the statistic ([P] losses or [P, P] Gram matrix) holds."""
        value = 1.0 if self.reduce == "sum" else 1.0 / len(statistic)
        return torch.full((len(statistic),), value, dtype=torch.float64), state
