"""Aligned-MTL: gradients turned so that their principal components are equally long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from equipoise.methods.priorities import Priorities, check, check_tasks, resolve


@dataclass(frozen=True)
class AlignedMTL:
    """Aligned-MTL: gradients turned so that their principal components are equally long.

    With M = V diag(l) V', w = sqrt(s) V diag(l^-1/2) V' p: the aligned gradients are orthogonal and of length sqrt(s)
    each. p = a / sum a, 1/T without priorities. Eigenvalues that are rounding (10 T eps of the largest) are left out.

    Args:
        priorities: {task: a_t >= 0} or one a task, relative importance; p is proportional to it.
        scale_mode: what s is of the eigenvalues l: "min", "median" or "rmse" (their mean).

    Raises:
        ValueError: another scale_mode, priorities that are negative or not finite.

    Source: CVPR 2023, algorithm 1 (s = the smallest l); "rmse" is the authors' code, "median" an option there.
    """

    scale_mode: str = "min"
    priorities: Priorities = None
    level: ClassVar[str] = "gradients"
    any_level: ClassVar[bool] = False
    scale: ClassVar[str] = "raw"
    total: ClassVar[str | None] = None
    needs: ClassVar[tuple[str, ...]] = ("present", "tasks")
    solves: ClassVar[bool] = False
    paper: ClassVar[str] = (
        "Senushkin et al., Independent Component Alignment for Multi-Task Learning, CVPR 2023"
    )
    use: ClassVar[str] = (
        "When gradients are badly conditioned as a set; with nearly dependent gradients scale_mode min makes steps very short."
    )

    def __post_init__(self) -> None:
        if self.scale_mode not in ("min", "median", "rmse"):
            raise ValueError(f"scale_mode must be 'min', 'median' or 'rmse', got {self.scale_mode!r}")
        check(self.priorities)

    def init(self, num_tasks: int) -> dict[str, Any]:
        """Return no state."""
        return {}

    def check_tasks(self, tasks: Sequence[str]) -> None:
        """Raise a ValueError for priorities that do not fit the tasks."""
        check_tasks(self.priorities, tasks)

    def __call__(
        self,
        statistic: Tensor,
        state: dict[str, Any],
        *,
        present: Tensor | None = None,
        tasks: Sequence[str] | None = None,
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return the weights [P] float64 for a Gram matrix [P, P]."""
        a = resolve(self.priorities, tasks, present)
        p = (torch.ones(len(statistic), dtype=torch.float64) if a is None else a) / len(statistic)
        values, vectors = torch.linalg.eigh(statistic.double() / statistic.diagonal().max())
        kept = values > values[-1] * 10 * len(values) * torch.finfo(torch.float64).eps
        values, vectors = values[kept], vectors[:, kept]
        s = {"min": values[0], "median": values.median(), "rmse": values.mean()}[self.scale_mode]
        return vectors @ ((s / values).sqrt() * (vectors.T @ p)), state
