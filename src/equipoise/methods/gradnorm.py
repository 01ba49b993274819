"""GradNorm: weights that bring the tasks' gradient norms to their training speed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from equipoise.methods.learned import adam, begin, check_number, check_positive, everyone


@dataclass(frozen=True)
class GradNorm:
    """GradNorm: weights that bring the tasks' gradient norms to their training speed.

    Weights are learned by Adam on `sum_t |w_t |g_t| - target_t|`, target_t = mean_s(w_s |g_s|) * (r_t / mean r)^alpha held fixed,
    r_t = L_t / L_t(first step), then brought back to sum w = P. |g_t|^2 is the diagonal of the Gram matrix over all shared
    parameters (at another level: of its rows); the paper takes the last shared layer.

    Args:
        alpha: how strongly slower tasks are pulled. lr: Adam's learning rate for w.

    Raises:
        ValueError: alpha or lr out of range; at a step a loss that is not positive.

    Source: ICML 2018, equations 1 and 2; weights are kept above 1e-6, where the paper says nothing.
    """

    alpha: float = 1.5
    lr: float = 0.025
    level: ClassVar[str] = "gradients"
    any_level: ClassVar[bool] = False
    scale: ClassVar[str] = "raw"
    total: ClassVar[str | None] = "tasks"
    needs: ClassVar[tuple[str, ...]] = ("losses", "present")
    solves: ClassVar[bool] = False
    paper: ClassVar[str] = "Chen, Badrinarayanan, Lee, Rabinovich, GradNorm, ICML 2018"
    use: ClassVar[str] = (
        "When one task's gradients are much longer and you want learned weights that change slowly."
    )

    def __post_init__(self) -> None:
        check_number("alpha", self.alpha, 0.0, strict=False)
        check_number("lr", self.lr, 0.0)

    def init(self, num_tasks: int) -> dict[str, Any]:
        """Return w [T] = 1, first losses [T] (0: not seen) and Adam's moments."""
        zeros = torch.zeros(num_tasks, dtype=torch.float64)
        return {"w": torch.ones_like(zeros), "first": zeros, **begin(num_tasks)}

    def __call__(
        self,
        statistic: Tensor,
        state: dict[str, Any],
        *,
        losses: Tensor,
        present: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return w [P], sum P, for a Gram matrix [P, P] and losses [P]."""
        check_positive(losses, "GradNorm")
        here = everyone(statistic, present)
        first = state["first"].clone()
        first[here] = torch.where(first[here] > 0, first[here], losses)
        norms = statistic.diagonal().sqrt()
        norms = norms / norms.mean()
        w = state["w"][here] * (len(norms) / state["w"][here].sum())
        speed = losses / first[here]
        target = (w * norms).mean() * (speed / speed.mean()) ** self.alpha
        gradient = torch.sign(w * norms - target) * norms
        learned, moments = adam(state["w"], gradient, state, here, self.lr)
        return w, {"w": learned.clamp_min(1e-6), "first": first, **moments}
