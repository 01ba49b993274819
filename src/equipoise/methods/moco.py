"""MoCo: the min-norm direction of tracked gradients, by one simplex step at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from equipoise.methods.learned import check_number, everyone
from equipoise.methods.simplex_step import on_simplex


@dataclass(frozen=True)
class MoCo:
    """MoCo: the min-norm direction of tracked gradients, by one simplex step at a time.

    Each task's gradient is tracked, `y <- y + beta_k (g - y)` from 0, beta_k = beta / k^sigma; the weights take a step down
    the norm of the joint row, `w <- P(w - gamma_k (Y Y' + rho I) w)`, P the projection on the simplex, gamma_k = gamma / k^sigma. The
    tracked rows are mixed: T of them, each as large as the shared parameters. Who is present is read before they move, so that a
    device is waited for twice a step.

    Args:
        beta, gamma, rho: step sizes and damping. sigma: decay of the steps over step numbers k.

    Raises:
        ValueError: a constant out of range.

    Source: ICLR 2023, algorithm 1; the decay and the constants are those of LibMTL, whose softmax in place of the projection
    and whose scaling of gradients by loss over norm we leave out.
    """

    beta: float = 0.5
    gamma: float = 0.1
    rho: float = 0.0
    sigma: float = 0.5
    level: ClassVar[str] = "gradients"
    any_level: ClassVar[bool] = False
    scale: ClassVar[str] = "raw"
    total: ClassVar[str | None] = "one"
    needs: ClassVar[tuple[str, ...]] = ("present", "step")
    solves: ClassVar[bool] = False
    paper: ClassVar[str] = (
        "Fernando, Shen, Liu et al., Mitigating Gradient Bias in Multi-objective Learning, ICLR 2023"
    )
    use: ClassVar[str] = (
        "When small batches make the min-norm weights noisy and T more rows of memory are at hand."
    )

    def __post_init__(self) -> None:
        check_number("beta", self.beta, 0.0)
        check_number("gamma", self.gamma, 0.0)
        check_number("rho", self.rho, 0.0, strict=False)
        check_number("sigma", self.sigma, 0.0, strict=False)

    def init(self, num_tasks: int) -> dict[str, Any]:
        """Return w [T], uniform."""
        return {"w": torch.full((num_tasks,), 1.0 / num_tasks, dtype=torch.float64)}

    def track(self, row: Tensor | None, gradient: Tensor, loss: float, step: int) -> Tensor:
        """Return `y + beta_k (g - y)` of one tensor, y = 0 at the first."""
        beta = min(1.0, self.beta / step**self.sigma)
        return gradient * beta if row is None else torch.lerp(row, gradient, beta)

    def __call__(
        self, statistic: Tensor, state: dict[str, Any], *, step: int = 1, present: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return w [P], sum 1, after its step on the Gram matrix [P, P] of tracked rows."""
        here = everyone(statistic, present)
        w = state["w"][here]
        w = w / w.sum() if float(w.sum()) > 0 else torch.full_like(w, 1.0 / len(w))
        slope = statistic @ w + self.rho * w
        found = on_simplex(w - self.gamma / step**self.sigma * slope)
        kept = state["w"].clone()
        kept[here] = found * (state["w"][here].sum() if float(state["w"][here].sum()) > 0 else 1.0)
        return found, {"w": kept}
