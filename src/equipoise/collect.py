"""Losses -> what a step knows of each task before it is weighed: gradients, and which tasks take part."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from equipoise.gradients import (
    CheckedLosses,
    Gradients,
    TaskGradient,
    all_zero,
    gradients,
    sum_of_squares,
    sum_weighted,
)
from equipoise.layout import Layout
from equipoise.transfer import Waiting


@dataclass
class Collected:
    """The `backward` calls of one step.

    Attributes:
        tasks: {task: its gradient}, means over the calls.
        calls: shared gradients of each call apart, {task: gradients}, where the method asks for them.
        losses: {task: (mean loss, sum of counts)} over the calls.
        weighted: the gradient of the weighted loss, on steps whose weights were known before the backward.
        used: tasks in `weighted`. bad: tasks left out for NaN or Inf.
    """

    tasks: dict[str, TaskGradient] = field(default_factory=dict)
    calls: list[dict[str, Gradients]] = field(default_factory=list)
    losses: dict[str, tuple[Tensor, float]] = field(default_factory=dict)
    weighted: TaskGradient | None = None
    used: set[str] = field(default_factory=set)
    bad: set[str] = field(default_factory=set)

    def see(self, checked: CheckedLosses) -> None:
        """Fold the losses of one call into their means."""
        for name, loss in checked.values.items():
            mean, total = self.losses.get(name, (loss.detach(), 0.0))
            total += checked.counts[name]
            self.losses[name] = (mean + (loss.detach() - mean) * (checked.counts[name] / total), total)

    def note(self, name: str, shared: Gradients, own: Gradients, checked: CheckedLosses) -> None:
        """Fold one task's gradient of one call into its mean."""
        loss, count = checked.values[name].detach(), checked.counts[name]
        if name in self.tasks:
            self.tasks[name].add(shared, own, loss, count)
        else:
            self.tasks[name] = TaskGradient(shared, own, loss, count)


def collect_each(
    collected: Collected,
    layout: Layout,
    checked: CheckedLosses,
    num_tasks: int,
    keep_calls: bool,
    keep_graph: bool = False,
) -> None:
    """Run one `autograd.grad` a task into the shared and all other parameters; the first call finds `shared=None`.

    Raises:
        ValueError: a loss whose graph reaches no shared parameter.
    """
    if layout.shared is None:
        candidates = layout.own()
        found = _each(checked, layout.pick(candidates), keep_graph)
        layout.shared = layout.find_shared(found, num_tasks)
    else:
        candidates = [*layout.shared, *layout.own()]
        found = _each(checked, layout.pick(candidates), keep_graph)
    call: dict[str, Gradients] = {}
    for name, every in found.items():
        layout.check_rows(candidates, every)
        by_position = dict(zip(candidates, every, strict=True))
        shared = [by_position[i] for i in layout.shared]
        if all(g is None for g in shared):
            raise ValueError(
                f"losses[{name!r}] must reach at least one shared parameter, its graph reaches none; check `shared`, or "
                "a detach() on the way"
            )
        call[name] = shared
        collected.note(name, shared, [by_position[i] for i in layout.own()], checked)
    if keep_calls:
        collected.calls.append(call)
    layout.note_owners(collected.tasks)


def _each(checked: CheckedLosses, parameters: Sequence[Tensor], keep_graph: bool) -> dict[str, Gradients]:
    """Return {task: gradients}; the last task's backward frees the activations unless the graph is to be kept."""
    last = next(reversed(checked.values), None)
    return {
        name: gradients(loss, parameters, keep_graph or name != last, checked.scale)
        for name, loss in checked.values.items()
    }


class Near(NamedTuple):
    """The tasks' gradients near the losses, and whether they are any.

    `rows` and `own`: {task: gradients}, at what was asked for (zeros where the loss does not reach) and of the own
    parameters. `numbers`: [P, 2], the rows' sum of squares, and the loss plus those of rows and own gradients.
    """

    rows: dict[str, list[Tensor]]
    own: dict[str, Gradients]
    numbers: Waiting


def collect_near(layout: Layout, checked: CheckedLosses, near: Sequence[Tensor], what: str) -> Near:
    """Run one `autograd.grad` a task down to `near`, not further, and into the own parameters. Nothing is read.

    `near` is the shared representation, or the parameters of a sketch. The gradients of the shared parameters are left to
    `collect_weighted`.

    Raises:
        ValueError: a loss whose graph does not reach any of `near`.
    """
    rows: dict[str, list[Tensor]] = {}
    owns: dict[str, Gradients] = {}
    numbers = []
    for name, loss in checked.values.items():
        found = gradients(loss, [*near, *layout.pick(layout.own())], scale=checked.scale)
        there, own = found[: len(near)], found[len(near) :]
        if all(g is None for g in there):
            raise ValueError(
                f"losses[{name!r}] must reach the {what}, its graph does not; pass the tensor that every tower reads as "
                "`representation`, or gram=[...] with parameters that every task reaches"
            )
        layout.check_rows(layout.own(), own)
        like = loss.detach()
        squares = sum_of_squares(there, like)
        numbers += [squares.double(), (like + squares + sum_of_squares(own, like)).double()]
        rows[name] = [torch.zeros_like(v) if g is None else g for g, v in zip(there, near, strict=True)]
        owns[name] = own
    device = numbers[0].device if numbers else None
    stacked = torch.stack([n.to(device) for n in numbers]) if numbers else torch.zeros(0)
    return Near(rows, owns, Waiting(stacked.view(-1, 2)))


def note_near(
    collected: Collected, layout: Layout, checked: CheckedLosses, near: Near, read: bool
) -> dict[str, list[Tensor]]:
    """Collect the own gradients of the tasks that take part, in place, and return the rows of these.

    A task whose rows are exactly 0, or not finite, is left out; the latter is noted.

    Args:
        read: synchronises, unless the numbers came with another transfer; without it all tasks take part.
    """
    nothing: Gradients = [None] * len(layout.shared or ())
    numbers = near.numbers.read().tolist() if read else [(1.0, 0.0)] * len(near.rows)
    found = {}
    for (name, rows), (squares, total) in zip(near.rows.items(), numbers, strict=True):
        if not math.isfinite(total):
            collected.bad.add(name)
        elif squares > 0.0 or not all_zero(rows):
            found[name] = rows
            collected.note(name, nothing, near.own[name], checked)
    layout.note_owners(collected.tasks)
    return found


def collect_weighted(
    collected: Collected,
    layout: Layout,
    checked: CheckedLosses,
    weights: Mapping[str, float],
    own_known: bool,
    keep_graph: bool = False,
) -> None:
    """Run one backward of `sum_t w_t loss_t` over the tasks that have a weight; the others are left out.

    Unless the own gradients are known already they come from it too: divided by w_t, so that towers keep their step; a
    task of weight 0 gets a backward into its own parameters.
    """
    used = [name for name in checked.values if name in weights]
    if not used:
        return
    collected.used.update(used)
    own = [] if own_known else layout.own()
    weighted = [name for name in used if weights[name] != 0.0]
    num_shared = len(layout.shared or ())
    shared_g: Gradients = [None] * num_shared
    own_g: Gradients = [None] * len(own)
    if weighted:
        total = torch.stack([checked.values[name] * weights[name] for name in weighted]).sum()
        last = own_known or len(weighted) == len(used)
        every = [*layout.shared_parameters(), *layout.pick(own)]
        found = gradients(total, every, keep_graph or not last, checked.scale)
        layout.check_rows([*(layout.shared or ()), *own], found)
        shared_g = found[:num_shared]
        for at, g in enumerate(found[num_shared:]):
            own_g[at] = None if g is None else g / weights[layout.owner(own[at])]
    for name in used:
        if name not in weighted and own:
            for at, g in enumerate(gradients(checked.values[name], layout.pick(own), scale=checked.scale)):
                own_g[at] = own_g[at] if g is None else g
    count = sum(checked.counts[name] for name in used)
    loss = torch.stack([checked.values[name].detach() for name in used]).mean()
    if collected.weighted is None:
        collected.weighted = TaskGradient(shared_g, own_g, loss, count)
    else:
        collected.weighted.add(shared_g, own_g, loss, count)
    for parameter, g in zip(layout.pick(own), collected.weighted.own, strict=True):
        parameter.grad = g if g is not None else parameter.grad


def expose(collected: Collected, layout: Layout, scale: Tensor) -> None:
    """Set `p.grad` of shared and own parameters to the scaled sums that a gradient scaler checks. In place.

    A task that was left out already for NaN or Inf shows in the first shared parameter.
    """
    parts = [task.shared for task in collected.tasks.values()] if collected.weighted is None else []
    if collected.weighted is not None:
        parts = [collected.weighted.shared]
    for at, p in enumerate(layout.shared_parameters()):
        p.grad = sum_weighted([1.0] * len(parts), [part[at] for part in parts]) if parts else None
    for p in layout.parameters:
        if p.grad is not None:
            p.grad = p.grad * scale.to(p.grad)
    if collected.bad:
        first = layout.shared_parameters()[0]
        first.grad = torch.full_like(first, math.inf)
