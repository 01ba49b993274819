"""BanditMTL: an adversary that weights the worse tasks, within a divergence ball."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from equipoise.methods.learned import check_number, everyone


@dataclass(frozen=True)
class BanditMTL:
    """BanditMTL: an adversary that weights the worse tasks, within a divergence ball.

    Mirror ascent on `sum_t p_t L_t` over `sum_t p_t log(P p_t) <= rho`:
    `p_t ∝ exp((log p_t + eta L_t) / (1 + lambda))`, lambda >= 0 the smallest that keeps p within the ball. The sum is 1. The inner
    maximum is the mean loss plus about sqrt(2 rho) times its deviation over tasks: a variance regulariser.

    Args:
        eta: step size of the ascent. rho: radius of the ball (Kullback-Leibler from uniform); it binds below log P only,
            so the default from four tasks on.

    Raises:
        ValueError: eta or rho out of range.

    Source: ACL-IJCNLP 2021, from memory of the paper's algorithm and not compared with the authors' code; constants
    as in two public ports.
    """

    eta: float = 0.5
    rho: float = 1.2
    level: ClassVar[str] = "losses"
    any_level: ClassVar[bool] = False
    scale: ClassVar[str] = "raw"
    total: ClassVar[str | None] = "one"
    needs: ClassVar[tuple[str, ...]] = ("present",)
    solves: ClassVar[bool] = False
    paper: ClassVar[str] = "Mao, Wang, Liu, Lin, Hu, BanditMTL, ACL-IJCNLP 2021"
    use: ClassVar[str] = "When no task's loss may stay far above the others', at one backward a step."

    def __post_init__(self) -> None:
        check_number("eta", self.eta, 0.0)
        check_number("rho", self.rho, 0.0, strict=False)

    def init(self, num_tasks: int) -> dict[str, Any]:
        """Return log p [T], uniform."""
        return {"log_p": torch.full((num_tasks,), -math.log(num_tasks), dtype=torch.float64)}

    def __call__(
        self, statistic: Tensor, state: dict[str, Any], *, present: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return p [P] for losses [P], after its ascent."""
        here = everyone(statistic, present)
        raised = state["log_p"][here] + self.eta * statistic.double()
        low, high = 0.0, 1.0  # of lambda: bisection, the divergence falls as lambda grows
        while _divergence(raised / (1.0 + high)) > self.rho and high < 1e12:
            low, high = high, 2.0 * high
        if _divergence(raised) <= self.rho:
            low = high = 0.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if _divergence(raised / (1.0 + middle)) > self.rho else (low, middle)
        p = torch.softmax(raised / (1.0 + high), 0)
        log_p = state["log_p"].clone()
        log_p[here] = p.log() + torch.logsumexp(state["log_p"][here], 0)
        return p, {"log_p": log_p}


def _divergence(logits: Tensor) -> float:
    """Return sum_t p_t log(P p_t) of p = softmax(logits)."""
    log_p = torch.log_softmax(logits, 0)
    return float((log_p.exp() * (log_p + math.log(len(logits)))).sum())
