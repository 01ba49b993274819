"""PCD: the step nearest to the primary task's that still helps every secondary one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from equipoise.methods.learned import check_number, everyone
from equipoise.methods.priorities import Priorities, check, check_tasks, resolve
from equipoise.solve import Solution, Status, checked
from equipoise.solve.active import nonnegative


@dataclass(frozen=True)
class PCD:
    """PCD: the step nearest to the primary task's that still helps every secondary one.

    Rows are normalised, `h_t = g_t / sqrt(v_t + eps)`, v the bias-corrected moving average of |g_t|^2. d minimises
    `|d - h_1|^2 / 2` subject to `<h_j, d> >= tau |h_j|^2` for every secondary task j, so `d = h_1 + sum_j mu_j h_j` with mu >= 0 from
    the dual, a nonnegative quadratic program; the joint row is d at the length of g_1. The primary task 1 is the one of
    highest priority, the first of those. Where no step meets every bound the secondary tasks are dropped, w = (1, 0, ...), and
    the status is `stationary`, so that it is seen; the same with weights 0 where d is 0.

    Args:
        tau: in [0, 1], what each secondary task is owed of its own normalised progress.
        beta: decay of the moving average, in [0, 1). eps: added to it.
        priorities: see `equipoise.methods.priorities`; only which task is highest matters.

    Raises:
        ValueError: a constant out of range.

    Source: TMLR 2026 (arXiv 2606.29521); checked against torchjd's implementation.
    """

    tau: float = 0.02
    beta: float = 0.999
    eps: float = 1e-8
    priorities: Priorities = None
    level: ClassVar[str] = "gradients"
    any_level: ClassVar[bool] = False
    scale: ClassVar[str] = "raw"
    total: ClassVar[str | None] = None
    needs: ClassVar[tuple[str, ...]] = ("present", "tasks")
    solves: ClassVar[bool] = False
    paper: ClassVar[str] = "Varam et al., Priority-Constrained Descent, TMLR 2026"
    use: ClassVar[str] = "When one task rules (click first) and the others must not suffer."

    def __post_init__(self) -> None:
        if not 0.0 <= self.tau <= 1.0:
            raise ValueError(f"tau must lie in [0, 1], got {self.tau!r}")
        if not 0.0 <= self.beta < 1.0:
            raise ValueError(f"beta must lie in [0, 1), got {self.beta!r}")
        check_number("eps", self.eps, 0.0, strict=False)
        check(self.priorities)

    def check_tasks(self, tasks: Sequence[str]) -> None:
        """Raise a ValueError for a priority whose task does not exist."""
        check_tasks(self.priorities, tasks)

    def init(self, num_tasks: int) -> dict[str, Any]:
        """Return moving averages [T] of squared norms = 0, and the steps [T] that they have seen."""
        return {name: torch.zeros(num_tasks, dtype=torch.float64) for name in ("v", "steps")}

    def __call__(
        self,
        statistic: Tensor,
        state: dict[str, Any],
        *,
        present: Tensor | None = None,
        tasks: Sequence[str] | None = None,
    ) -> tuple[Solution, dict[str, Any]]:
        """Return a Solution with weights [P] for a Gram matrix [P, P], and the new state.

        `residual` is the largest shortfall of a bound relative to `|h_j| sum |w_t h_t|`.
        """
        here, a = everyone(statistic, present), resolve(self.priorities, tasks, present)
        first = 0 if a is None else int(a.argmax())
        v, steps = state["v"].clone(), state["steps"].clone()
        v[here] = self.beta * v[here] + (1.0 - self.beta) * statistic.diagonal()
        steps[here] += 1
        lengths = (v[here] / (1.0 - self.beta ** steps[here]) + self.eps).sqrt()
        m = checked(statistic / lengths[:, None] / lengths[None, :])
        norms = np.sqrt(m.diagonal())
        others = [t for t in range(len(m)) if t != first]
        w, steps_taken, met = np.zeros(len(m)), 0, True
        w[first] = 1.0
        if others:
            c = m[np.ix_(others, others)] / norms[others][:, None] / norms[others][None, :]
            b = self.tau * norms[others] - m[others, first] / norms[others]
            size = max(float(np.abs(b).max()), 1e-300)
            mu, steps_taken, met = nonnegative(c, b / size)
            w[others] = mu * size / norms[others]
        reach = float(np.abs(w) @ norms)
        short = [(self.tau * m[j, j] - m[j] @ w) / (norms[j] * reach) for j in others]
        residual = max([0.0, *map(float, short)])
        length = float(w @ m @ w)
        status = Status.SOLVED
        if not met or residual > 1e-8:
            status, w = Status.STATIONARY, np.eye(len(m))[first]
            length = m[first, first]
        elif length <= 1e-14 * reach**2:
            status, w, length = Status.STATIONARY, np.zeros(len(m)), 1.0
        scale = np.sqrt(float(statistic[first, first]) / length) / lengths.numpy()
        weights = torch.as_tensor(w * scale)
        return Solution(weights, residual, steps_taken, status), {"v": v, "steps": steps}
