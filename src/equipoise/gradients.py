"""Losses in, one gradient a task out: shared parameters and the task's own, averaged over micro-batches."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from equipoise.transfer import to_host

Gradients = list[Tensor | None]


@dataclass
class TaskGradient:
    """One task's gradient in the step at hand: means over the `backward` calls, weighted by their counts.

    `shared` and `own` follow the Balancer's parameter lists; None stands where the loss does not reach. `loss` is
    the mean loss (0-dim, no graph), `count` the sum of counts.
    """

    shared: Gradients
    own: Gradients
    loss: Tensor
    count: float

    def add(self, shared: Gradients, own: Gradients, loss: Tensor, count: float) -> None:
        """Fold in one more micro-batch, in place: mean += (new - mean) * count / total."""
        self.count += count
        share = count / self.count if self.count > 0 else 0.0
        self.shared = [running_mean(a, b, share) for a, b in zip(self.shared, shared, strict=True)]
        self.own = [running_mean(a, b, share) for a, b in zip(self.own, own, strict=True)]
        self.loss = self.loss + (loss - self.loss) * share

    def scale(self, factor: float) -> None:
        """Replace the gradient (not the loss) by `factor` times itself."""
        self.shared = [None if g is None else g * factor for g in self.shared]
        self.own = [None if g is None else g * factor for g in self.own]


def running_mean(mean: Tensor | None, new: Tensor | None, share: float) -> Tensor | None:
    """Return `mean + (new - mean) * share`; None counts as zeros. Dense or sparse."""
    if mean is None:
        return None if new is None else new * share
    if new is None:
        return mean * (1.0 - share)
    return (mean * (1.0 - share) + new * share).coalesce() if mean.is_sparse else torch.lerp(mean, new, share)


@dataclass
class CheckedLosses:
    """Losses that passed the checks: `values` and `counts` of those with a graph, `names` of all.

    `scale` is a gradient scaler's, 0-dim: backward runs from `scale * loss`, and what it gives is divided by it again.
    """

    values: dict[str, Tensor]
    counts: dict[str, float]
    names: list[str]
    scale: Tensor | None = None


def check_losses(
    losses: Mapping[str, Tensor | None] | Tensor, counts: Mapping[str, float] | None = None
) -> CheckedLosses:
    """Return the losses that have a graph, by task, with their counts.

    Args:
        losses: {task: 0-dim tensor or None}, or a tensor [T] whose tasks are "0", "1", ...
        counts: {task: number of valid labels (or sum of weights) behind the mean}; default `losses.counts` where the
            mapping has it, else 1 a call.

    Raises:
        ValueError: a loss that is not a scalar tensor, a name that is not text, an empty mapping, a negative or unknown count.
    """
    if isinstance(losses, Tensor):
        if losses.dim() != 1:
            raise ValueError(
                f"losses must be a mapping {{task: loss}} or a tensor of shape [T], got shape {tuple(losses.shape)}; "
                "pass {'click': loss_click, ...}"
            )
        losses = {str(i): loss for i, loss in enumerate(losses.unbind())}
    if not isinstance(losses, Mapping):
        raise ValueError(
            f"losses must be a mapping {{task: loss}} or a tensor [T], got {type(losses).__name__}"
        )
    if not losses:
        raise ValueError("losses must hold at least one task, got an empty mapping")
    if wrong := [name for name in losses if not isinstance(name, str)]:
        raise ValueError(
            f"losses must name its tasks by text, got {wrong[0]!r}; pass {{{str(wrong[0])!r}: ...}} or a tensor of shape [T]"
        )
    given = counts if counts is not None else getattr(losses, "counts", None)
    if counts is not None and (unknown := [name for name in counts if name not in losses]):
        raise ValueError(
            f"counts has task {unknown[0]!r} that losses does not have; tasks are {list(losses)}"
        )
    values: dict[str, Tensor] = {}
    weights: dict[str, float] = {}
    for name, loss in losses.items():
        if loss is None:
            continue
        if not isinstance(loss, Tensor):
            raise ValueError(f"losses[{name!r}] must be a scalar tensor, got {type(loss).__name__}")
        if loss.numel() != 1:
            raise ValueError(
                f"losses[{name!r}] must be a scalar, got shape {tuple(loss.shape)}; reduce it with .mean()"
            )
        count = 1.0 if given is None else float(given.get(name, 1.0))
        if not math.isfinite(count) or count < 0:
            raise ValueError(f"counts[{name!r}] must be a finite number >= 0, got {count}")
        if loss.requires_grad and count > 0:
            values[name] = loss.reshape(())
            weights[name] = count
    return CheckedLosses(values, weights, list(losses))


def gradients(
    loss: Tensor, parameters: Sequence[Tensor], keep_graph: bool = True, scale: Tensor | None = None
) -> Gradients:
    """Return d loss / d parameter for each parameter, None where the loss does not reach.

    Without `keep_graph` the activations are freed on the way. With `scale`, backward runs from `scale * loss`.

    Sparse gradients come back coalesced, so that squaring them is right where an id occurs twice. Dense ones have the
    parameter's layout and memory of their own, as torch's `.backward()` leaves them in `p.grad`: autograd may hand the
    same or an expanded tensor to several inputs, and whoever clips `p.grad` in place would scale it twice.
    """
    root = loss if scale is None else loss * scale.to(loss.device)
    found = torch.autograd.grad(root, list(parameters), retain_graph=keep_graph, allow_unused=True)
    seen: set[int] = set()
    result: Gradients = []
    for g, parameter in zip(found, parameters, strict=True):
        if g is not None and g.is_sparse:
            g = g.coalesce()
        elif g is not None and (g.stride() != parameter.stride() or g.data_ptr() in seen):
            g = torch.empty_like(parameter).copy_(g)
        if g is not None and not g.is_sparse:
            seen.add(g.data_ptr())
        if g is not None and scale is not None:
            g = g * (1.0 / scale).to(g)  # a scaler's scale is a power of 2, so this is exact
        result.append(g)
    return result


def sum_of_squares(found: Sequence[Tensor | None], like: Tensor) -> Tensor:
    """Return the sum of squares as a 0-dim tensor: Inf when a square overflows in the gradients' own precision.

    That is wanted: 1e25 is finite, its square in float32 is not, and an optimizer's second moment would be lost. The sum of
    16-bit squares is one of float32, as many small ones overflow where none does.
    """
    wide = torch.promote_types(like.dtype, torch.float32)
    total = torch.zeros((), dtype=wide, device=like.device)
    for g in found:
        if g is not None:
            flat = (g.values() if g.is_sparse else g).reshape(-1)
            half = flat.dtype.itemsize < 4
            squares = (flat * flat).sum(dtype=wide) if half else torch.dot(flat, flat)
            total = total + squares.to(total)
    return total


def all_zero(found: Sequence[Tensor | None]) -> bool:
    """Return whether every entry is exactly 0 (a sum of squares may underflow to 0, a value does not). Synchronises."""
    counts = [(g.values() if g.is_sparse else g).count_nonzero() for g in found if g is not None]
    return not any(bool(n) for n in to_host(counts))


def zero_unless(good: Tensor, g: Tensor | None) -> Tensor | None:
    """Return the gradient, with 0 in every entry unless `good` (0-dim bool, on the device: nothing is read)."""
    if g is None:
        return None
    bad = good.logical_not().to(g.device)
    if not g.is_sparse:
        return g.masked_fill(bad, 0.0)
    values = g.values().masked_fill(bad, 0.0)
    return torch.sparse_coo_tensor(g.indices(), values, g.shape, is_coalesced=True, check_invariants=False)


def sum_weighted(weights: Sequence[float], found: Sequence[Tensor | None]) -> Tensor | None:
    """Return `sum_t w_t g_t` as a new tensor, added in the order of tasks; None when no task reaches.

    A single weight of exactly 1 returns the gradient itself, so that one task leaves no trace of rounding.
    """
    if len(weights) == 1 and weights[0] == 1.0:
        return found[0]
    total: Tensor | None = None
    for w, g in zip(weights, found, strict=True):
        if g is not None:
            total = g * w if total is None else total + g * w
    return total.coalesce() if total is not None and total.is_sparse else total
