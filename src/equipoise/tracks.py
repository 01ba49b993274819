"""What a method keeps of each task's gradients from step to step: tracked rows, and Adagrad's sums of squares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from equipoise.gradients import TaskGradient
from equipoise.layout import Layout
from equipoise.transfer import to_host
from equipoise.updates.rows import dense

Held = dict[str, dict[int, Tensor]]
EPS = 1e-7
"""Added to ExcessMTL's sums of squares under the root, as its authors do: an entry that was always 0 counts for nothing."""


class Tracks:
    """Tensors of the shape of the shared parameters, one set a task: T times their memory.

    Only methods that ask for it make any: `track` (MoCo, DB-MTL) or `excess` in `needs` (ExcessMTL).
    """

    def __init__(self, layout: Layout, method: Any) -> None:
        self.layout, self.method = layout, method
        self.rows: Held = {}
        self.squares: Held = {}

    def replace(self, present: Mapping[str, TaskGradient], losses: Tensor, step: int) -> None:
        """Replace each present task's shared gradient by its tracked row, in place, where the method tracks rows.

        Args:
            losses: [P], on the CPU. step: number of the step, from 1.
        """
        if not hasattr(self.method, "track"):
            return
        for loss in losses.tolist():  # one that the method refuses is refused before any row moves
            self.method.track(None, losses.new_zeros(1), loss, step)
        for (name, task), loss in zip(present.items(), losses.tolist(), strict=True):
            held = self.rows.setdefault(name, {})
            for at, (position, p) in enumerate(
                zip(self.layout.shared or (), self.layout.shared_parameters(), strict=True)
            ):
                row = self.method.track(held.get(position), dense(task.shared[at], p), loss, step)
                held[position] = task.shared[at] = row

    def excess(self, present: Mapping[str, TaskGradient]) -> Tensor:
        """Return [P] float64 `<g_t, u_t>`, u_t = g_t / sqrt(sum of squares so far + eps), and add this step's squares.

        On the CPU, by one transfer.

        Source: ExcessMTL (ICML 2024), its diagonal estimate of the excess risk.
        """
        found = []
        for name, task in present.items():
            held, total = self.squares.setdefault(name, {}), task.loss.new_zeros((), dtype=torch.float64)
            for at, (position, p) in enumerate(
                zip(self.layout.shared or (), self.layout.shared_parameters(), strict=True)
            ):
                g = dense(task.shared[at], p)
                squares = g * g if position not in held else held[position] + g * g
                held[position] = squares
                total = total + (g * g / (squares + EPS).sqrt()).double().sum().to(total.device)
            found.append(total)
        return to_host([torch.stack(found)])[0]

    def state_dict(self) -> dict[str, Any]:
        """Return {"rows" and "squares": {task: {position: tensor}}}, positions as text."""
        return {
            kind: {task: {str(i): v for i, v in held.items()} for task, held in found.items()}
            for kind, found in (("rows", self.rows), ("squares", self.squares))
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.rows, self.squares = (
            {task: {int(i): v for i, v in held.items()} for task, held in state[kind].items()}
            for kind in ("rows", "squares")
        )
