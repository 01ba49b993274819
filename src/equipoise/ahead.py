"""Losses -> weights before the backward that uses them: kept, or made of the losses, or of the gradients near the losses."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from equipoise import sketch, transfer
from equipoise.collect import Collected, collect_near, note_near
from equipoise.gradients import CheckedLosses
from equipoise.gram import grams
from equipoise.layout import Layout
from equipoise.mixing import sketch_rows
from equipoise.options import Options
from equipoise.presence import unread
from equipoise.transfer import Waiting
from equipoise.weighing import Weighed, Weigher


class Ahead:
    """Weighs the tasks ahead of the one backward of their weighted loss.

    Args:
        chosen: the user's parameters for `gram="sketch"`, empty for those that `equipoise.sketch` finds.

    Attributes:
        sketch: positions of the sketch's parameters, None until the first solve.
    """

    def __init__(
        self, layout: Layout, options: Options, weigher: Weigher, chosen: Sequence[Tensor] = ()
    ) -> None:
        self.sketch: list[int] | None = None
        self._layout, self._options, self._weigher, self._chosen = layout, options, weigher, chosen

    def looks_near(self, checked: CheckedLosses) -> bool:
        """Whether this backward looks at the gradients near the losses, and so knows the tasks' own gradients.

        Between solves it does not, unless the towers are to have their own exact gradients.
        """
        options = self._options
        if options.level != "representation" and options.gram != "sketch":
            return False
        due = options.between == "exact" or self._weigher.must_solve(checked.values)
        return due or not self._layout.seen.issuperset(checked.values)

    def of_losses(
        self,
        collected: Collected,
        checked: CheckedLosses,
        known: Weighed | None,
        late: Sequence[Waiting],
    ) -> tuple[list[str], Weighed | None]:
        """Return the tasks that take part, with weights kept or made of the losses. Reads these, but see `presence.unread`.

        Args:
            known: the weights that an earlier backward of this step decided, and which serve this one too.
            late: numbers that the transfer, if there is one, takes along.
        """
        names = list(checked.values)
        due = _weighs(known, names) and self._weigher.must_solve(names) and not self._options.any_level
        finite, found = dict.fromkeys(names, True), torch.zeros(len(names), dtype=torch.float64)
        if names and (due or not unread(self._layout, self._options)):
            each = torch.stack([loss.detach().double() for loss in checked.values.values()])
            found = transfer.to_host([each], late)[0]
            finite = {name: math.isfinite(v) for name, v in zip(names, found.tolist(), strict=True)}
        collected.bad.update(name for name, good in finite.items() if not good)
        kept = self._weigher.kept if self._options.level != "losses" else finite
        tasks = [name for name, good in finite.items() if good and name in kept]
        if _weighs(known, tasks):
            if known is None:
                known = self._weigher.decide(tasks, found[[names.index(name) for name in tasks]], {}, None)
            elif not known.skipped:
                union = [
                    name for name in self._weigher.tasks if name in {*known.tasks, *tasks} - collected.bad
                ]
                means = transfer.to_host(
                    [torch.stack([collected.losses[name][0].double() for name in union])]
                )
                known = self._weigher.join(known, self._weigher.decide(union, means[0], {}, None))
        return tasks, known

    def of_near(
        self,
        collected: Collected,
        checked: CheckedLosses,
        representation: Tensor | None,
        known: Weighed | None,
        late: Sequence[Waiting],
    ) -> tuple[list[str], Weighed | None]:
        """Return the tasks that take part, with weights kept or made of the gradients near the losses; puts the own ones.

        Args:
            known, late: as for `of_losses`.

        Raises:
            ValueError: no representation at that level, a loss that does not reach it, or parameters that are not shared.
        """
        layout, options, weigher = self._layout, self._options, self._weigher
        if layout.shared is None:
            layout.discover(checked.values, len(weigher.tasks))
        if options.gram == "sketch":
            near, what = self._sketched(checked), "sketch's parameters"
        elif representation is None:
            raise ValueError(
                "representation must be given at level='representation', got None; pass "
                "backward(losses, representation=...), the tensor that every tower reads"
            )
        else:
            near, what = [representation], "representation"
        seen = collect_near(layout, checked, near, what)
        each = [loss.detach().double() for loss in checked.values.values()]
        losses = Waiting(torch.stack(each) if each else torch.zeros(0))
        along = [seen.numbers, losses, *late]
        due = _weighs(known, seen.rows) and weigher.must_solve(seen.rows)
        found: dict[str, list[Tensor]] | None = None
        if due and transfer.waits(near[0].device):
            found = self._grams(seen.rows, along)  # as if all took part: one transfer if they do
        read = due or not unread(layout, options)
        if read and seen.numbers.found is None:
            transfer.to_host([], along)
        rows = note_near(collected, layout, checked, seen, read)
        tasks = list(rows)
        layout.put_own(collected.tasks)
        if _weighs(known, tasks):
            if found is None or len(rows) < len(seen.rows):
                found = self._grams(rows, [])
            at = [k for k, name in enumerate(seen.rows) if name in rows]
            numbers = losses.read()[at] if read else torch.zeros(len(at), dtype=torch.float64)
            new = weigher.decide(tasks, numbers, found, options.level)
            if known is None:
                known = new
            elif not known.skipped:
                known = weigher.join(known, new)
        return tasks, known

    def _grams(self, rows: Mapping[str, list[Tensor]], along: Sequence[Waiting]) -> dict[str, list[Tensor]]:
        """Return {kind: [Gram matrix]} of a solve's kinds of rows near the losses, {} where none is due. One transfer."""
        if not self._weigher.must_solve(rows) or (len(rows) == 1 and self._options.scale != "raw"):
            return {}
        made = {"representation": list(rows.values())}
        if self._options.gram == "sketch":
            share = self._weigher.share(list(rows))
            made = sketch_rows(self._layout, self._options, self.sketch or (), list(rows.values()), share)
        kinds = self._weigher.kinds(self._options.level)
        return {kind: [m] for kind, m in zip(kinds, grams([made[k] for k in kinds], along), strict=True)}

    def _sketched(self, checked: CheckedLosses) -> list[Tensor]:
        """Return the parameters of the sketch, found at the first solve."""
        if self.sketch is None:
            shared = dict(zip(self._layout.shared or (), self._layout.shared_parameters(), strict=True))
            positions = {id(p): position for position, p in shared.items()}
            if wrong := [p for p in self._chosen if id(p) not in positions]:
                raise ValueError(
                    f"gram must hold shared parameters, got one of shape {tuple(wrong[0].shape)} that is not shared"
                )
            self.sketch = [positions[id(p)] for p in self._chosen] or sketch.nearest(
                checked.values.values(), shared
            )
        return list(self._layout.pick(self.sketch))


def _weighs(known: Weighed | None, tasks: Iterable[str]) -> bool:
    """Whether this backward decides the weights: the first, or one with a task that the first had not."""
    return any(known is None or name not in known.tasks for name in tasks)
