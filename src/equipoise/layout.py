"""Which parameters there are, which are shared, whose the others are, and the optimizer that owns each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from equipoise.gradients import Gradients, TaskGradient, gradients, sum_weighted
from equipoise.updates import Rule, rule_for
from equipoise.updates.rows import Shared, check_sparse


@dataclass
class Layout:
    """Parameters of one or several optimizers, by position in their groups.

    Attributes:
        parameters: all of them, in the order of the groups.
        shared: positions of the shared ones; None until the first backward finds them.
        owners: {position: task} of the others as far as a loss reached them; "" where several tasks do.
        seen: tasks whose own parameters are known.
        tables: positions that had a sparse gradient.
    """

    optimizers: list[torch.optim.Optimizer]
    rules: list[Rule]
    parameters: list[torch.nn.Parameter]
    shared: list[int] | None = None
    owners: dict[int, str] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)
    tables: set[int] = field(default_factory=set)

    @classmethod
    def of(
        cls,
        optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
        shared: Iterable[torch.nn.Parameter] | None,
    ) -> Layout:
        """Return the layout of the optimizer or optimizers.

        Raises:
            ValueError: no optimizer, a parameter held twice, LBFGS; a shared parameter that is frozen, unknown to the
                optimizers or given twice.
        """
        optimizers = list(optimizer) if isinstance(optimizer, Sequence) else [optimizer]
        if not optimizers or not all(isinstance(o, torch.optim.Optimizer) for o in optimizers):
            raise ValueError(f"optimizer must be a torch optimizer or a sequence of them, got {optimizer!r}")
        parameters = [p for o in optimizers for group in o.param_groups for p in group["params"]]
        if len({id(p) for p in parameters}) != len(parameters):
            raise ValueError(
                "optimizer must hold each parameter once, got one in two groups or optimizers; build the groups from "
                "disjoint lists"
            )
        layout = cls(optimizers, [rule_for(o) for o in optimizers], parameters)
        if isinstance(shared, Tensor):
            raise ValueError(
                f"shared must be several parameters, got one tensor of shape {tuple(shared.shape)}; pass shared=[parameter]"
            )
        if shared is not None:
            layout.shared = layout.check_shared(list(shared))
        return layout

    def check_shared(self, shared: Sequence[torch.nn.Parameter]) -> list[int]:
        """Return the positions of the user's shared parameters, sorted; ValueError as `of` says."""
        position = {id(p): i for i, p in enumerate(self.parameters)}
        found: list[int] = []
        for at, p in enumerate(shared):
            if not isinstance(p, Tensor) or not p.requires_grad:
                raise ValueError(
                    f"shared[{at}] must be a trainable parameter, got a frozen one; leave it out"
                )
            if id(p) not in position:
                raise ValueError(
                    f"shared[{at}] of shape {tuple(p.shape)} must be in the optimizer, it is in none of its groups"
                )
            if position[id(p)] in found:
                raise ValueError(f"shared[{at}] must be given once, got the same parameter twice")
            found.append(position[id(p)])
        if not found:
            raise ValueError(
                "shared must hold at least one parameter, got none; pass model.shared_parameters()"
            )
        return sorted(found)

    def check(self) -> None:
        """Raise a ValueError where optimizers or shared parameters are no longer those that the layout was made of."""
        num = sum(len(group["params"]) for o in self.optimizers for group in o.param_groups)
        if num != len(self.parameters):
            raise ValueError(
                f"optimizer must keep the parameters that it had when the Balancer was made, {len(self.parameters)}, got {num}; make "
                "the Balancer anew after add_param_group"
            )
        if frozen := [p for p in self.shared_parameters() if not p.requires_grad]:
            raise ValueError(
                f"shared parameters must stay trainable, got a frozen one of shape {tuple(frozen[0].shape)}; make the Balancer anew "
                "with shared=... without it"
            )

    def own(self) -> list[int]:
        """Return the positions of trainable parameters outside `shared`."""
        shared = set(self.shared or ())
        return [i for i, p in enumerate(self.parameters) if i not in shared and p.requires_grad]

    def pick(self, positions: Iterable[int]) -> list[torch.nn.Parameter]:
        """Return the parameters at these positions."""
        return [self.parameters[i] for i in positions]

    def shared_parameters(self) -> list[torch.nn.Parameter]:
        """Return the shared parameters, [] while they are not known."""
        return self.pick(self.shared or ())

    def bind(self) -> list[Shared]:
        """Look up optimizer, group and rule of each shared parameter (a load makes groups new dicts)."""
        found = self._bound()
        return [found[position] for position in self.shared or ()]

    def _bound(self) -> list[Shared]:
        return [
            Shared(p, o, group, rule)
            for o, rule in zip(self.optimizers, self.rules, strict=True)
            for group in o.param_groups
            for p in group["params"]
        ]

    def check_rows(self, positions: Iterable[int], found: Iterable[Tensor | None]) -> None:
        """Raise a ValueError for a sparse gradient whose optimizer cannot take it; each table is looked at once."""
        for position, g in zip(positions, found, strict=True):
            if g is not None and g.is_sparse and position not in self.tables:
                check_sparse(self._bound()[position])
                self.tables.add(position)

    def find_shared(self, found: Mapping[str, Gradients], num_tasks: int) -> list[int]:
        """Return the positions that two tasks or more reach; with one task, all that it reaches.

        Raises:
            ValueError: there are none.
        """
        candidates = self.own()
        reached = [sum(g[at] is not None for g in found.values()) for at in range(len(candidates))]
        shared = [i for i, times in zip(candidates, reached, strict=True) if times >= min(2, num_tasks)]
        if not shared:
            raise ValueError(
                f"shared=None looks for parameters that two tasks or more reach, and {list(found)} have none in common "
                "in the optimizer; pass shared=..., and give every task at the first backward"
            )
        return shared

    def discover(self, losses: Mapping[str, Tensor], num_tasks: int) -> None:
        """Find `shared` by one `autograd.grad` a task into all parameters, once. In place."""
        candidates = self.pick(self.own())
        self.shared = self.find_shared(
            {name: gradients(loss, candidates) for name, loss in losses.items()}, num_tasks
        )

    def note_owners(self, pending: Mapping[str, TaskGradient]) -> None:
        """Remember which task each parameter outside `shared` belongs to, "" when several reach it."""
        self.seen.update(pending)
        for name, gradient in pending.items():
            for position, g in zip(self.own(), gradient.own, strict=True):
                if g is not None and self.owners.setdefault(position, name) != name:
                    self.owners[position] = ""

    def put_own(self, pending: Mapping[str, TaskGradient]) -> None:
        """Set `p.grad` of the tasks' own parameters, in place: the task's gradient, the plain sum where several reach.

        A parameter that no task has reached so far keeps the `p.grad` that the user may have given it.
        """
        for at, position in enumerate(self.own()):
            if position in self.owners:
                parts = [g.own[at] for g in pending.values()]
                self.parameters[position].grad = sum_weighted([1.0] * len(parts), parts)

    def owner(self, position: int) -> str:
        """Return the task that a parameter belongs to.

        Raises:
            ValueError: no solving step has seen it.
        """
        if position not in self.owners:
            raise ValueError(
                f"a parameter of shape {tuple(self.parameters[position].shape)} was first reached between two solves, "
                "so its task is not known; use between='exact' for a model whose graph changes"
            )
        return self.owners[position]

    def state_dict(self) -> dict[str, Any]:
        """Return positions of the shared parameters and owners of the others."""
        return {
            "shared": None if self.shared is None else list(self.shared),
            "owners": {str(position): name for position, name in self.owners.items()},
            "seen": sorted(self.seen),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned; ValueError for other shared parameters than these."""
        theirs = state["shared"]
        if self.shared is not None and theirs is not None and list(theirs) != self.shared:
            raise ValueError(
                f"state must be of the same shared parameters, got {len(theirs)} at other positions than these "
                f"{len(self.shared)}; build model and optimizer as they were"
            )
        self.shared = self.shared if theirs is None else list(theirs)
        self.owners = {int(position): name for position, name in state["owners"].items()}
        self.seen = set(state["seen"])
