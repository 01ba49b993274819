"""Random loss weighting: weights drawn anew each step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor


@dataclass(frozen=True)
class RLW:
    """Random loss weighting: weights drawn anew each step.

    `w = softmax(z)`, z ~ N(0, I); the sum is 1. A strong and free baseline: what a method gains over it is due to more than
    noise.

    Source: TMLR 2022, its normal distribution.
    """

    level: ClassVar[str] = "losses"
    any_level: ClassVar[bool] = False
    scale: ClassVar[str] = "raw"
    total: ClassVar[str | None] = "one"
    needs: ClassVar[tuple[str, ...]] = ("generator",)
    solves: ClassVar[bool] = False
    paper: ClassVar[str] = "Lin, Ye, Zhang, Tsang, Reasonable Effectiveness of Random Weighting, TMLR 2022"
    use: ClassVar[str] = "As a sanity check: a method that does not beat it gains from noise."

    def init(self, num_tasks: int) -> dict[str, Any]:
        """Return no state."""
        return {}

    def __call__(
        self, statistic: Tensor, state: dict[str, Any], *, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return softmax of P normal numbers; the losses [P] are not looked at."""
        drawn = torch.randn(len(statistic), generator=generator, dtype=torch.float64)
        return torch.softmax(drawn, 0), state
