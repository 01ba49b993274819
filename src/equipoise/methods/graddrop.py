"""GradDrop: entry by entry, only gradients of one sign are kept, drawn by how much they agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor


@dataclass(frozen=True)
class GradDrop:
    """GradDrop: entry by entry, only gradients of one sign are kept, drawn by how much they agree.

    For each entry `p = (1 + sum_t g_t / sum_t |g_t|) / 2`; with u ~ U(0, 1) the positive parts are kept where p > u and the
    negative ones elsewhere: `sum_t (leak + (1 - leak) keep_t) g_t`. A row method: it has no weights, so scale rules do not act
    and `last.weights` is 1. Entries where all agree are the plain sum.

    Args:
        leak: in [0, 1], what always passes; 1 is the plain sum.

    Raises:
        ValueError: leak out of range.

    Source: NeurIPS 2020, algorithm 1 with the identity as transfer function, on parameters' gradients; the paper works on
    activations' gradients, multiplied by the activations' sign and summed over the batch.
    """

    leak: float = 0.0
    level: ClassVar[str] = "gradients"
    any_level: ClassVar[bool] = False
    scale: ClassVar[str] = "raw"
    total: ClassVar[str | None] = "tasks"
    needs: ClassVar[tuple[str, ...]] = ()
    solves: ClassVar[bool] = False
    paper: ClassVar[str] = "Chen, Ngiam, Huang et al., Just Pick a Sign, NeurIPS 2020"
    use: ClassVar[str] = "When conflicts are local to single parameters; a randomised baseline."

    def __post_init__(self) -> None:
        if not 0.0 <= self.leak <= 1.0:
            raise ValueError(f"leak must lie in [0, 1], got {self.leak!r}")

    def init(self, num_tasks: int) -> dict[str, Any]:
        """Return no state."""
        return {}

    def combine(self, rows: Sequence[Tensor], state: dict[str, Any], generator: torch.Generator) -> Tensor:
        """Return the joint row of one tensor from P rows of its shape; random numbers are drawn on the CPU (and copied
        to a device, which waits for it, once a tensor)."""
        stacked = torch.stack([row.to_dense() if row.is_sparse else row for row in rows])
        size = stacked.abs().sum(0)
        agree = torch.where(
            size > 0, (1.0 + stacked.sum(0) / size.where(size > 0, torch.ones_like(size))) / 2, 0.5
        )
        drawn = torch.rand(agree.shape, generator=generator, dtype=agree.dtype).to(agree.device)
        positive = agree > drawn
        kept = torch.where(positive, stacked.clamp_min(0.0), stacked.clamp_max(0.0)).sum(0)
        return self.leak * stacked.sum(0) + (1.0 - self.leak) * kept
