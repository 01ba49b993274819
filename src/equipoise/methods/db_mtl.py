"""DB-MTL: gradients of log losses, averaged over steps, all brought to the longest one's length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from equipoise.methods.learned import check_number


@dataclass(frozen=True)
class DBMTL:
    """DB-MTL: gradients of log losses, averaged over steps, all brought to the longest one's length.

    The tracked row of a task is `y <- g' + beta_k (y - g')`, g' = g / (L + 1e-8) the gradient of the log loss, beta_k = beta / k^sigma,
    y = g' at the first step; `w_t = max_s |y_s| / |y_t|`. T tracked rows, each as large as the shared parameters. Towers step on
    the loss itself. The losses are read before the rows move, so that a device is waited for twice a step.

    Args:
        beta: share of the past. sigma: its decay over step numbers k.

    Raises:
        ValueError: a constant out of range; at a step a loss that is not positive.

    Source: arXiv 2308.12029, sections 3.1 and 3.2; constants as in LibMTL, which starts the average at 0.
    """

    beta: float = 0.9
    sigma: float = 0.0
    level: ClassVar[str] = "gradients"
    any_level: ClassVar[bool] = False
    scale: ClassVar[str] = "raw"
    total: ClassVar[str | None] = None
    needs: ClassVar[tuple[str, ...]] = ()
    solves: ClassVar[bool] = False
    paper: ClassVar[str] = "Lin, Jiang, Ye et al., Dual-Balancing for Multi-Task Learning, arXiv 2308.12029"
    use: ClassVar[str] = "When losses and gradients both differ in size by orders of magnitude."

    def __post_init__(self) -> None:
        check_number("beta", self.beta, 0.0, strict=False)
        check_number("sigma", self.sigma, 0.0, strict=False)
        if self.beta >= 1.0:
            raise ValueError(f"beta must be < 1, got {self.beta!r}")

    def init(self, num_tasks: int) -> dict[str, Any]:
        """Return no state."""
        return {}

    def track(self, row: Tensor | None, gradient: Tensor, loss: float, step: int) -> Tensor:
        """Return the averaged gradient of the log loss, of one tensor."""
        if not loss > 0.0:
            raise ValueError(
                f"losses must be > 0 for DB-MTL, which takes their logarithm, got {loss:g}; add a constant"
            )
        fresh = gradient / (loss + 1e-8)
        return fresh if row is None else torch.lerp(fresh, row, self.beta / step**self.sigma)

    def __call__(self, statistic: Tensor, state: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        """Return max |y| / |y_t| [P] for the Gram matrix [P, P] of tracked rows."""
        norms = statistic.diagonal().sqrt()
        return norms.max() / norms, state
