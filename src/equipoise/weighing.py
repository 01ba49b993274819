"""Statistic -> method -> scale rule: the weights of a step, when they are solved anew, and the evidence behind them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from equipoise.gram import cosines
from equipoise.methods.scale import rescale
from equipoise.options import Options
from equipoise.solve import Solution, Status
from equipoise.transfer import Waiting

Grams = Callable[[Collection[str], Sequence[Waiting]], Mapping[str, list[Tensor]]]
"""Kinds of rows ("gradients", "updates", "representation"), and numbers to be read by the same transfer -> {kind: Gram matrices
[P, P], one, or one a shared tensor}."""


class StationaryError(RuntimeError):
    """Raised under `on_stationary="raise"`: 0 lies in the convex hull of the tasks' updates, no step serves all."""


@dataclass(frozen=True)
class Weighed:
    """Weights [K, P] float64 (CPU, after the scale rule) of the P present tasks, and what they came from.

    K is 1, or the number of shared tensors where each has its own Gram matrix. `skipped`: the shared parameters and
    their state stay as they are. The other fields are those of `equipoise.record.Record`.
    """

    tasks: tuple[str, ...]
    weights: Tensor
    status: str
    skipped: bool = False
    residual: float | None = None
    gram: Tensor | None = None
    cosines: dict[str, Tensor] = field(default_factory=dict)
    norms: dict[str, Tensor] = field(default_factory=dict)
    collapse: float | None = None

    def of(self, tensor: int) -> list[float]:
        """Return the weights [P] for the shared tensor of this number."""
        found: list[float] = self.weights[min(tensor, len(self.weights) - 1)].tolist()
        return found

    def by_name(self) -> dict[str, float]:
        """Return {task: weight}, the mean over tensors."""
        return dict(zip(self.tasks, self.weights.mean(0).tolist(), strict=True))


def nothing(status: str = "skipped") -> Weighed:
    """Return what stands for a step without any task."""
    return Weighed((), torch.zeros(1, 0, dtype=torch.float64), status, skipped=True)


def constant(tasks: Sequence[str], status: str) -> Weighed:
    """Return weight 1 for each task, nothing solved."""
    return Weighed(tuple(tasks), torch.ones(1, len(tasks), dtype=torch.float64), status)


class Weigher:
    """The method with its state, and the weights that its last solve gave.

    Attributes:
        tasks: all task names, fixed by the first `begin`.
        steps: steps taken so far.
        kept: {task: weights [K]} of the last solve, {} when the next step must solve.
    """

    def __init__(self, options: Options) -> None:
        self.options, self.method = options, options.method
        self.tasks: tuple[str, ...] = ()
        self.steps = 0
        self.kept: dict[str, list[float]] = {}
        self._states: list[Any] = []
        self._before: tuple[int, list[Any], Tensor] | None = None
        self._generator = torch.Generator().manual_seed(0)

    def begin(self, names: Sequence[str]) -> None:
        """Fix the tasks at the first call; ValueError for one that the first call had not."""
        if not self.tasks:
            if hasattr(self.method, "check_tasks"):  # a method that goes by name
                self.method.check_tasks(names)
            self._states = [self.method.init(len(names))]
            self.tasks = tuple(names)
        if unknown := [name for name in names if name not in self.tasks]:
            raise ValueError(
                f"losses has the unknown task {unknown[0]!r}; the first backward fixed the tasks {list(self.tasks)}"
            )

    def share(self, present: Sequence[str]) -> float:
        """Return 1/S, each present task's share of the coupled decay in its peek.

        S is the weight sum that scale rule or method promises; 1 where none is promised, or where it is 0.
        """
        promised = getattr(self.method, "total", None) if self.options.scale == "raw" else None
        if promised == "given":
            there = torch.tensor([name in present for name in self.tasks])
            given = self.method(torch.zeros(len(present)), {}, present=there, tasks=tuple(present))[0]
            return 1.0 / (float(given.sum()) or 1.0)
        return 1.0 / len(present) if self.options.scale == "sum" or promised == "tasks" else 1.0

    def must_solve(self, present: Iterable[str]) -> bool:
        """Whether this step solves: it is due, nothing is kept, or a task is present that the last solve had not."""
        due = not self.kept or self.steps % self.options.every == 0
        return due or any(name not in self.kept for name in present)

    def keep(self, present: Sequence[str]) -> Weighed:
        """Return the kept weights of the present tasks; under convex and sum their total is restored for them."""
        weights = torch.tensor([self.kept[name] for name in present], dtype=torch.float64).T
        totals = weights.sum(1, keepdim=True)
        fewer = len(present) < len(self.kept)  # of all of them the total is as it was, up to rounding
        if fewer and self.options.scale in ("convex", "sum") and bool((totals > 0).all()):
            weights = weights / totals * (1.0 if self.options.scale == "convex" else len(present))
        return Weighed(tuple(present), weights, "kept")

    def kinds(self, mixed: str | None) -> list[str]:
        """Return the kinds of rows whose Gram matrices a solve looks at, where rows of the kind `mixed` are mixed."""
        options = self.options
        wanted = set()
        if options.level != "losses":
            wanted = {options.level} if options.level == "representation" else {"gradients", options.level}
        if options.scale in ("norm", "frobenius") and mixed is not None:
            wanted.add(mixed)
        return sorted(wanted)

    def decide(
        self,
        tasks: Sequence[str],
        losses: Tensor,
        grams: Mapping[str, list[Tensor]],
        mixed: str | None,
        extras: Mapping[str, Tensor] | None = None,
    ) -> Weighed:
        """Return 1 for a single task, else the kept weights, or those of a solve (arguments as there).

        Raises:
            StationaryError: under `on_stationary="raise"`.
        """
        if len(tasks) == 1 and self.options.scale != "raw":
            return constant(tasks, "one_task")
        if not self.must_solve(tasks):
            return self.keep(tasks)
        weighed = self.solve(tasks, losses, grams, mixed, extras)
        if weighed.status == "stationary" and self.options.on_stationary == "raise":
            raise StationaryError(
                f"no step serves all tasks at step {self.steps + 1}: 0 lies in the convex hull of the "
                f"{self.options.level} of {list(tasks)}; nothing was written"
            )
        return weighed

    def solve(
        self,
        tasks: Sequence[str],
        losses: Tensor,
        grams: Mapping[str, list[Tensor]],
        mixed: str | None,
        extras: Mapping[str, Tensor] | None = None,
    ) -> Weighed:
        """Return new weights, keep them, and move the method's state.

        Args:
            tasks: the P present tasks.
            losses: [P] float64, CPU.
            grams: Gram matrices of the rows of `kinds(mixed)`.
            mixed: which rows are mixed, None where none of them is; the scale rules act on their Gram matrix.
            extras: more of what methods may name in `needs`.

        Under `on_stationary="raise"` a stationary solve keeps nothing and moves no state: `decide` raises.
        """
        options = self.options
        # solved in this step already: that one did not count
        if self._before is not None and self._before[0] == self.steps:
            self._states = self._before[1]
            self._generator.set_state(self._before[2])
        self._before = (self.steps, self._states, self._generator.get_state())
        statistics = [losses] if options.level == "losses" else grams[options.level]
        if options.of_excess and extras is not None:
            statistics = [extras["excess"]]
        of_rows = grams.get(mixed) if mixed is not None else None
        needed = {
            "losses": losses,
            "present": torch.tensor([name in tasks for name in self.tasks]),
            "tasks": tuple(tasks),
            "generator": self._generator,
            "step": self.steps + 1,
            **(extras or {}),
        }
        states = self._states if len(self._states) == len(statistics) else self._states * len(statistics)
        weights, status, residual = [], Status.SOLVED, None
        moved = []
        for k, statistic in enumerate(statistics):
            of_mixed = None if of_rows is None else of_rows[k]
            found = self._one(statistic, of_mixed, states[k], needed)
            weights.append(found[0])
            moved.append(found[1])
            status = max(status, found[2], key=_BADNESS.index)
            residual = found[3] if residual is None else max(residual, found[3] or 0.0)
        stacked = torch.stack(weights)
        total = {kind: torch.stack(list(m)).sum(0) for kind, m in grams.items()}
        weighed = Weighed(
            tasks=tuple(tasks),
            weights=stacked,
            status=str(status),
            skipped=status is Status.STATIONARY and options.on_stationary == "skip",
            residual=residual,
            gram=total.get(options.level),
            cosines={kind: cosines(m) for kind, m in total.items()},
            norms={kind: m.diagonal().sqrt() for kind, m in total.items()},
            collapse=None if of_rows is None else collapse(stacked, of_rows),
        )
        if status is Status.STATIONARY and options.on_stationary == "raise":
            return weighed
        self._states = moved
        self.kept = {} if weighed.skipped else dict(zip(tasks, stacked.T.tolist(), strict=True))
        return weighed

    def _one(
        self, statistic: Tensor, of_mixed: Tensor | None, state: Any, extras: Mapping[str, Any]
    ) -> tuple[Tensor, Any, Status, float | None]:
        """Return scaled weights [P], state, status and residual for one statistic.

        A tensor that a present task does not reach has a zero row in its own Gram matrix: weight 0 there.
        """
        num = len(statistic)
        there = torch.ones(num, dtype=torch.bool)
        if statistic.dim() == 2 and self.options.per == "tensor":
            there = statistic.diagonal() > 0
            if not bool(there.any()):
                return torch.zeros(num, dtype=torch.float64), state, Status.SOLVED, None
            if not bool(there.all()):
                statistic, extras = statistic[there][:, there], _only(extras, there)
                of_mixed = None if of_mixed is None else of_mixed[there][:, there]
        needs = {name: extras[name] for name in self.options.needs}
        status, residual = Status.SOLVED, None
        if getattr(self.method, "solves", False):
            solution = self.method.solve(statistic, **needs)
            weights, status, residual = solution.weights.double(), solution.status, solution.residual
        else:
            found, state = self.method(statistic, state, **needs)
            if isinstance(found, Solution):
                residual, status = found.residual, found.status
            weights = found.weights if isinstance(found, Solution) else found
        whole = torch.zeros(num, dtype=torch.float64)
        # where all rows are 0 there is nothing to give a length to
        if status is not Status.STATIONARY or bool(weights.any()):
            whole[there] = rescale(weights, of_mixed, self.options.scale, len(weights))
        return whole, state, status, residual

    def join(self, known: Weighed, new: Weighed) -> Weighed:
        """Return the weights of a step that were known, with those of `new` for further tasks, and keep them.

        For micro-batches of which a later one has a task that the first had not. Matrices are left out: none is of all tasks.
        """
        names = [name for name in self.tasks if name in {*known.tasks, *new.tasks}]
        by_name = {
            **dict(zip(new.tasks, new.weights.T, strict=True)),
            **dict(zip(known.tasks, known.weights.T, strict=True)),
        }
        joined = torch.stack([by_name[name] for name in names], 1)
        if self.kept:
            self.kept = self.kept | dict(zip(names, joined.T.tolist(), strict=True))
        return Weighed(tuple(names), joined, new.status, residual=new.residual)

    def observe(self, before: Mapping[str, float], after: Mapping[str, float]) -> None:
        """Tell a method that asks for it (FAMO) the losses before and after the step, of tasks that have both."""
        both = [name for name in self.tasks if name in before and name in after]
        if both:
            present = torch.tensor([name in both for name in self.tasks])
            first, second = (
                torch.tensor([losses[name] for name in both], dtype=torch.float64)
                for losses in (before, after)
            )
            self._states = [self.method.observe(self._states[0], first, second, present=present)]

    def combine(self, rows: Sequence[Tensor]) -> Tensor:
        """Return a row method's joint row of one tensor (GradDrop)."""
        row: Tensor = self.method.combine(rows, self._states[0], self._generator)
        return row

    def state_dict(self) -> dict[str, Any]:
        """Return tasks, steps, kept weights, the method's state and the generator's."""
        return {
            "tasks": list(self.tasks),
            "steps": self.steps,
            "kept": {name: list(weights) for name, weights in self.kept.items()},
            "method_state": list(self._states),
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.tasks, self.steps = tuple(state["tasks"]), state["steps"]
        self.kept = {name: list(weights) for name, weights in state["kept"].items()}
        self._states, self._before = list(state["method_state"]), None
        self._generator.set_state(state["generator"])


_BADNESS = [Status.SOLVED, Status.NOT_CONVERGED, Status.STATIONARY]


def _only(extras: Mapping[str, Any], there: Tensor) -> dict[str, Any]:
    """Return the extras of those of the present tasks that reach a tensor."""
    found = dict(extras)
    found["tasks"] = tuple(name for name, here in zip(extras["tasks"], there.tolist(), strict=True) if here)
    present = extras["present"].clone()
    present[extras["present"]] = there
    found["present"] = present
    found["losses"] = found["losses"][there]
    if "cross" in found:
        found["cross"] = found["cross"][there][:, there]
    return found


def collapse(weights: Tensor, grams: Collection[Tensor]) -> float:
    """Return |u| / mean_t |u_t| over all tensors, u = sum_t w_t u_t: 1 when the joint step is as long as the tasks' own."""
    squared = sum(float(w @ m @ w) for w, m in zip(weights, grams, strict=True))
    mean = float(torch.stack(list(grams)).sum(0).diagonal().sqrt().mean())
    return float(max(squared, 0.0)) ** 0.5 / mean if mean > 0 else 0.0
