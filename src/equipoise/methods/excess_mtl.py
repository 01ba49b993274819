"""ExcessMTL: weight for the tasks that are furthest from their own optimum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from equipoise.methods.learned import check_number, everyone


@dataclass(frozen=True)
class ExcessMTL:
    """ExcessMTL: weight for the tasks that are furthest from their own optimum.

    `w_t <- w_t exp(eta e_t)`, brought to sum w = P; e_t is the task's excess risk, estimated by `<g_t, u_t>` with the update u_t of
    a per-task Adagrad, over its first value. A task whose labels are noisy has a large loss but a small excess, and is not
    chased. Who is present is read before the sums of squares move, so that a device is waited for twice a step.

    Args:
        eta: step size of the weights.

    Raises:
        ValueError: eta is not positive.

    Source: ICML 2024, algorithm 1 and its diagonal estimate (its section 3.2 divides by the first value; the authors' code,
    and torchjd with it, takes the very first excess undivided, which we do not follow); one backward a task, T sums of squares of the shared parameters.
    """

    eta: float = 0.01
    level: ClassVar[str] = "losses"
    any_level: ClassVar[bool] = False
    scale: ClassVar[str] = "raw"
    total: ClassVar[str | None] = "tasks"
    statistic: ClassVar[str] = "excess"
    needs: ClassVar[tuple[str, ...]] = ("present",)
    solves: ClassVar[bool] = False
    paper: ClassVar[str] = "He, Zhou, Zhang, Zhao, Robust Multi-Task Learning with Excess Risks, ICML 2024"
    use: ClassVar[str] = "When some labels are noisy and weights by loss would chase them."

    def __post_init__(self) -> None:
        check_number("eta", self.eta, 0.0)

    def init(self, num_tasks: int) -> dict[str, Any]:
        """Return w [T] = 1 and the first excess [T] (0: not seen)."""
        zeros = torch.zeros(num_tasks, dtype=torch.float64)
        return {"w": torch.ones_like(zeros), "first": zeros}

    def __call__(
        self,
        statistic: Tensor,
        state: dict[str, Any],
        *,
        present: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return w [P], sum P, for the excess risks [P] of the present tasks: its statistic is `<g_t, u_t>`, not the losses."""
        here, excess = everyone(statistic, present), statistic
        first, w = state["first"].clone(), state["w"].clone()
        first[here] = torch.where(first[here] > 0, first[here], excess)
        relative = excess / first[here].clamp_min(torch.finfo(torch.float64).tiny)
        raised = w[here].log() + self.eta * relative
        w[here] = torch.softmax(raised, 0) * w[here].sum()
        return w[here] * (len(excess) / w[here].sum()), {"w": w, "first": first}
