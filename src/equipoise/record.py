"""What a step did: the record that `Balancer.last` holds, and the counts over all steps."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from equipoise.transfer import Waiting
from equipoise.weighing import Weighed


@dataclass(frozen=True)
class Record:
    """What the last step did. Matrices are [P, P] float64 on the CPU over `tasks`, the P tasks that were present.

    Attributes:
        step: number of the step, from 1.
        tasks: names of the present tasks, in order.
        weights: {task: weight after the scale rule}, 0 for a task that was absent or left out. With one Gram matrix a
            tensor: the mean over tensors. With a row method, which has no weights: 1.
        status: "solved", "stationary" or "not_converged" of a solve; "kept" between solves, "one_task" without a
            solve, "rows" of a row method, "skipped" when no task could be used.
        skipped: whether shared parameters and their state were left as they were.
        absent, nonfinite: names of the tasks without signal, and of those left out for NaN or Inf, in this step; empty of
            a step on a device that read nothing.
        totals: {"absent": {task: steps}, "nonfinite": {task: steps}} since the start; tasks that were not finite in such a
            step count from the next step that reads, or from `state_dict` on.
        residual: `max_t |w_t (M w)_t - 1|` of a solve, else None.
        gram: M of the statistic's rows (their sum over tensors), None on steps without a solve.
        cosines: {"updates": [P, P], "gradients": [P, P], "representation": [P, P]} as far as the step computed them.
        norms: {"updates": {task: norm}, "gradients": {task: norm}, ...}, likewise.
        collapse: |u| / mean_t |u_t| of the rows that were mixed, None without their Gram matrix.
    """

    step: int
    tasks: tuple[str, ...]
    weights: dict[str, float]
    status: str
    skipped: bool
    absent: tuple[str, ...]
    nonfinite: tuple[str, ...]
    totals: dict[str, dict[str, int]]
    residual: float | None = None
    gram: Tensor | None = None
    cosines: dict[str, Tensor] = field(default_factory=dict)
    norms: dict[str, dict[str, float]] = field(default_factory=dict)
    collapse: float | None = None

    @property
    def num_absent(self) -> int:
        """Number of tasks without signal in this step."""
        return len(self.absent)

    @property
    def num_nonfinite(self) -> int:
        """Number of tasks left out of this step for a NaN or Inf."""
        return len(self.nonfinite)


@dataclass
class Tally:
    """Counts since the start: {"absent": {task: steps}, "nonfinite": {task: steps}}.

    `late` are counts of non-finite tasks that lie on a device still, [T]: those of steps that read nothing.
    """

    totals: dict[str, dict[str, int]] = field(default_factory=lambda: {"absent": {}, "nonfinite": {}})
    late: Waiting | None = None

    def count_late(self, tasks: Sequence[str], good: Mapping[str, Tensor]) -> None:
        """Count on the device those of `good` {task: 0-dim bool} that are False; all `tasks` give the order. In place."""
        self.settle(tasks)
        first = next(iter(good.values()))
        fine = torch.ones_like(first)
        bad = torch.stack([good.get(name, fine) for name in tasks]).logical_not().double()
        self.late = Waiting(bad if self.late is None else self.late.value + bad)

    def waiting(self) -> list[Waiting]:
        """Return what is to be read by the next transfer: the late counts, if there are any."""
        return [] if self.late is None else [self.late]

    def settle(self, tasks: Sequence[str]) -> None:
        """Add late counts that have been read to the totals. In place."""
        if self.late is None or self.late.found is None:
            return
        for name, count in zip(tasks, self.late.found.tolist(), strict=True):
            if count > 0:
                self.totals["nonfinite"][name] = self.totals["nonfinite"].get(name, 0) + int(count)
        self.late = None

    def record(
        self,
        step: int,
        tasks: Sequence[str],
        weighed: Weighed,
        bad: Collection[str],
    ) -> Record:
        """Count the absent and non-finite of all `tasks` and return the step's record. In place."""
        self.settle(tasks)
        present = weighed.tasks
        nonfinite = tuple(name for name in tasks if name in bad)
        absent = tuple(name for name in tasks if name not in present and name not in nonfinite)
        for kind, found in (("absent", absent), ("nonfinite", nonfinite)):
            for name in found:
                self.totals[kind][name] = self.totals[kind].get(name, 0) + 1
        weights: Mapping[str, float] = {} if weighed.skipped else weighed.by_name()
        return Record(
            step=step,
            tasks=present,
            weights={name: weights.get(name, 0.0) for name in tasks},
            status=weighed.status,
            skipped=weighed.skipped,
            absent=absent,
            nonfinite=nonfinite,
            totals={kind: dict(counts) for kind, counts in self.totals.items()},
            residual=weighed.residual,
            gram=weighed.gram,
            cosines=weighed.cosines,
            norms={
                kind: dict(zip(present, values.tolist(), strict=True))
                for kind, values in weighed.norms.items()
            },
            collapse=weighed.collapse,
        )
