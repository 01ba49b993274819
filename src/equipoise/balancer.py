"""Balancer: wraps the user's own torch optimizer and calls the files of flow 1 in order, once a step."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from equipoise import joint, sketch, transfer
from equipoise.ahead import Ahead
from equipoise.collect import Collected, collect_each, collect_weighted, expose
from equipoise.compiled import has_form
from equipoise.gradients import CheckedLosses, TaskGradient, check_losses, sum_of_squares
from equipoise.layout import Layout
from equipoise.mixing import cross_gram, mix_gradients, mix_updates
from equipoise.moments import TaskMoments
from equipoise.options import Options, refuse_weighted, resolve_method
from equipoise.presence import blank_tasks, blank_weighted, losses_of, sort_tasks, step_if, summary, unread
from equipoise.record import Record, Tally
from equipoise.tracks import Tracks
from equipoise.transfer import Waiting
from equipoise.updates.clippy import Clippy
from equipoise.weighing import Grams, Weighed, Weigher, constant, nothing


class Balancer:
    """Balances the tasks' steps on the shared parameters of one or several torch optimizers.

    For each step: gradients g_t, updates u_t = peek(g_t), M_ij = <u_i, u_j>, weights w of the method, joint update
    u = sum_t w_t u_t. Parameters outside `shared` take their own task's plain step.

    Args:
        optimizer: the user's torch optimizer, or a sequence of them; stays theirs (state_dict, schedulers, hooks).
        method: an instance such as `eq.PUB()`, or a name of METHODS.
        level: what the weights are computed from: "losses", "gradients", "updates", "representation" (gradients at
            `losses.representation`, then one backward of the weighted loss); None is the method's own.
        shared: the shared parameters; None finds those that two tasks or more reach at the first backward, which
            must then have every task that will occur (with one task: all that it reaches).
        every: solve at steps 1, every+1, ...; between them weights are kept. A newly present task forces a solve.
        between: "exact" mixes per-task updates with the kept weights; "weighted" runs one backward of the weighted
            loss and torch's own step. There, absent and non-finite are decided on the losses, a non-finite summed
            gradient skips the whole step, and micro-batches are averaged by their total count. A method at level
            "losses" is then solved from the losses alone, so from the second step on no step runs T backwards.
        scale: "convex" sum w = 1, "sum" sum w = T, "norm" |u| = mean |u_t|, "frobenius", "raw"; None: the method's.
            The optimizer's state moves with sum_t w_t g_t, so the scale also sets how much fresh gradient enters it. Where updates
            are mixed each peek has wd*theta/S of coupled decay, S the weight sum that scale or method promises, 1 where
            none is ("norm", "frobenius", PCGrad's own): the step then decays sum w times as much (docs/pub.md).
        moments: "shared" (the optimizer's own slots) or "per_task" (AdaTask: one set of slots a task, held here,
            seeded from the optimizer's; when the optimizer is saved its slots receive the tasks' mean); "per_task_dense"
            leaves row-sparse tables one set for all tasks, which is all their memory.
        clip: a `Clippy`, bounds each variable's relative change in each task's update.
        max_norm: bounds the joint step: the joint update's norm when updates are mixed, else the mixed gradient's.
        max_task_norm: bounds each task's gradient, shared and own together, before anything reads it. (torch's
            `clip_grad_norm_` before `step` would see the towers only.)
        gram: "exact", "sketch" (the Gram matrix over a few shared parameters next to the losses, `equipoise.sketch`, so that
            a solving step runs T backwards no further than there, then one of the weighted loss), or the parameters to
            sketch with.
        per: "model" or "tensor" (one Gram matrix, solve and scale a shared tensor: MetaBalance's way); None is the
            method's own.
        on_stationary: "damp" (solve M + delta diag M, delta in `equipoise.solve.DAMPING`), "skip" (shared
            parameters and state stay, own ones step) or "raise" (StationaryError, nothing written).
        on_nonfinite: "leave_out" (the task is left out of the step, its own parameters too, and counted) or "raise". Steps
            between solves on a GPU read nothing under "leave_out": zeros stand for what is not finite, and the count comes with the next
            solve (docs/performance.md).
        compile: where updates are mixed, pass over parameters of 131,072 entries and more with compiled functions: equal to the
            eager ones to rounding, faster, and without memory for the updates. On the CPU in float32, for Adam, AdamW (without
            amsgrad), Adagrad and SGD; it needs a C++ compiler and some seconds at the second step.

    Example:
        >>> import torch, equipoise as eq
        >>> theta = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> balancer = eq.Balancer(torch.optim.SGD([theta], lr=0.5), eq.PUB(), shared=[theta])
        >>> balancer.backward({"a": theta[0], "b": 2 * theta[1]})   # updates (1, 0), (0, 2): w = 1, 1/2 -> 2/3, 1/3
        >>> balancer.step()
        >>> [round(x, 4) for x in theta.tolist()]                   # 3 - .5 * 2/3, 4 - .5 * 2/3
        [2.6667, 3.6667]

    Source: Yuan, Cai, Dong, arXiv 2410.05806 (PUB). Differences from its released script: docs/pub.md.
    """

    _step_supports_amp_scaling = (
        True  # torch.amp.GradScaler then calls `step` in any case, and says what it found
    )

    def __init__(
        self,
        optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
        method: Any,
        *,
        level: str | None = None,
        shared: Iterable[torch.nn.Parameter] | None = None,
        every: int = 1,
        between: str = "exact",
        scale: str | None = None,
        moments: str = "shared",
        clip: Clippy | None = None,
        max_norm: float | None = None,
        max_task_norm: float | None = None,
        gram: str | Tensor | Iterable[Tensor] = "exact",
        per: str | None = None,
        on_stationary: str = "damp",
        on_nonfinite: str = "leave_out",
        compile: bool = False,
    ) -> None:
        self.method = resolve_method(method)
        kind, chosen = sketch.check(gram)
        self.options = Options(
            self.method,
            level or self.method.level,
            every,
            between,
            scale or str(getattr(self.method, "scale", "raw")),
            moments,
            clip,
            max_norm,
            max_task_norm,
            kind,
            per or str(getattr(self.method, "per", "model")),
            on_stationary,
            on_nonfinite,
            compile,
        )
        self.last: Record | None = None
        self._layout = Layout.of(optimizer, shared)
        self._moments = None if moments == "shared" else TaskMoments(self._layout)
        self._tracks = Tracks(self._layout, self.method)
        self._weigher = Weigher(self.options)
        self._tally = Tally()
        self._missed: set[str] = set()  # tasks that a later micro-batch had and the kept weights had not
        self._ahead = Ahead(self._layout, self.options, self._weigher, chosen)
        if compile:
            eager = [
                type(o).__name__
                for o, rule in zip(self._layout.optimizers, self._layout.rules, strict=True)
                if not has_form(rule)
            ]
            if eager:
                warnings.warn(
                    f"compile=True has no form for {eager[0]}, which goes the eager way",
                    UserWarning,
                    stacklevel=2,
                )
        self._forget()

    def _forget(self) -> None:
        """Start a step: no backward yet, no gradient, no task left out."""
        self._collected = Collected()
        self._flow = ""
        self._weighed: Weighed | None = None
        self._exposed = False  # whether `p.grad` holds what a gradient scaler checks
        self._overflow = False  # whether the scaler found an Inf or NaN there

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of all wrapped optimizers."""
        return [group for o in self._layout.optimizers for group in o.param_groups]

    def zero_grad(self) -> None:
        """Forget the gradients of this step and set every `p.grad` to None."""
        self._forget()
        for o in self._layout.optimizers:
            o.zero_grad(set_to_none=True)

    # ---- backward ----

    def backward(
        self,
        losses: Mapping[str, Tensor | None] | Tensor,
        *,
        scaler: torch.amp.GradScaler | None = None,
        counts: Mapping[str, float] | None = None,
        representation: Tensor | None = None,
        retain_graph: bool = False,
    ) -> None:
        """Compute one gradient a task; call again before `step` to accumulate micro-batches.

        Own gradients go to `p.grad`, shared ones stay here and their `p.grad` stays None. Several calls are averaged
        with their counts: N micro-batches give the gradient of their union. Where weights come before the backward
        (level "representation", or "losses" with between="weighted") those of the first micro-batch serve all; a task that it
        had not gets its weight at its own first, or, where weights are kept, in the next step, which then solves.

        Args:
            losses: {task: 0-dim tensor, or None where the batch says nothing} or a tensor [T].
            scaler: torch's gradient scaler, for float16: backward runs from scaled losses, and `scaler.step(balancer)`, then
                `scaler.update()`, take the place of `balancer.step()`. Until then `p.grad` of all parameters holds scaled
                sums, which the scaler checks: any Inf skips the whole step, and the scale backs off.
            counts: {task: count of valid labels (or sum of weights)}; default `losses.counts`, else 1 a call.
            representation: what the towers read, for level "representation"; default `losses.representation`.
            retain_graph: keep the losses' graphs; by default they are freed on the way, as by torch's own `backward`.

        Raises:
            ValueError: a loss that is not a scalar, an unknown task, a loss that reaches no shared parameter.
            StationaryError: under `on_stationary="raise"`, where weights come before the backward; else `step` raises it.
        """
        checked = check_losses(losses, counts)
        self._layout.check()
        first, finds_shared = not self._weigher.tasks, self._layout.shared is None
        if scaler is not None and scaler.is_enabled():
            checked.scale = scaler.scale(torch.ones((), device=self._layout.parameters[0].device))
        self._weigher.begin(checked.names)
        self._flow = self._flow or self._choose_flow(checked)
        self._collected.see(checked)
        try:
            if self._flow == "each":
                self._backward_each(checked, retain_graph)
            else:
                given = getattr(losses, "representation", None) if representation is None else representation
                self._backward_weighted(checked, given, retain_graph)
        except Exception:
            self.zero_grad()
            if first:  # a call that failed fixes nothing
                self._weigher.tasks = ()
                self._layout.shared = None if finds_shared else self._layout.shared
            raise
        if checked.scale is not None:
            self._exposed = True
            expose(self._collected, self._layout, checked.scale)

    def _choose_flow(self, checked: CheckedLosses) -> str:
        """Return "each" for one gradient a task, "weighted" for weights first and one backward of the weighted loss."""
        options, weigher = self.options, self._weigher
        if options.level == "representation" or options.gram == "sketch":
            return "weighted"
        missed, self._missed = self._missed, set()
        if options.between == "exact" or missed or not self._layout.seen.issuperset(checked.values):
            return "each"
        of_losses = options.level == "losses" and not options.needs_rows
        return "weighted" if of_losses or not weigher.must_solve(checked.values) else "each"

    def _backward_each(self, checked: CheckedLosses, keep_graph: bool) -> None:
        keep_calls = "cross" in self.options.needs
        num = len(self._weigher.tasks)
        collect_each(self._collected, self._layout, checked, num, keep_calls, keep_graph)
        self._check_owners()
        self._layout.put_own(self._collected.tasks)

    def _check_owners(self) -> None:
        """Refuse, under `between="weighted"`, a parameter whose gradient one backward cannot tell apart by task."""
        if self.options.between == "weighted":
            refuse_weighted(
                {"a parameter outside `shared` that several tasks reach": "" in self._layout.owners.values()}
            )

    def _backward_weighted(
        self, checked: CheckedLosses, representation: Tensor | None, keep_graph: bool
    ) -> None:
        """Weights from the losses or the gradients near them where they are due, then one backward."""
        collected, ahead, late = self._collected, self._ahead, self._tally.waiting()
        near = ahead.looks_near(checked)
        if near:
            tasks, self._weighed = ahead.of_near(collected, checked, representation, self._weighed, late)
            self._check_owners()
        else:
            tasks, self._weighed = ahead.of_losses(collected, checked, self._weighed, late)
            self._missed |= set(checked.values) - set(tasks) - collected.bad
        if self._weighed is not None and not self._weighed.skipped:
            weights = self._weighed.by_name()
            used = {name: weights[name] for name in tasks}
            collect_weighted(collected, self._layout, checked, used, near, keep_graph)

    # ---- step ----

    def step(self, closure: Callable[[], Mapping[str, Tensor | None] | Tensor] | None = None) -> None:
        """Updates -> Gram matrix -> weights -> joint update -> parameters and state; then clears.

        Args:
            closure: returns the losses on the same batch again; called without gradients after the step, by methods
                that look at what the step did (FAMO).

        Raises:
            RuntimeError: no `backward` before it; StationaryError and FloatingPointError as `on_stationary` and
                `on_nonfinite` say, before anything is written.
            ValueError: a closure that the method does not use, or none where it needs one; losses that the method cannot take.
            After any error on the way to the weights this step's gradients are forgotten.
        """
        if not self._flow:
            raise RuntimeError(
                "step needs a backward before it, got none since the last step; call backward(losses)"
            )
        if (closure is not None) != hasattr(self.method, "observe"):
            name = type(self.method).__name__
            raise ValueError(
                f"closure must be None for {name}, which does not look at the losses after the step; call step()"
                if closure is not None
                else f"closure must return the losses on the same batch, {name} looks at them after the step; call "
                "step(lambda: model.losses(batch))"
            )
        # a plain loop, or a scaler's check, may have left gradients there
        shared = self._layout.shared_parameters()
        joint.set_gradient(shared, [None] * len(shared))
        if self._exposed:
            self._cover()
        with torch.no_grad():
            try:
                self.last = self._step_weighted() if self._flow == "weighted" else self._step_each()
            except Exception:
                self.zero_grad()
                raise
            try:
                if closure is not None and self.last.tasks:
                    self._observe(closure)
            finally:  # the step is done, whatever the method makes of the losses after it
                self._weigher.steps += 1
                self.zero_grad()

    def _cover(self) -> None:
        """Take back what a gradient scaler was shown, in place: own `p.grad` are the tasks' own again.

        The scaler leaves `found_inf` and `grad_scale` here while it calls `step`, as on every optimizer that says
        `_step_supports_amp_scaling`; without `grad_scale` it has unscaled `p.grad` already, and the user may have clipped it.
        """
        collected, layout = self._collected, self._layout
        if getattr(self, "grad_scale", None) is not None or not hasattr(self, "found_inf"):
            layout.put_own(collected.tasks)
            if collected.weighted is not None:
                for p, g in zip(layout.pick(layout.own()), collected.weighted.own, strict=False):
                    p.grad = p.grad if g is None else g
        self._overflow = bool(getattr(self, "found_inf", 0.0))  # synchronises

    def _step_each(self) -> Record:
        """Weigh the tasks, mix updates or gradients, and let torch's own step do the rest.

        On a device all tasks are taken to be present: whether they are is read with the Gram matrix, and if they are not the
        step begins again with those that are (nothing has been written). Between solves nothing is read, see `presence.unread`.
        """
        options, layout, collected = self.options, self._layout, self._collected
        tasks = {name: collected.tasks[name] for name in self._weigher.tasks if name in collected.tasks}
        collected.tasks = present = tasks
        numbers = summary(tasks, layout.shared_parameters()[0]) if tasks else None
        weighed = None
        if numbers is not None and self._assumes(tasks):
            if not self._weigher.must_solve(tasks):
                good = blank_tasks(tasks, layout, numbers.value)
                self._tally.count_late(self._weigher.tasks, good)
            weighed = self._mix(tasks, numbers)
        if weighed is None or weighed.status == "left_out":
            if numbers is not None:
                if numbers.found is None:
                    transfer.to_host([], [numbers, *self._tally.waiting()])
                present = sort_tasks(collected, numbers.read(), options.max_task_norm)
            if not self._exposed:
                self._refuse_nonfinite()
            if self._overflow and not collected.bad:  # of the scaled sum only, so of all that are in it
                collected.bad.update(tasks)
            if numbers is None or not present or (self._exposed and collected.bad):
                return self._skip()
            self._tracks.replace(present, self._losses(present, numbers), self._weigher.steps + 1)
            weighed = self._mix(present, numbers)
        if len(present) < len(collected.tasks) or options.max_task_norm is not None:
            layout.put_own(present)
        for o in layout.optimizers:
            o.step()
        return self._record(weighed)

    def _assumes(self, tasks: Mapping[str, TaskGradient]) -> bool:
        """Whether all tasks are taken to be present for now: on a device, where nothing looks at them before the Gram matrix."""
        options, method = self.options, self.method
        waits = transfer.waits(self._layout.parameters[0].device)
        begun = self._moments is None or self._moments.states.keys() >= tasks.keys()
        changes = hasattr(method, "track") or hasattr(method, "combine") or options.of_excess
        if not waits or not begun or changes or options.max_task_norm is not None:
            return False
        if self._collected.bad or self._overflow:
            return False
        if not self._weigher.must_solve(tasks):
            return unread(self._layout, options)
        kind = "updates" if options.mixes_updates else "gradients"
        return bool(self._weigher.kinds(kind)) and (len(tasks) > 1 or options.scale == "raw")

    def _mix(self, present: Mapping[str, TaskGradient], numbers: Waiting) -> Weighed:
        """Weigh the tasks and mix updates or gradients; nothing is written where the answer's status is "left_out"."""
        options, layout = self.options, self._layout
        one = len(present) == 1 and options.scale != "raw"
        plain = one and options.clip is None and options.max_norm is None
        combine = self._weigher.combine if hasattr(self.method, "combine") else None

        def weigh(grams: Grams, mixed: str) -> Weighed:
            return self._weigh(present, numbers, grams, mixed, one)

        if options.mixes_updates and not (plain and (self._moments is None or len(self._weigher.tasks) == 1)):
            share = self._weigher.share(list(present))
            return mix_updates(layout, options, present, share, self._moments, weigh, combine)
        return mix_gradients(layout, options, present, weigh, combine)

    def _weigh(
        self, present: Mapping[str, TaskGradient], numbers: Waiting, grams: Grams, mixed: str, one: bool
    ) -> Weighed:
        """Return the weight 1 of a single task or of a row method, else what `_decide` says; "left_out" as its status where
        the numbers, read with the Gram matrices, say that not all of them are present."""
        tasks, collected = list(present), self._collected
        if one or hasattr(self.method, "combine"):
            return constant(tasks, "one_task" if one else "rows")
        due, assumed = self._weigher.must_solve(tasks), numbers.found is None
        extras = {}
        if self.options.of_excess:
            extras["excess"] = self._tracks.excess(present)
        if not due:
            return self._weigher.keep(tasks)
        if "cross" in self.options.needs:
            share = self._weigher.share(tasks)
            extras["cross"] = cross_gram(
                self._layout, self.options, self._moments, tasks, share, collected.calls
            )
        kinds = self._weigher.kinds(mixed)
        found = grams(kinds, [numbers, *self._tally.waiting()]) if kinds else {}
        if assumed and len(sort_tasks(collected, numbers.read(), None)) < len(tasks):
            return nothing("left_out")
        return self._weigher.decide(tasks, self._losses(present, numbers), found, mixed, extras)

    def _losses(self, present: Mapping[str, TaskGradient], numbers: Waiting) -> Tensor:
        """Return the losses [P] of the present tasks, float64, on the CPU."""
        losses = losses_of(numbers.read())
        if len(present) == len(losses):
            return losses
        return losses[[name in present for name in self._collected.tasks]]

    def _step_weighted(self) -> Record:
        """One torch step of the weighted gradient; a non-finite one skips the whole step, or is zeros, see `presence.unread`."""
        if not self._exposed:
            self._refuse_nonfinite()
        collected, parameters = self._collected, self._layout.shared_parameters()
        good: dict[str, Tensor] = {}
        if self._overflow and not collected.bad:
            collected.bad.update(collected.used or collected.tasks)
        if self._exposed and collected.bad:
            return self._skip()
        if collected.weighted is None:
            if self._weighed is None or self._weighed.status != "stationary":
                return self._skip()
        elif unread(self._layout, self.options):
            good = blank_weighted(collected, self._layout)
            self._tally.count_late(self._weigher.tasks, good)
        else:
            total = sum_of_squares([*collected.weighted.shared, *collected.weighted.own], parameters[0])
            if not math.isfinite(float(total)):  # synchronises
                collected.bad.update(collected.used)
                return self._skip()
        if collected.weighted is not None:
            joint.set_gradient(parameters, joint.bounded(collected.weighted.shared, self.options.max_norm))
        for o in self._layout.optimizers:
            step_if(o, next(iter(good.values()))) if good else o.step()
        assert self._weighed is not None  # a weighted gradient has weights
        return self._record(self._weighed)

    def _skip(self) -> Record:
        """Run torch's step without any gradient: nothing moves, but a scheduler sees a step and does not warn."""
        for o in self._layout.optimizers:
            o.zero_grad(set_to_none=True)
            o.step()
        return self._record(nothing())

    def _refuse_nonfinite(self) -> None:
        """Raise for the first non-finite task where `on_nonfinite` says so."""
        if self._collected.bad and self.options.on_nonfinite == "raise":
            task = next(name for name in self._weigher.tasks if name in self._collected.bad)
            raise FloatingPointError(
                f"task {task!r} has a NaN or Inf in its loss, its gradient or the gradient's sum of squares at step "
                f"{self._weigher.steps + 1}; nothing was written"
            )

    def _observe(self, closure: Callable[[], Mapping[str, Tensor | None] | Tensor]) -> None:
        """Tell the method the losses of this step before and after it."""
        after = closure()
        found = dict(after) if isinstance(after, Mapping) else {str(i): v for i, v in enumerate(after)}
        before = {name: loss for name, (loss, _) in self._collected.losses.items()}
        there = {name: v for name, v in found.items() if v is not None}
        numbers = [float(v) for v in transfer.to_host([*before.values(), *there.values()])]  # one transfer
        self._weigher.observe(
            {name: v for name, v in zip(before, numbers, strict=False) if math.isfinite(v)},
            {name: v for name, v in zip(there, numbers[len(before) :], strict=True) if math.isfinite(v)},
        )

    def _record(self, weighed: Weighed) -> Record:
        """Return the step's record, with absent and non-finite tasks counted."""
        return self._tally.record(self._weigher.steps + 1, self._weigher.tasks, weighed, self._collected.bad)

    # ---- saving ----

    def state_dict(self) -> dict[str, Any]:
        """Return all that the Balancer owns, in tensors and plain types; gradients of a step under way are not kept."""
        return {
            "version": 2,
            "method": type(self.method).__name__,
            **self._layout.state_dict(),
            **self._weigher.state_dict(),
            "sketch": self._ahead.sketch,
            "missed": sorted(self._missed),
            "moments": {} if self._moments is None else self._moments.state_dict(),
            "tracks": self._tracks.state_dict(),
            "totals": self._totals(),
        }

    def _totals(self) -> dict[str, dict[str, int]]:
        """Return the record's totals; reads late counts, which synchronises."""
        for waiting in self._tally.waiting():
            waiting.read()
        self._tally.settle(self._weigher.tasks)
        return {kind: dict(counts) for kind, counts in self._tally.totals.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned, for a Balancer of the same method over the same parameters.

        Raises:
            ValueError: another version or method, or other shared parameters.
        """
        method = type(self.method).__name__
        if state.get("version") != 2 or state.get("method") != method:
            raise ValueError(
                f"state must come from a Balancer (version 2) with method {method}, got version "
                f"{state.get('version')!r}, method {state.get('method')!r}"
            )
        state = copy.deepcopy(dict(state))
        self._layout.load_state_dict(state)
        self._weigher.load_state_dict(state)
        self._ahead.sketch = state.get("sketch")
        self._missed = set(state.get("missed", ()))
        self._tally = Tally(state["totals"])
        if self._moments is not None:
            self._moments.load_state_dict(state["moments"])
        self._tracks.load_state_dict(state["tracks"])
        self._forget()
