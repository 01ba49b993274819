"""Weights and per-task updates -> parameters and optimizer state. The only file that writes them, always in place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from equipoise import transfer
from equipoise.compiled import Fast
from equipoise.updates import prepare
from equipoise.updates.rows import View


def write_update(
    view: View,
    passes: Fast | None,
    updates: Iterator[Tensor | None],
    weights: Sequence[float],
    slots: Sequence[dict[str, Any]],
) -> None:
    """Write one joint step: `theta <- apply(theta, u)`, `s <- advance(s, sum_t w_t g_t + wd*theta)`. In place.

    The slots become bit for bit those of torch's single-tensor optimizer with `p.grad = sum_t w_t g_t`.

    Args:
        passes: compiled ones, for the pieces whose update is None. updates: joint update of each piece, in order.
        weights: [T].
        slots: the optimizer's own of each part, which `view` was made of.
    """
    shared, state = view.shared, view.states[0]
    fresh: dict[str, Any] = {}
    as_tensor = torch.tensor(weights, dtype=torch.float32)
    for piece, update in zip(view.pieces(), updates, strict=True):
        if update is None and passes is not None:
            passes.write(piece, as_tensor)
            if "step" in state:  # the other slots are written there
                fresh["step"] = state["step"] + 1
            continue
        assert update is not None  # None comes with compiled passes
        theta, before = view.theta[piece], view.state_at(state, piece)
        mixed = view.gradients[0][piece] * weights[0]
        for w, g in zip(weights[1:], view.gradients[1:], strict=True):
            mixed = mixed + g[piece] * w
        seen = prepare(mixed, theta, shared.group, 1.0, shared.rule)
        after = shared.rule.advance(seen, before, shared.group, theta)
        theta.copy_(shared.rule.apply(theta, update, before, shared.group))
        _put(view, state, fresh, piece, after)
    _finish(view, [state], [fresh], [[each] for each in slots])


def write_task_update(
    view: View, updates: Iterator[Tensor | None], share: float, slots: Sequence[Sequence[dict[str, Any]]]
) -> None:
    """Write one joint step under per-task moments (AdaTask, AAAI 2023): parameter and the tasks' slots. In place.

    `theta <- apply(theta, u)`, `s_t <- advance(s_t, g_t + share*wd*theta)` for each task.
    """
    shared = view.shared
    fresh: list[dict[str, Any]] = [{} for _ in view.states]
    for piece, update in zip(view.pieces(), updates, strict=True):
        assert update is not None
        theta = view.theta[piece]
        steps = []
        for g, state in zip(view.gradients, view.states, strict=True):
            seen = prepare(g[piece], theta, shared.group, share, shared.rule)
            steps.append(shared.rule.advance(seen, view.state_at(state, piece), shared.group, theta))
        before = view.state_at(view.states[0], piece)
        theta.copy_(shared.rule.apply(theta, update, before, shared.group))
        for state, new, after in zip(view.states, fresh, steps, strict=True):
            _put(view, state, new, piece, after)
    _finish(view, view.states, fresh, slots)


def _put(view: View, state: dict[str, Any], fresh: dict[str, Any], piece: Any, after: dict[str, Any]) -> None:
    """Write a piece's slots into the view's, and keep in `fresh` what waits for the last piece: counters, new slots."""
    theta = view.theta[piece]
    for name, value in after.items():
        if view.shaped(state.get(name)):
            state[name][piece].copy_(value)
        elif isinstance(value, Tensor) and value.dim() > 0 and value.shape == theta.shape:
            if name not in fresh:
                fresh[name] = torch.empty_like(view.theta)
            fresh[name][piece].copy_(value)
        else:
            fresh[name] = value


def _finish(
    view: View,
    states: Sequence[dict[str, Any]],
    fresh: Sequence[dict[str, Any]],
    slots: Sequence[Sequence[dict[str, Any]]],
) -> None:
    """Put counters and new slots where they belong, [parts][states]; copy back what was worked on as a copy."""
    start = 0
    for part, each in zip(view.parts, slots, strict=True):
        parameter, rows = part.shared.parameter, part.rows
        num = parameter.numel() if len(view.parts) > 1 or not view.theta.dim() else len(view.theta)
        mine = slice(start, start + num)
        copied = rows is not None or len(view.parts) > 1
        if copied:
            _copy_back(parameter, view.theta[mine], rows)
        for state, new, real in zip(states, fresh, each, strict=True):
            for name, value in {**state, **new}.items():
                if isinstance(value, Tensor) and value.dim() > 0 and name in real and copied:
                    _copy_back(real[name], value[mine], rows)
                elif name in new:
                    of_entries = (
                        isinstance(value, Tensor) and value.dim() > 0 and value.shape == view.theta.shape
                    )
                    if of_entries:
                        value = value[mine].view(parameter.shape)
                    real[name] = value.clone() if isinstance(value, Tensor) and copied else value
        start += num


def _copy_back(real: Tensor, value: Tensor, rows: Tensor | None) -> None:
    if rows is None:
        real.copy_(value.view(real.shape))
    else:
        real.index_copy_(0, rows, value.view(-1, *real.shape[1:]))


def set_gradient(parameters: Sequence[torch.nn.Parameter], mixed: Sequence[Tensor | None]) -> None:
    """Set `p.grad` of each shared parameter to its mixed gradient (None where no task reaches). In place."""
    for parameter, gradient in zip(parameters, mixed, strict=True):
        parameter.grad = gradient


def bounded(tensors: Sequence[Tensor | None], max_norm: float | None) -> list[Tensor | None]:
    """Return the tensors, scaled so that their joint norm is at most `max_norm` (None: as they are)."""
    if max_norm is None:
        return list(tensors)
    factor = shrink([t.values() if t.is_sparse else t for t in tensors if t is not None], max_norm)
    return [None if t is None else scaled(t, factor) for t in tensors]


def shrink(tensors: Sequence[Tensor], max_norm: float) -> float | Tensor:
    """Return the factor that bounds the tensors' joint norm, as torch's `clip_grad_norm_`.

    min(1, max_norm / (norm + 1e-6)), 1 for no tensors; on a device a 0-dim tensor there, so that nothing is read.
    """
    if not tensors:
        return 1.0
    first = tensors[0].device
    norm = torch.linalg.vector_norm(
        torch.stack([torch.linalg.vector_norm(t).double().to(first) for t in tensors])
    )
    if transfer.waits(first):
        factor: Tensor = max_norm / (norm + 1e-6)
        return factor.clamp(max=1.0)
    return min(1.0, max_norm / (float(norm) + 1e-6))


def scaled(tensor: Tensor, factor: float | Tensor) -> Tensor:
    """Return `factor` times the tensor; itself where the factor is known to be 1."""
    if isinstance(factor, Tensor):
        return tensor * factor.to(tensor.device, tensor.dtype)
    return tensor if factor == 1.0 else tensor * factor
