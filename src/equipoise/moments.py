"""Slots that the peeks read: the optimizer's own, or one set a task (AdaTask, Yang et al., AAAI 2023)."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from equipoise.layout import Layout
from equipoise.updates.rows import Shared

Slots = dict[str, Any]


class TaskMoments:
    """One set of optimizer slots a task for each shared parameter, held beside the optimizer.

    T sets cost T times the memory of the optimizer's own. They start as copies of the optimizer's slots, so a run may
    change to per-task moments at any step.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.states: dict[str, dict[int, Slots]] = {}
        for optimizer in layout.optimizers:
            optimizer.register_state_dict_pre_hook(lambda _: self.publish())

    def slots(self, tasks: Sequence[str], position: int, shared: Shared) -> list[Slots]:
        """Return the tasks' slots of the parameter at `position`, copied from the optimizer's when new."""
        return [
            self.states.setdefault(task, {}).setdefault(position, copy.deepcopy(dict(shared.state)))
            for task in tasks
        ]

    def publish(self) -> None:
        """Write the tasks' mean into the optimizer's slots: an approximation, for a run that goes on without us."""
        for position, shared in zip(self.layout.shared or (), self.layout.bind(), strict=True):
            mean = mean_slots([slots[position] for slots in self.states.values() if position in slots])
            if mean:
                shared.optimizer.state[shared.parameter] = mean

    def state_dict(self) -> dict[str, dict[str, Slots]]:
        """Return {task: {position: slots}}, positions as text. Copies: the slots move in place."""
        return {
            task: {str(i): copy.deepcopy(s) for i, s in slots.items()} for task, slots in self.states.items()
        }

    def load_state_dict(self, state: Mapping[str, Mapping[str, Slots]]) -> None:
        """Restore what `state_dict` returned."""
        self.states = {task: {int(i): dict(s) for i, s in slots.items()} for task, slots in state.items()}


def mean_slots(states: Sequence[Mapping[str, Any]]) -> Slots:
    """Return the mean of each floating slot, the largest step counter, the first of anything else; {} of none."""
    begun = [state for state in states if state]
    mean: Slots = {}
    for name, value in begun[0].items() if begun else ():
        values = [state[name] for state in begun]
        if name == "step":
            largest = max(values, key=float)
            mean[name] = largest.clone() if isinstance(largest, Tensor) else largest
        elif isinstance(value, Tensor) and value.is_floating_point():
            mean[name] = torch.stack(values).mean(0)
        else:
            mean[name] = value
    return mean
