"""Present tasks -> rows -> weights -> the shared parameters' step: by their mixed gradient, or by their mixed updates."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from equipoise import joint
from equipoise.compiled import Fast, fast, matrix
from equipoise.gradients import Gradients, TaskGradient, sum_weighted
from equipoise.gram import coarse, cross, products
from equipoise.gram import grams as make_grams
from equipoise.layout import Layout
from equipoise.moments import TaskMoments
from equipoise.options import Options
from equipoise.transfer import Waiting, to_host
from equipoise.updates.rows import Part, View, bundles
from equipoise.weighing import Grams, Weighed

Weigh = Callable[[Grams, str], Weighed]
Combine = Callable[[Sequence[Tensor]], Tensor] | None


def parts_of(layout: Layout, found: Sequence[Gradients]) -> list[Part]:
    """Return the parts of the shared parameters for the tasks' shared gradients [T][parameters]."""
    columns = zip(*found, strict=True)
    return [
        Part.of(shared, column, position in layout.tables)
        for position, shared, column in zip(layout.shared or (), layout.bind(), columns, strict=True)
    ]


def mix_gradients(
    layout: Layout,
    options: Options,
    present: Mapping[str, TaskGradient],
    weigh: Weigh,
    combine: Combine,
) -> Weighed:
    """Set shared `p.grad = sum_t w_t g_t`; the optimizer's own step does the rest."""
    parameters = layout.shared_parameters()
    parts: list[Part] = []

    def made() -> list[Part]:
        if not parts:
            parts.extend(parts_of(layout, [task.shared for task in present.values()]))
        return parts

    def grams(kinds: Collection[str], along: Sequence[Waiting]) -> dict[str, list[Tensor]]:
        each = [list(zip(*(part.gradients for part in made()), strict=True))]
        if options.per == "tensor":
            each = [[(g,) for g in part.gradients] for part in made()]
        return dict.fromkeys(kinds, make_grams(each, along))

    weighed = weigh(grams, "gradients")
    if weighed.skipped:
        return weighed
    columns = list(zip(*(task.shared for task in present.values()), strict=True))
    mixed: Gradients = []
    for k, column in enumerate(columns):
        if combine is not None and len(present) > 1:
            part = made()[k]
            row = combine(part.gradients)
            mixed.append(row if part.rows is None else part.as_gradient(row))
        elif any(g is not None and g.is_sparse for g in column) and len(column) > 1:
            mixed.append(made()[k].weighted(weighed.of(k)))
        else:
            mixed.append(sum_weighted(weighed.of(k), column))
    joint.set_gradient(parameters, joint.bounded(mixed, options.max_norm))
    return weighed


def mix_updates(
    layout: Layout,
    options: Options,
    present: Mapping[str, TaskGradient],
    share: float,
    moments: TaskMoments | None,
    weigh: Weigh,
    combine: Combine,
) -> Weighed:
    """Peek one row a task for each parameter, weigh the rows, write parameters and slots in place.

    Parameters are worked on piece by piece (`equipoise.updates.rows`), so that a piece's gradients, slots, updates and products
    meet in a core's cache. The updates are kept between the two passes where weights are solved.
    """
    tasks = list(present)
    whole = options.clip is not None or combine is not None
    parts = parts_of(layout, [task.shared for task in present.values()])
    own = [_has_own(options, part) for part in parts]
    slots = _slots_of(layout, options, moments, tasks, parts)
    alone = whole or options.per == "tensor"
    together = [[k] for k in range(len(parts))] if alone else bundles(parts, slots, whole)

    def seen(those: Sequence[int]) -> View:
        return View([parts[k] for k in those], [slots[k] for k in those], whole)

    views = [seen(those) for those in together]
    quick = [fast(view, share) if options.compile else None for view in views]
    kept: list[list[Tensor | None]] = []

    def grams(kinds: Collection[str], along: Sequence[Waiting]) -> dict[str, list[Tensor]]:
        found = _grams(views, quick, kinds, share, options, kept, torch.float32, along)
        if any(coarse(each) for each in found.values()):
            found = _grams(views, [None] * len(views), kinds, share, options, kept, torch.float64)
        return found

    weighed = weigh(grams, "updates")
    if weighed.skipped:
        return weighed

    def mixed(k: int, factor: float | Tensor) -> Iterator[Tensor | None]:
        weights = weighed.of(together[k][0])
        return _joint(views[k], quick[k], kept[k : k + 1], share, options, weights, combine, factor)

    factor: float | Tensor = 1.0
    if options.max_norm is not None:
        found = [u for k in range(len(views)) for u in mixed(k, 1.0) if u is not None]
        factor = joint.shrink(found, options.max_norm)
    for k, those in enumerate(together):
        updates, mine = mixed(k, factor), [slots[i] for i in those]
        if _begin([parts[i] for i in those], mine):
            views[k] = seen(those)
        if own[those[0]]:
            joint.write_task_update(views[k], updates, share, mine)
        else:
            weights = weighed.of(those[0])
            joint.write_update(views[k], quick[k], updates, weights, [each[0] for each in mine])
            for i in those:
                if slots[i][0]:
                    parts[i].shared.optimizer.state[parts[i].shared.parameter] = slots[i][0]
        if kept:
            kept[k] = []  # frees its updates
    return weighed


def sketch_rows(
    layout: Layout,
    options: Options,
    positions: Sequence[int],
    found: Sequence[Sequence[Tensor]],
    share: float,
) -> dict[str, list[list[Tensor]]]:
    """Return {"gradients" and "updates": rows [T][tensors]} of the sketch's parameters; updates where they are looked at."""
    rows = {"gradients": [list(row) for row in found]}
    if options.level == "updates":
        shared = dict(zip(layout.shared or (), layout.bind(), strict=True))
        columns = []
        for position, column in zip(positions, zip(*found, strict=True), strict=True):
            part = Part.of(shared[position], column)
            view = View([part], [[part.shared.state]], whole=True)
            columns.append(list(view.peeks(..., share, None)[1]))
        rows["updates"] = [list(row) for row in zip(*columns, strict=True)]
    return rows


def _has_own(options: Options, part: Part) -> bool:
    """Whether each task has slots of its own of this parameter."""
    return options.moments == "per_task" or (options.moments == "per_task_dense" and part.rows is None)


def _slots_of(
    layout: Layout, options: Options, moments: TaskMoments | None, tasks: Sequence[str], parts: Sequence[Part]
) -> list[list[dict[str, Any]]]:
    """Return for each part the slots that the tasks' peeks read: one set a task, or the optimizer's own for all."""
    return [
        moments.slots(tasks, position, part.shared)
        if moments is not None and _has_own(options, part)
        else [part.shared.state]
        for part, position in zip(parts, layout.shared or (), strict=True)
    ]


def _begin(parts: Sequence[Part], slots: Sequence[Sequence[dict[str, Any]]]) -> bool:
    """Begin empty slots as torch does before the first step, in place; return whether there were any."""
    found = False
    for part, each in zip(parts, slots, strict=True):
        for state in each:
            if not state:
                state.update(part.shared.rule.init(part.shared.parameter, part.shared.group))
                found = found or bool(state)
    return found


def _grams(
    views: Sequence[View],
    quick: Sequence[Fast | None],
    kinds: Collection[str],
    share: float,
    options: Options,
    kept: list[list[Tensor | None]],
    least: torch.dtype,
    along: Sequence[Waiting] = (),
) -> dict[str, list[Tensor]]:
    """Return {kind: [T, T] float64 on the CPU, one, or one a view under per="tensor"} of gradients and updates.

    One transfer for all, which takes `along` with it. Puts the updates of all pieces in `kept`, None for those that compiled
    passes make again.
    """
    kept.clear()
    found: dict[str, list[Tensor]] = {kind: [] for kind in kinds}
    for view, passes in zip(views, quick, strict=True):
        made: dict[str, list[Tensor]] = {kind: [] for kind in kinds}
        updates: list[Tensor | None] = []
        for piece in view.pieces():
            if passes is not None and passes.takes(piece):
                of_gradients, of_updates = passes.products(piece)
                updates.append(None)
                for kind in kinds:
                    products_ = of_gradients if kind == "gradients" else of_updates
                    made[kind].append(matrix(products_, len(view.gradients)))
                continue
            gradients, update = view.peeks(piece, share, options.clip)
            updates.append(update)
            for kind in kinds:
                made[kind].append(products(gradients if kind == "gradients" else update, least).double())
        kept.append(updates)
        for kind, blocks in made.items():
            found[kind].append(torch.stack(blocks).sum(0))
    if options.per == "model":
        for kind, each in found.items():
            found[kind] = [torch.stack([m.to(each[0].device) for m in each]).sum(0)]
    read = iter(to_host([m for each in found.values() for m in each], along))
    return {kind: [next(read) for _ in each] for kind, each in found.items()}


def _joint(
    view: View,
    passes: Fast | None,
    kept: Sequence[Sequence[Tensor | None]],
    share: float,
    options: Options,
    weights: Sequence[float],
    combine: Combine,
    factor: float | Tensor = 1.0,
) -> Iterator[Tensor | None]:
    """Yield the joint update of each piece of a view, added in the order of tasks; None where compiled passes write it."""
    for k, piece in enumerate(view.pieces()):
        update = kept[0][k] if kept else None
        if update is None and passes is not None and passes.takes(piece):
            yield None
            continue
        if update is None:
            update = view.peeks(piece, share, options.clip)[1]
        if combine is not None and len(update) > 1:
            total = combine(list(update))
        else:
            total = update[0] if len(weights) == 1 and weights[0] == 1.0 else update[0] * weights[0]
            for w, u in zip(weights[1:], update[1:], strict=True):
                total = total + u * w
        yield joint.scaled(total, factor)


def cross_gram(
    layout: Layout,
    options: Options,
    moments: TaskMoments | None,
    present: Sequence[str],
    share: float,
    calls: Sequence[Mapping[str, Gradients]],
) -> Tensor:
    """Return [P, P] inner products of the first `backward` call's rows with the second's.

    The rows are gradients, or at level "updates" what the optimizer would make of each call's gradient, from the slots that
    the task's own peek reads.

    Raises:
        ValueError: not two calls.
    """
    if len(calls) != 2:
        raise ValueError(
            f"the method needs two backward calls a step, on two independent batches, got {len(calls)}; call "
            "backward(losses) once for each half of the batch"
        )
    num = len(present)
    absent: Gradients = [None] * len(layout.shared or ())
    both = [call.get(name, absent) for call in calls for name in present]
    parts = parts_of(layout, both)
    columns = [part.gradients for part in parts]
    if options.level == "updates":
        slots = _slots_of(layout, options, moments, [*present, *present], parts)
        views = [View([part], [each], whole=True) for part, each in zip(parts, slots, strict=True)]
        columns = [list(view.peeks(..., share, options.clip)[1]) for view in views]
    rows = list(zip(*columns, strict=True))
    return cross(rows[:num], rows[num:])
