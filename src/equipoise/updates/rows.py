"""Per-task gradients -> the rows that the Gram matrix sees: peeks, per-task moments, Clippy. Reads, never writes.

A shared parameter is worked on as a `Part`: as a whole, or the rows of a table that the tasks touch; and where the rule goes entry
by entry, in pieces that stay in a core's cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from equipoise.updates import ELEMENTWISE, SPARSE, Rule, prepare, rowwise_adagrad, sparse_adam
from equipoise.updates.clippy import Clippy
from equipoise.updates.generic import Generic

State = Mapping[str, Any]

BLOCK = 2**17
"""Entries of a CPU tensor that are worked on at a time: T blocks of this size and their slots stay in a core's cache."""

SMALL = 2**13
"""Parameters of up to so many entries are worked on together."""


class Shared(NamedTuple):
    """A shared parameter with the optimizer that owns it, its param_group and the optimizer's rule."""

    parameter: torch.nn.Parameter
    optimizer: torch.optim.Optimizer
    group: dict[str, Any]
    rule: Rule

    @property
    def state(self) -> dict[str, Any]:
        """The optimizer's own slots of this parameter, {} before its first step (never made by looking)."""
        found: dict[str, Any] = self.optimizer.state.get(self.parameter, {})
        return found


@dataclass
class Part:
    """A shared parameter in the step at hand.

    Attributes:
        rows: [U] ascending ids of the table's rows that the tasks touch; None: all of the parameter.
        gradients: [T] tensors of the parameter's shape, or [U, ...] of its rows; zeros where a task does not reach.
    """

    shared: Shared
    rows: Tensor | None
    gradients: list[Tensor]

    @classmethod
    def of(cls, shared: Shared, column: Sequence[Tensor | None], table: bool = False) -> Part:
        """Return the part of a parameter for its tasks' gradients: dense, coalesced sparse, or None.

        Args:
            table: it had sparse gradients before, so that without any it is no row of it, and not all of it.
        """
        parameter = shared.parameter
        table = table or shared.rule in (sparse_adam, rowwise_adagrad)
        if table and all(g is None for g in column):
            nothing = torch.zeros(0, dtype=torch.int64, device=parameter.device)
            return cls(shared, nothing, [parameter.detach()[nothing] for _ in column])
        if not any(g is not None and g.is_sparse for g in column):
            dense = [torch.zeros_like(parameter) if g is None else g for g in column]
            return cls(shared, None, dense)
        if any(
            g is not None and not g.is_sparse for g in column
        ):  # a table that also serves as a dense matrix
            return cls.of(shared, [g if g is None or not g.is_sparse else g.to_dense() for g in column])
        ids = [g.indices()[0] for g in column if g is not None]
        if all(torch.equal(ids[0], other) for other in ids[1:]):
            rows = ids[0]
            values = [None if g is None else g.values() for g in column]
        else:
            rows = torch.unique(torch.cat(ids))  # ascending
            values = [None if g is None else _spread(g, rows) for g in column]
        shape = (len(rows), *parameter.shape[1:])
        empty = torch.zeros(shape, dtype=parameter.dtype, device=parameter.device)
        return cls(shared, rows, [empty if v is None else v for v in values])

    def weighted(self, weights: Sequence[float]) -> Tensor:
        """Return `sum_t w_t g_t` as `p.grad` takes it: dense, or coalesced sparse over the rows."""
        total = self.gradients[0] * weights[0]
        for w, g in zip(weights[1:], self.gradients[1:], strict=True):
            total = total + g * w
        return total if self.rows is None else self.as_gradient(total)

    def as_gradient(self, values: Tensor) -> Tensor:
        """Return values of the rows as a coalesced sparse gradient of the table."""
        assert self.rows is not None
        return torch.sparse_coo_tensor(
            self.rows.unsqueeze(0),
            values,
            self.shared.parameter.shape,
            is_coalesced=True,
            check_invariants=False,
        )


class View:
    """Parameters and slots as the rules see them: views of the real tensors, or copies (a table's rows, a bundle of small ones).

    `states` are the slots that each task's peek reads: one for all tasks, or one each (per-task moments). Tensors are flat where the
    rule goes entry by entry, so that a piece is a slice. `joint.py` writes through views, and copies back where they are copies.

    Args:
        parts: one, or several that `alike` allows.
        states: of each part.
        whole: never flat: what comes after the rule looks at whole tensors (Clippy, GradDrop).
    """

    def __init__(self, parts: Sequence[Part], states: Sequence[Sequence[State]], whole: bool) -> None:
        self.parts, self.shared = list(parts), parts[0].shared
        if parts[0].rows is not None and self.shared.rule not in SPARSE:
            raise ValueError(
                f"{type(self.shared.optimizer).__name__} has no update rule for row-sparse tables; mix gradients "
                "(level='gradients'), or use SparseAdam, Adagrad, RowWiseAdagrad or SGD"
            )
        self.cut = not whole and all(flat(part, each) for part, each in zip(parts, states, strict=True))
        self.theta = self._cat([self._of(part, part.shared.parameter.detach()) for part in parts])
        columns = zip(*(part.gradients for part in parts), strict=True)
        self.gradients = [self._cat([g.reshape(-1) if self.cut else g for g in column]) for column in columns]
        self.states = [
            {name: self._slot([state[name] for state in each]) for name in each[0]}
            for each in zip(*states, strict=True)
        ]

    def _slot(self, values: Sequence[Any]) -> Any:
        """Return the view of a slot: its rows and entries where it has the parameters', else the first as it is."""
        value, part = values[0], self.parts[0]
        parameter, rows = part.shared.parameter, part.rows
        if not isinstance(value, Tensor):
            return value
        if value.shape == parameter.shape and value.dim() > 0:
            return self._cat([self._of(each, v) for each, v in zip(self.parts, values, strict=True)])
        of_rows = rows is not None and value.dim() > 0 and len(value) == len(parameter)
        return value[rows] if of_rows else value

    def _of(self, part: Part, value: Tensor) -> Tensor:
        value = value if part.rows is None else value[part.rows]
        return value.view(-1) if self.cut else value

    def _cat(self, values: Sequence[Tensor]) -> Tensor:
        return values[0] if len(values) == 1 else torch.cat(list(values))

    def shaped(self, value: Any) -> bool:
        """Whether a slot of a state in `states` goes with theta, entry by entry."""
        return isinstance(value, Tensor) and value.shape == self.theta.shape and value.dim() > 0

    def pieces(self) -> Iterator[Any]:
        """Yield what to index tensors with: slices of a flat view, or everything at once."""
        if not self.cut:
            yield ...
            return
        block = BLOCK if self.theta.device.type == "cpu" else 2**24
        for start in range(0, max(1, len(self.theta)), block):  # one empty piece of an empty view
            yield slice(start, start + block)

    def state_at(self, state: State, piece: Any, num: int = 0) -> dict[str, Any]:
        """Return a state's slots for a piece; with `num` they are expanded to as many rows."""
        return {
            name: (s[piece].expand(num, -1) if num else s[piece]) if self.shaped(s) else s
            for name, s in state.items()
        }

    def peeks(self, piece: Any, share: float, clip: Clippy | None) -> tuple[Tensor, Tensor]:
        """Return gradients and updates [T, ...] of a piece: what the optimizer WOULD do for each task alone.

        Args:
            share: part of the coupled decay `wd * theta` that goes into each task's gradient, 1/S (design: S is the weight sum
                that the scale rule or the method promises).
            clip: Clippy's bound for each row, or None.
        """
        shared, theta = self.shared, self.theta[piece]
        gradients = torch.stack([g[piece] for g in self.gradients])
        seen = prepare(gradients, theta, shared.group, share, shared.rule)
        if self.cut and len(self.states) == 1:
            state = self.state_at(self.states[0], piece, len(gradients))
            return gradients, shared.rule.peek(seen, state, shared.group, theta)
        each = self.states * len(gradients) if len(self.states) == 1 else self.states
        updates = [
            shared.rule.peek(g, self.state_at(state, piece), shared.group, theta)
            for g, state in zip(seen, each, strict=True)
        ]
        if clip is not None:
            updates = [clip.clip(u, theta, float(shared.group["lr"])) for u in updates]
        return gradients, torch.stack(updates)


def flat(part: Part, states: Sequence[State]) -> bool:
    """Whether a part may be worked on in flat pieces: an entry-by-entry rule, contiguous tensors."""
    parameter = part.shared.parameter
    slots = [s for state in states for s in state.values() if isinstance(s, Tensor)]
    contiguous = all(s.is_contiguous() for s in [parameter, *slots] if s.shape == parameter.shape)
    return part.shared.rule in ELEMENTWISE and parameter.dim() > 0 and contiguous


def bundles(parts: Sequence[Part], states: Sequence[Sequence[State]], whole: bool) -> list[list[int]]:
    """Return positions of parts to be worked on together: small ones of one group whose counters agree, the others alone.

    A bias of 256 entries costs as many calls as a block of 65,536.
    """
    found: list[list[int]] = []
    open_: dict[Any, list[int]] = {}
    for k, (part, each) in enumerate(zip(parts, states, strict=True)):
        shared = part.shared
        small = shared.parameter.numel() <= SMALL and shared.parameter.device.type == "cpu"
        if whole or not small or part.rows is not None or not flat(part, each):
            found.append([k])
            continue
        counters = tuple(
            tuple(
                (name, "entries" if s.shape == shared.parameter.shape else float(s))
                if isinstance(s, Tensor) and (s.shape == shared.parameter.shape or s.numel() == 1)
                else (name, str(s))
                for name, s in state.items()
            )
            for state in each
        )
        key = (id(shared.group), shared.parameter.dtype, counters)
        if key not in open_ or sum(parts[i].shared.parameter.numel() for i in open_[key]) > BLOCK:
            open_[key] = []
            found.append(open_[key])
        open_[key].append(k)
    return found


def dense(gradient: Tensor | None, parameter: Tensor) -> Tensor:
    """Return the gradient, zeros where the task does not reach the parameter.

    Raises:
        ValueError: a sparse gradient, of which no row a task can be kept.
    """
    if gradient is None:
        return torch.zeros_like(parameter)
    if gradient.is_sparse:
        raise ValueError(
            "a method that keeps a row of each task (MoCo, DB-MTL, ExcessMTL) needs dense gradients, got a sparse one; build the "
            "embedding with sparse=False, or take another method"
        )
    return gradient


def check_sparse(shared: Shared) -> None:
    """Raise a ValueError unless the optimizer's rule knows row-sparse tables.

    Raises:
        ValueError: an optimizer without a row-sparse rule, momentum, or weight decay, which would have to move every row.
    """
    name, group = type(shared.optimizer).__name__, shared.group
    if shared.rule not in SPARSE:
        if isinstance(shared.rule, Generic):
            return  # what it does with rows nobody knows; `View` refuses it where updates are mixed
        raise ValueError(
            f"a row-sparse table must be in SparseAdam, Adagrad, RowWiseAdagrad or SGD, got {name}; give the "
            "Balancer two optimizers, one for the tables, or build them with sparse=False"
        )
    for what in ("momentum", "weight_decay"):
        if group.get(what, 0) != 0:
            raise ValueError(
                f"{what} must be 0 for a row-sparse table, which moves only the rows of a batch, got {group[what]} in {name}"
            )


def _spread(gradient: Tensor, rows: Tensor) -> Tensor:
    """Return the values of a sparse gradient at `rows` [U], zeros where it has none."""
    values = gradient.values()
    found = values.new_zeros((len(rows), *values.shape[1:]))
    return found.index_copy_(0, torch.searchsorted(rows, gradient.indices()[0]), values)
