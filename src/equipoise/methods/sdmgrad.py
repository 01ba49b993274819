"""SDMGrad: a regularised min-norm direction from two independent batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from equipoise.methods.learned import check_number, everyone
from equipoise.methods.priorities import Priorities, check, check_tasks, resolve
from equipoise.methods.simplex_step import on_simplex


@dataclass(frozen=True)
class SDMGrad:
    """SDMGrad: a regularised min-norm direction from two independent batches.

    `w` descends `<G_1 w, G_2 (w + lam a)>` over the simplex: projected steps with momentum on `C (w + lam a)`, C = G_1' G_2 from
    two `backward` calls kept apart, so that the product of expectations is estimated without bias, over the squared mean
    of the roots of its diagonal; a the priorities with sum 1. The joint gradient is `G (w + lam a) / (1 + lam)`, G the mean of both
    calls. lam = 0 is MGDA, lam to infinity the mean. On a device C is a second synchronisation.

    Args:
        lam: pull towards the priorities' mean. steps: a solve's projected steps, from the last weights.
        lr, momentum: of these steps. priorities: see `equipoise.methods.priorities`; the paper's preference direction.

    Raises:
        ValueError: a constant out of range; at a step another number of `backward` calls than two.

    Source: NeurIPS 2023, algorithm 1 with its double sampling, constants of the authors' experiments; weights checked against
    torchjd. The paper takes a third batch for the joint gradient, we the mean of the two.
    """

    lam: float = 0.3
    steps: int = 20
    lr: float = 10.0
    momentum: float = 0.5
    priorities: Priorities = None
    level: ClassVar[str] = "gradients"
    any_level: ClassVar[bool] = False
    scale: ClassVar[str] = "raw"
    total: ClassVar[str | None] = "one"
    needs: ClassVar[tuple[str, ...]] = ("cross", "present", "tasks")
    solves: ClassVar[bool] = False
    paper: ClassVar[str] = "Xiao, Ban, Ji, Direction-oriented Multi-objective Learning, NeurIPS 2023"
    use: ClassVar[str] = (
        "When min-norm weights shall be free of the bias of one small batch; twice the backward passes on halves."
    )

    def __post_init__(self) -> None:
        check_number("lam", self.lam, 0.0, strict=False)
        check_number("steps", self.steps, 1, strict=False)
        check_number("lr", self.lr, 0.0)
        if not 0.0 <= self.momentum < 1.0:
            raise ValueError(f"momentum must lie in [0, 1), got {self.momentum!r}")
        check(self.priorities)

    def check_tasks(self, tasks: Sequence[str]) -> None:
        """Raise a ValueError for a priority whose task does not exist."""
        check_tasks(self.priorities, tasks)

    def init(self, num_tasks: int) -> dict[str, Any]:
        """Return w [T], uniform."""
        return {"w": torch.full((num_tasks,), 1.0 / num_tasks, dtype=torch.float64)}

    def __call__(
        self,
        statistic: Tensor,
        state: dict[str, Any],
        *,
        cross: Tensor,
        present: Tensor | None = None,
        tasks: Sequence[str] | None = None,
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return (w + lam a) / (1 + lam) [P] for `cross` [P, P]; the Gram matrix itself is not looked at."""
        here, num = everyone(statistic, present), len(statistic)
        a = resolve(self.priorities, tasks, present)
        a = torch.full((num,), 1.0 / num, dtype=torch.float64) if a is None else a / num
        before = state["w"][here]
        w = before if num == len(here) else on_simplex(before)
        size = float(cross.diagonal().clamp_min(0.0).sqrt().mean()) ** 2
        c = cross / size if size > 0.0 else cross
        velocity = torch.zeros_like(w)
        for _ in range(self.steps):
            velocity = self.momentum * velocity + c @ (w + self.lam * a)
            w = on_simplex(w - self.lr * velocity)
        kept = state["w"].clone()
        kept[here] = w * before.sum()
        return (w + self.lam * a) / (1.0 + self.lam), {"w": kept}
