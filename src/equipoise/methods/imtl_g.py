"""IMTL-G: the combination of gradients with the same projection on each task's direction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor


@dataclass(frozen=True)
class IMTLG:
    """IMTL-G: the combination of gradients with the same projection on each task's direction.

    `<g_t / |g_t|, u>` is the same for all tasks: w ~ M^-1 |g|, sum w = 1; weights may be negative. Invariant to the
    scale of a task up to the length of u. Where the rows depend on each other M^-1 is the pseudo-inverse; where then
    sum w = 0, there is no such u and all weights are 0.

    Source: ICLR 2021, closed form for independent gradients; the pseudo-inverse is from Quinton, Rey, arXiv 2406.16232,
    appendix.
    """

    level: ClassVar[str] = "gradients"
    any_level: ClassVar[bool] = False
    scale: ClassVar[str] = "raw"
    total: ClassVar[str | None] = "one"
    needs: ClassVar[tuple[str, ...]] = ()
    solves: ClassVar[bool] = False
    paper: ClassVar[str] = "Liu et al., Towards Impartial Multi-task Learning, ICLR 2021"
    use: ClassVar[str] = (
        "When all tasks should move alike whatever their gradients' lengths; not when many gradients nearly agree."
    )

    def init(self, num_tasks: int) -> dict[str, Any]:
        """Return no state."""
        return {}

    def __call__(self, statistic: Tensor, state: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        """Return the weights [P] float64 for a Gram matrix [P, P]."""
        m = statistic.double() / statistic.diagonal().max()
        d = m.diagonal().sqrt()
        unit = m / d[:, None] / d[None, :]
        values = torch.linalg.eigvalsh(unit)
        cut = 10 * len(d) * torch.finfo(torch.float64).eps  # under it an eigenvalue is rounding
        if values[0] > cut * values[-1]:
            w = torch.linalg.solve(unit, torch.ones_like(d)) / d
        else:
            w = torch.linalg.pinv(m, rtol=cut, hermitian=True) @ d
        total = w.sum()
        return w / total if total.abs() > 1e-12 * w.abs().sum() else torch.zeros_like(w), state
