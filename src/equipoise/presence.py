"""Which tasks take part in a step: read from a device with its Gram matrix, or masked there where nothing is read."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from equipoise import transfer
from equipoise.collect import Collected
from equipoise.gradients import TaskGradient, all_zero, sum_of_squares, zero_unless
from equipoise.layout import Layout
from equipoise.options import Options
from equipoise.transfer import Waiting


def unread(layout: Layout, options: Options) -> bool:
    """Whether steps between solves read nothing: on a device, unless a non-finite task is to raise.

    Zeros then stand in place of what is not finite, which leaves momentum's own move (of a weighted step not even that where
    torch's optimizer is fused), and it counts in the record's totals from the next step that reads.
    """
    return transfer.waits(layout.parameters[0].device) and options.on_nonfinite == "leave_out"


def summary(tasks: Mapping[str, TaskGradient], like: Tensor) -> Waiting:
    """Return what decides which tasks take part, [P, 3] float64 on the device of `like`, a row a task; nothing is read.

    The columns are its loss in the dtype of `like`, and the sums of squares of its shared and own gradients; where losses have
    another dtype they follow as they are in a fourth.
    """
    numbers = [
        n
        for g in tasks.values()
        for n in (g.loss.to(like), sum_of_squares(g.shared, like), sum_of_squares(g.own, like))
    ]
    rows = torch.stack(numbers).double().view(len(tasks), 3)
    if all(g.loss.dtype == like.dtype for g in tasks.values()):
        return Waiting(rows)
    exact = torch.stack([g.loss.double().to(like.device) for g in tasks.values()])
    return Waiting(torch.cat([rows, exact[:, None]], 1))


def losses_of(numbers: Tensor) -> Tensor:
    """Return the losses [P] of a summary, on the CPU."""
    return numbers[:, 3 if numbers.shape[1] > 3 else 0]


def sort_tasks(collected: Collected, numbers: Tensor, max_task_norm: float | None) -> dict[str, TaskGradient]:
    """Return the tasks that take part, in place bounded by `max_task_norm`; note the non-finite ones.

    A task is left out where its loss, its gradient or the gradient's sum of squares is not finite, or where all its
    shared gradients are exactly 0 in value. Synchronises where a sum of squares is 0.

    Args:
        numbers: what `summary` says of the collected tasks, on the CPU.
    """
    present: dict[str, TaskGradient] = {}
    for (name, g), (loss, of_shared, of_own) in zip(
        collected.tasks.items(), numbers[:, :3].tolist(), strict=True
    ):
        if not math.isfinite(loss + of_shared + of_own):
            collected.bad.add(name)
        elif of_shared > 0.0 or not all_zero(g.shared):
            present[name] = g
            norm = math.sqrt(of_shared + of_own) + 1e-6
            if max_task_norm is not None and norm > max_task_norm:
                g.scale(max_task_norm / norm)
    return present


def blank_tasks(tasks: Mapping[str, TaskGradient], layout: Layout, numbers: Tensor) -> dict[str, Tensor]:
    """Put zeros in place of the shared and own gradients of tasks that are not finite, on the device: nothing is read.

    An own parameter that several tasks reach gets zeros where any of them is not finite. In place.

    Args:
        numbers: what `summary` says of the tasks, on the device.

    Returns:
        {task: 0-dim bool on the device, whether it was finite}.
    """
    finite = numbers[:, :3].sum(1).isfinite()
    good = dict(zip(tasks, finite.unbind(), strict=True))
    for name, task in tasks.items():
        task.shared = [zero_unless(good[name], g) for g in task.shared]
    every = finite.all()
    for position, p in zip(layout.own(), layout.pick(layout.own()), strict=True):
        if position in layout.owners:
            p.grad = zero_unless(good.get(layout.owners[position], every), p.grad)
    return good


def blank_weighted(collected: Collected, layout: Layout) -> dict[str, Tensor]:
    """Put zeros in place of the weighted gradient and all own ones unless all are finite, on the device: nothing is read.

    Returns:
        {task of the weighted gradient: 0-dim bool on the device, whether all was finite}. In place.
    """
    weighted, like = collected.weighted, layout.shared_parameters()[0]
    assert weighted is not None
    own = [p for i, p in zip(layout.own(), layout.pick(layout.own()), strict=True) if i in layout.owners]
    known = collected.used - collected.bad  # what was read to be bad has been left out already
    losses = [loss.to(like) for name, (loss, _) in collected.losses.items() if name in known]
    squares = sum_of_squares([*weighted.shared, *(p.grad for p in own)], like)
    good = torch.stack([squares, *losses]).isfinite().all()
    weighted.shared = [zero_unless(good, g) for g in weighted.shared]
    for p in own:
        p.grad = zero_unless(good, p.grad)
    return dict.fromkeys(collected.used, good)


def step_if(optimizer: torch.optim.Optimizer, good: Tensor) -> None:
    """Run torch's own step; its fused forms leave parameters and state as they are unless `good` (0-dim bool, not read)."""
    if not all(group.get("fused") for group in optimizer.param_groups):
        optimizer.step()
        return
    optimizer.found_inf = good.logical_not().float()  # type: ignore[attr-defined]  # as a gradient scaler leaves it there
    try:
        optimizer.step()
    finally:
        del optimizer.found_inf  # type: ignore[attr-defined]
