"""IMTL-L: each task's loss times a learned scale that makes all of them 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from equipoise.methods.learned import adam, begin, check_number, everyone


@dataclass(frozen=True)
class IMTLL:
    """IMTL-L: each task's loss times a learned scale that makes all of them 1.

    The combined loss is `sum_t exp(s_t) L_t - s_t`, so w_t = exp(s_t), with s_t learned by Adam beside the model, from 0. At
    rest w_t L_t = 1 for every task.

    Args:
        lr: Adam's learning rate for s. The paper learns s with the model's optimizer; ours has a step of its own.

    Raises:
        ValueError: lr is not positive.

    Source: ICLR 2021, section 3.2, with a = e.
    """

    lr: float = 1e-2
    level: ClassVar[str] = "losses"
    any_level: ClassVar[bool] = False
    scale: ClassVar[str] = "raw"
    total: ClassVar[str | None] = None
    needs: ClassVar[tuple[str, ...]] = ("present",)
    solves: ClassVar[bool] = False
    paper: ClassVar[str] = "Liu, Li, Kuang et al., Towards Impartial Multi-Task Learning, ICLR 2021"
    use: ClassVar[str] = "When losses differ in size and all should count alike, at one backward a step."

    def __post_init__(self) -> None:
        check_number("lr", self.lr, 0.0)

    def init(self, num_tasks: int) -> dict[str, Any]:
        """Return s [T] = 0 and Adam's moments."""
        return {"s": torch.zeros(num_tasks, dtype=torch.float64), **begin(num_tasks)}

    def __call__(
        self, statistic: Tensor, state: dict[str, Any], *, present: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return exp(s) [P] for losses [P], and s after its own step."""
        here = everyone(statistic, present)
        weights = torch.exp(state["s"][here])
        s, moments = adam(state["s"], weights * statistic - 1.0, state, here, self.lr)
        return weights, {"s": s, **moments}
