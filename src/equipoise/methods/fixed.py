"""Fixed weights: the user's own, a weighted sum of losses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor


@dataclass(frozen=True)
class Fixed:
    """w_t as given, by task name or in the order of tasks; ones without an argument.

    The weights act on the shared parameters; towers keep their own task's plain step.

    Args:
        weights: {task: w_t >= 0} (tasks that are not named get 1) or a sequence with one weight a task.

    Raises:
        ValueError: a weight that is negative or not finite; at the first step a task that does not exist, or a
            sequence of another length than the tasks.

    Example:
        >>> Fixed({"like": 10.0})(torch.ones(2), {}, tasks=("click", "like"))[0].tolist()
        [1.0, 10.0]
    """

    weights: Mapping[str, float] | Sequence[float] | None = None
    level: ClassVar[str] = "losses"
    any_level: ClassVar[bool] = True
    scale: ClassVar[str] = "raw"
    total: ClassVar[str | None] = "given"
    needs: ClassVar[tuple[str, ...]] = ("present", "tasks")
    solves: ClassVar[bool] = False
    paper: ClassVar[str] = "linear scalarisation with tuned weights"
    use: ClassVar[str] = (
        "When you know what a task is worth, or tune it on validation: tuned scalarisation is a strong baseline."
    )

    def __post_init__(self) -> None:
        values = self.weights.values() if isinstance(self.weights, Mapping) else self.weights or ()
        for value in values:
            if not math.isfinite(value) or value < 0:
                raise ValueError(f"weights must be finite numbers >= 0, got {value!r}")

    def init(self, num_tasks: int) -> dict[str, Any]:
        """Return no state; ValueError when a sequence has not one weight a task."""
        if (
            self.weights is not None
            and not isinstance(self.weights, Mapping)
            and len(self.weights) != num_tasks
        ):
            raise ValueError(
                f"weights must hold one number for each of the {num_tasks} tasks, got {len(self.weights)}"
            )
        return {}

    def check_tasks(self, tasks: Sequence[str]) -> None:
        """Raise a ValueError for a weight whose task does not exist."""
        if isinstance(self.weights, Mapping) and (
            unknown := [name for name in self.weights if name not in tasks]
        ):
            raise ValueError(f"weights has the unknown task {unknown[0]!r}; tasks are {list(tasks)}")

    def __call__(
        self,
        statistic: Tensor,
        state: dict[str, Any],
        *,
        present: Tensor | None = None,
        tasks: Sequence[str] | None = None,
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return the weights [P] of the present tasks.

        Args:
            statistic: [P] or [P, P]; only its length is used.
            present: bool [T], which of all tasks are present; default all.
            tasks: names of the P present tasks, needed when weights go by name.
        """
        if self.weights is None:
            return torch.ones(len(statistic), dtype=torch.float64), state
        if isinstance(self.weights, Mapping):
            if tasks is None:
                raise ValueError("tasks must name the present tasks when weights go by name, got None")
            return torch.tensor(
                [float(self.weights.get(name, 1.0)) for name in tasks], dtype=torch.float64
            ), state
        every = torch.tensor([float(w) for w in self.weights], dtype=torch.float64)
        return every if present is None else every[present], state
