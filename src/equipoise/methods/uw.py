"""Uncertainty weighting: each task's loss over a learned variance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from equipoise.methods.learned import adam, begin, check_number, everyone


@dataclass(frozen=True)
class UW:
    """Uncertainty weighting: each task's loss over a learned variance.

    The combined loss is `sum_t (exp(-s_t) L_t + s_t) / 2`, so w_t = exp(-s_t) / 2, with s_t the log of the task's variance,
    learned by Adam beside the model, from 0. At rest exp(s_t) = L_t.

    Args:
        lr: Adam's learning rate for s. The paper learns s with the model's optimizer; ours has a step of its own.

    Raises:
        ValueError: lr is not positive.

    Source: CVPR 2018, in the form exp(-s) that its authors use for stability.
    """

    lr: float = 1e-2
    level: ClassVar[str] = "losses"
    any_level: ClassVar[bool] = False
    scale: ClassVar[str] = "raw"
    total: ClassVar[str | None] = None
    needs: ClassVar[tuple[str, ...]] = ("present",)
    solves: ClassVar[bool] = False
    paper: ClassVar[str] = (
        "Kendall, Gal, Cipolla, Multi-Task Learning Using Uncertainty to Weigh Losses, CVPR 2018"
    )
    use: ClassVar[str] = "When losses differ in unit or noise and you want one backward a step."

    def __post_init__(self) -> None:
        check_number("lr", self.lr, 0.0)

    def init(self, num_tasks: int) -> dict[str, Any]:
        """Return s [T] = 0 and Adam's moments."""
        return {"s": torch.zeros(num_tasks, dtype=torch.float64), **begin(num_tasks)}

    def __call__(
        self, statistic: Tensor, state: dict[str, Any], *, present: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return exp(-s)/2 [P] for losses [P], and s after its own step."""
        here = everyone(statistic, present)
        weights = torch.exp(-state["s"][here]) / 2
        s, moments = adam(state["s"], 0.5 - weights * statistic, state, here, self.lr)
        return weights, {"s": s, **moments}
