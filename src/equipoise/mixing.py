"""Present tasks -> rows -> weights -> the shared parameters' step: by their mixed gradient, or by their mixed updates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from equipoise import joint
from equipoise.gradients import Gradients, TaskGradient, sum_weighted
from equipoise.gram import cross
from equipoise.layout import Layout
from equipoise.moments import TaskMoments
from equipoise.options import Options
from equipoise.updates.rows import task_rows
from equipoise.weighing import Rows, Weighed

Weigh = Callable[[Mapping[str, Rows], str], Weighed]
Combine = Callable[[Sequence[Tensor]], Tensor] | None


def mix_gradients(
    layout: Layout,
    options: Options,
    present: Mapping[str, TaskGradient],
    weigh: Weigh,
    combine: Combine,
) -> Weighed:
    """Set shared `p.grad = sum_t w_t g_t`; the optimizer's own step does the rest."""
    parameters = layout.shared_parameters()
    rows = filled(parameters, [task.shared for task in present.values()])
    weighed = weigh({"gradients": rows}, "gradients")
    if weighed.skipped:
        return weighed
    columns = list(zip(*(task.shared for task in present.values()), strict=True))
    mixed: Gradients
    if combine is not None and len(present) > 1:
        mixed = [combine(column) for column in zip(*rows, strict=True)]
    else:
        mixed = [sum_weighted(weighed.of(k), column) for k, column in enumerate(columns)]
    joint.set_gradient(parameters, joint.bounded(mixed, options.max_norm))
    return weighed


def mix_updates(
    layout: Layout,
    options: Options,
    present: Mapping[str, TaskGradient],
    moments: TaskMoments | None,
    weigh: Weigh,
    combine: Combine,
) -> Weighed:
    """Peek one row a task for each parameter, weigh the rows, write parameters and slots in place."""
    tasks, positions, shared = list(present), layout.shared or [], layout.bind()
    share = 1.0 / options.weight_sum(len(tasks))
    columns = list(zip(*(task.shared for task in present.values()), strict=True))
    states = [
        [s.state for _ in tasks] if moments is None else moments.slots(tasks, position, s)
        for position, s in zip(positions, shared, strict=True)
    ]
    rows = [task_rows(*it, share, options.clip) for it in zip(shared, columns, states, strict=True)]
    gradients = filled(layout.shared_parameters(), [task.shared for task in present.values()])
    weighed = weigh({"gradients": gradients, "updates": list(zip(*rows, strict=True))}, "updates")
    if weighed.skipped:
        return weighed
    mixed: Gradients
    if combine is not None and len(tasks) > 1:
        mixed = [combine(row) for row in rows]
    else:
        mixed = [sum_weighted(weighed.of(k), row) for k, row in enumerate(rows)]
    for k, (s, position, update, column, state) in enumerate(
        zip(shared, positions, joint.bounded(mixed, options.max_norm), columns, states, strict=True)
    ):
        assert update is not None  # rows are dense, so is their sum
        if moments is None:
            joint.write_update(s, update, weighed.of(k), column)
        else:
            moments.put(tasks, position, joint.write_task_update(s, update, column, state, share))
    return weighed


def filled(parameters: Sequence[Tensor], gradients: Sequence[Gradients]) -> list[list[Tensor]]:
    """Return [P][tensors] with zeros where a task does not reach a parameter."""
    return [
        [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, row, strict=True)]
        for row in gradients
    ]


def cross_gram(
    layout: Layout, options: Options, present: Sequence[str], calls: Sequence[Mapping[str, Gradients]]
) -> Tensor:
    """Return [P, P] inner products of the first `backward` call's rows with the second's.

    The rows are gradients, or at level "updates" what the optimizer would make of each call's gradient.

    Raises:
        ValueError: not two calls.
    """
    if len(calls) != 2:
        raise ValueError(
            f"the method needs two backward calls a step, on two independent batches, got {len(calls)}; call "
            "backward(losses) once for each half of the batch"
        )
    shared, halves = layout.bind(), []
    absent: Gradients = [None] * len(shared)
    for call in calls:
        found = [call.get(name, absent) for name in present]
        if options.mixes_updates:
            share = 1.0 / options.weight_sum(len(present))
            columns = [
                task_rows(s, column, [s.state] * len(present), share, options.clip)
                for s, column in zip(shared, zip(*found, strict=True), strict=True)
            ]
            halves.append([list(row) for row in zip(*columns, strict=True)])
        else:
            halves.append(filled(layout.shared_parameters(), found))
    return cross(*halves)
