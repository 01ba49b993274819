"""FAMO: equal relative decrease of all losses, from the losses alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from equipoise.methods.learned import adam, begin, check_number, check_positive, everyone


@dataclass(frozen=True)
class FAMO:
    """FAMO: equal relative decrease of all losses, from the losses alone.

    With z = softmax(xi) the combined loss is `sum_t z_t log L_t / c`, c = sum_t z_t / L_t, so w_t = z_t / (c L_t), sum 1.
    After the step xi follows `delta_t = log L_t(before) - log L_t(after)` by Adam along -J' delta, J the Jacobian of the
    softmax, with decay gamma: a task that fell less gets more weight. It needs the losses on the same batch after the step:
    `balancer.step(lambda: model.losses(batch))`, one forward more, and on a device one synchronisation more.

    Args:
        lr: Adam's learning rate for xi. gamma: decay of xi, added to its gradient.

    Raises:
        ValueError: lr or gamma out of range; at a step a loss that is not positive.

    Source: NeurIPS 2023, algorithm 1; constants of the authors' code, whose 1e-8 beside each loss we leave out.
    """

    lr: float = 0.025
    gamma: float = 0.01
    level: ClassVar[str] = "losses"
    any_level: ClassVar[bool] = False
    scale: ClassVar[str] = "raw"
    total: ClassVar[str | None] = "one"
    needs: ClassVar[tuple[str, ...]] = ("present",)
    solves: ClassVar[bool] = False
    paper: ClassVar[str] = "Liu, Feng, Stone, Liu, FAMO: Fast Adaptive Multitask Optimization, NeurIPS 2023"
    use: ClassVar[str] = "When T backward passes are too dear and no task may stand still."

    def __post_init__(self) -> None:
        check_number("lr", self.lr, 0.0)
        check_number("gamma", self.gamma, 0.0, strict=False)

    def init(self, num_tasks: int) -> dict[str, Any]:
        """Return xi [T] = 0 and Adam's moments."""
        return {"xi": torch.zeros(num_tasks, dtype=torch.float64), **begin(num_tasks)}

    def __call__(
        self, statistic: Tensor, state: dict[str, Any], *, present: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return z_t / (c L_t) [P] for losses [P]; xi moves in `observe`."""
        check_positive(statistic, "FAMO")
        z = torch.softmax(state["xi"][everyone(statistic, present)], 0) / statistic
        return z / z.sum(), state

    def observe(
        self, state: dict[str, Any], before: Tensor, after: Tensor, *, present: Tensor
    ) -> dict[str, Any]:
        """Return the state after xi's step, from losses [P] before and after the parameters'."""
        check_positive(after, "FAMO")
        xi = state["xi"][present]
        z, delta = torch.softmax(xi, 0), before.log() - after.log()
        gradient = z * (delta - (z * delta).sum()) + self.gamma * xi
        moved, moments = adam(state["xi"], gradient, state, present, self.lr)
        return {"xi": moved, **moments}
