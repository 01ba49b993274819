"""MetaBalance: auxiliary gradients brought towards the length of the primary one's, tensor by tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from equipoise.methods.learned import everyone
from equipoise.methods.priorities import Priorities, check, check_tasks, resolve


@dataclass(frozen=True)
class MetaBalance:
    """MetaBalance: auxiliary gradients brought towards the length of the primary one's, tensor by tensor.

    `m_t <- beta m_t + (1 - beta) |g_t|` from 0, then `w_t = r m_0 / m_t + 1 - r` for auxiliary tasks and 1 for the primary task 0, the one of
    highest priority (the first of those). Each shared tensor has its own norms and weights (`per="tensor"`).

    Args:
        relax: r in [0, 1]: 0 keeps the gradients, 1 gives them the primary one's length. beta: share of the past.
        which: "both", "reduce" (only longer auxiliaries) or "raise" (only shorter ones): the paper's C, A and B.
        priorities: see `equipoise.methods.priorities`; only which task is highest matters.

    Raises:
        ValueError: a constant out of range.

    Source: WWW 2022, algorithm 1 and its strategies; relax and beta are defaults of the authors' code, whose rule is `both`.
    """

    relax: float = 0.7
    beta: float = 0.9
    which: str = "both"
    priorities: Priorities = None
    level: ClassVar[str] = "gradients"
    any_level: ClassVar[bool] = False
    scale: ClassVar[str] = "raw"
    total: ClassVar[str | None] = None
    needs: ClassVar[tuple[str, ...]] = ("present", "tasks")
    solves: ClassVar[bool] = False
    per: ClassVar[str] = "tensor"
    paper: ClassVar[str] = "He, Feng, Cheng et al., MetaBalance, WWW 2022"
    use: ClassVar[str] = (
        "When auxiliary tasks serve one target task in a recommender, and their gradients drown it or vanish."
    )

    def __post_init__(self) -> None:
        if not 0.0 <= self.relax <= 1.0:
            raise ValueError(f"relax must lie in [0, 1], got {self.relax!r}")
        if not 0.0 <= self.beta < 1.0:
            raise ValueError(f"beta must lie in [0, 1), got {self.beta!r}")
        if self.which not in ("both", "reduce", "raise"):
            raise ValueError(f"which must be 'both', 'reduce' or 'raise', got {self.which!r}")
        check(self.priorities)

    def check_tasks(self, tasks: Sequence[str]) -> None:
        """Raise a ValueError for a priority whose task does not exist."""
        check_tasks(self.priorities, tasks)

    def init(self, num_tasks: int) -> dict[str, Any]:
        """Return average norms m [T] = 0."""
        return {"m": torch.zeros(num_tasks, dtype=torch.float64)}

    def __call__(
        self,
        statistic: Tensor,
        state: dict[str, Any],
        *,
        present: Tensor | None = None,
        tasks: Sequence[str] | None = None,
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return the weights [P] for a Gram matrix [P, P]."""
        here, a = everyone(statistic, present), resolve(self.priorities, tasks, present)
        m = state["m"].clone()
        m[here] = self.beta * m[here] + (1.0 - self.beta) * statistic.diagonal().sqrt()
        first = 0 if a is None else int(a.argmax())
        ratio = m[here][first] / m[here]
        if self.which == "reduce":
            ratio = ratio.clamp_max(1.0)
        elif self.which == "raise":
            ratio = ratio.clamp_min(1.0)
        return self.relax * ratio + (1.0 - self.relax), {"m": m}
