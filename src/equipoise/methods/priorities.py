"""Task priorities: one argument with one meaning for every method that has a published way to take them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

Priorities = Mapping[str, float] | Sequence[float] | None
"""Relative importance a_t >= 0 by task name (a task that is not named has 1) or one a task; None: all alike."""


def resolve(priorities: Priorities, tasks: Sequence[str] | None, present: Tensor | None) -> Tensor | None:
    """Return the priorities [P] float64 of the present tasks, mean 1; None where all tasks count alike.

    Only ratios matter. Where every present task has priority 0 they count alike.

    Args:
        priorities: as the method got them.
        tasks: names of the P present tasks; needed when priorities go by name.
        present: bool [T], which of all tasks are present; default all. Used when they go by position.

    Raises:
        ValueError: priorities by name without `tasks`.

    Example:
        >>> resolve({"like": 3.0}, ("click", "like"), None).tolist()
        [0.5, 1.5]
    """
    if priorities is None:
        return None
    if isinstance(priorities, Mapping):
        if tasks is None:
            raise ValueError("tasks must name the present tasks when priorities go by name, got None")
        values = torch.tensor([float(priorities.get(name, 1.0)) for name in tasks], dtype=torch.float64)
    else:
        values = torch.tensor([float(a) for a in priorities], dtype=torch.float64)
        values = values if present is None else values[present]
    total = float(values.sum())
    return values * (len(values) / total) if total > 0 else torch.ones_like(values)


def check(priorities: Priorities) -> None:
    """Raise a ValueError for a priority that is negative or not finite, or when all are 0."""
    if priorities is None:
        return
    values = list(priorities.values() if isinstance(priorities, Mapping) else priorities)
    for value in values:
        if not math.isfinite(value) or value < 0:
            raise ValueError(f"priorities must be finite numbers >= 0, got {value!r}")
    if not isinstance(priorities, Mapping) and not any(values):
        raise ValueError("priorities must hold at least one number > 0, got none")


def check_tasks(priorities: Priorities, tasks: Sequence[str]) -> None:
    """Raise a ValueError for a priority whose task does not exist, or a sequence of another length than `tasks`."""
    if isinstance(priorities, Mapping):
        if unknown := [name for name in priorities if name not in tasks]:
            raise ValueError(f"priorities has the unknown task {unknown[0]!r}; tasks are {list(tasks)}")
    elif priorities is not None and len(priorities) != len(tasks):
        raise ValueError(
            f"priorities must hold one number for each of the {len(tasks)} tasks, got {len(priorities)}"
        )
