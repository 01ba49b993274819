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
    change to per-task moments at any step. The optimizer's own slots stay as they are; what its `state_dict` returns holds
    the tasks' mean instead, as long as nobody else has moved or loaded its slots since.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.states: dict[str, dict[int, Slots]] = {}
        self._marks: dict[int, list[tuple[Any, int]]] = {}
        for optimizer in layout.optimizers:
            optimizer.register_state_dict_post_hook(self.publish)

    def slots(self, tasks: Sequence[str], position: int, shared: Shared) -> list[Slots]:
        """Return the tasks' slots of the parameter at `position`, copied from the optimizer's when new."""
        self._marks[position] = _mark(shared.state)
        return [
            self.states.setdefault(task, {}).setdefault(position, copy.deepcopy(dict(shared.state)))
            for task in tasks
        ]

    def publish(self, optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
        """Put the tasks' mean into what the optimizer saves: an approximation, for a run that goes on without us.

        A hook of torch's `state_dict`; changes `saved` alone. Slots that a plain step, another Balancer or a load has
        changed since our last step are newer than ours, and stay.
        """
        groups = zip(optimizer.param_groups, saved["param_groups"], strict=True)
        numbers = {
            id(p): number
            for group, named in groups
            for p, number in zip(group["params"], named["params"], strict=True)
        }
        for position, shared in zip(self.layout.shared or (), self.layout.bind(), strict=True):
            mark = self._marks.get(position)
            if shared.optimizer is not optimizer or (mark is not None and not _same(mark, shared.state)):
                continue
            mean = mean_slots([slots[position] for slots in self.states.values() if position in slots])
            if mean:
                saved["state"][numbers[id(shared.parameter)]] = mean

    def state_dict(self) -> dict[str, dict[str, Slots]]:
        """Return {task: {position: slots}}, positions as text. Copies: the slots move in place."""
        return {
            task: {str(i): copy.deepcopy(s) for i, s in slots.items()} for task, slots in self.states.items()
        }

    def load_state_dict(self, state: Mapping[str, Mapping[str, Slots]]) -> None:
        """Restore what `state_dict` returned."""
        self.states = {task: {int(i): dict(s) for i, s in slots.items()} for task, slots in state.items()}
        self._marks = {}


def _mark(slots: Mapping[str, Any]) -> list[tuple[Any, int]]:
    """Return each slot with its version, which torch counts up at every change in place."""
    return [(value, value._version if isinstance(value, Tensor) else 0) for value in slots.values()]


def _same(mark: Sequence[tuple[Any, int]], slots: Mapping[str, Any]) -> bool:
    """Whether the slots are still those of the mark, none replaced and none changed in place."""
    now = _mark(slots)
    return len(now) == len(mark) and all(a is b and m == n for (a, m), (b, n) in zip(mark, now, strict=True))


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
