"""Geometric loss strategy: the geometric mean of the losses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from equipoise.methods.learned import check_positive


@dataclass(frozen=True)
class GLS:
    """Geometric loss strategy: the geometric mean of the losses.

    The combined loss is `(prod_t L_t)^(1/P)`, so w_t = that / (P L_t): every task counts by its relative change.

    Raises:
        ValueError: a loss that is not positive.

    Source: CVPR Workshops 2019, section 3.
    """

    level: ClassVar[str] = "losses"
    any_level: ClassVar[bool] = False
    scale: ClassVar[str] = "raw"
    total: ClassVar[str | None] = None
    needs: ClassVar[tuple[str, ...]] = ()
    solves: ClassVar[bool] = False
    paper: ClassVar[str] = "Chennupati, Sistu, Yogamani, Rawashdeh, MultiNet++, CVPR Workshops 2019"
    use: ClassVar[str] = (
        "When losses differ in size and each should fall by the same share, without anything to tune."
    )

    def init(self, num_tasks: int) -> dict[str, Any]:
        """Return no state."""
        return {}

    def __call__(self, statistic: Tensor, state: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        """Return (prod L)^(1/P) / (P L_t) [P] for losses [P]."""
        check_positive(statistic, "GLS")
        logs = statistic.double().log()
        return torch.exp(logs.mean() - logs) / len(statistic), state
