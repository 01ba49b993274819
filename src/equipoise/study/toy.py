"""`equipoise toy`: methods on the two-loss landscape, all starts and methods advanced as one float64 batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from equipoise.methods.famo import FAMO
from equipoise.methods.learned import adam as learned_adam
from equipoise.methods.learned import begin
from equipoise.study import pair_weights
from equipoise.study.landscape import OPTIMUM, STARTS, losses, losses_and_gradients
from equipoise.updates import adam

NAMES = ("sum", "cagrad", "imtl_g", "nash", "famo", "pub", "pub_convex")
UPDATES = 5
"""NAMES from here on weigh updates, those before gradients."""
SHIFT = 21.0
"""FAMO takes logarithms: it sees the losses, which are above -20, plus this. No gradient changes."""
STEPS, LR, KEEP = 100_000, 3e-3, 500


@dataclass(frozen=True)
class Paths:
    """What was run.

    Attributes:
        losses: float64 [K, 7, 5, 2] at the steps `steps` [K], methods in the order of NAMES, starts as in STARTS.
        final: [7, 5, 2] after the last step. lr: Adam's.
    """

    losses: Tensor
    steps: list[int]
    final: Tensor
    lr: float

    def table(self) -> dict[str, list[list[float]]]:
        """Return {method: [[loss 1, loss 2] of each start]}."""
        return {name: self.final[i].tolist() for i, name in enumerate(NAMES)}

    def reached(self, within: float = 0.8) -> dict[str, int]:
        """Return {method: starts that end within this of the symmetric optimum in each loss}."""
        near = (self.final - torch.tensor(OPTIMUM, dtype=torch.float64)).abs().amax(-1) <= within
        return {name: int(near[i].sum()) for i, name in enumerate(NAMES)}


@torch.inference_mode()
def run(
    num_steps: int = STEPS,
    lr: float = LR,
    *,
    starts: tuple[tuple[float, float], ...] = STARTS,
    tell: Callable[[int], None] = lambda count: None,
) -> Paths:
    """Return the paths of plain sum, CAGrad, IMTL-G, Nash-MTL, FAMO and PUB (raw and convex) from every start, under Adam.

    Every formula is the library's own pure function (`updates.adam`) or its closed form for two tasks
    (`study.pair_weights`), checked against Balancer in the tests. Constants are the methods' defaults; Nash has scale "norm".

    Args:
        num_steps: >= 1. lr: of torch.optim.Adam, betas .9, .999, eps 1e-8. tell: called with the number of steps done since the last call.

    Raises:
        ValueError: num_steps or lr out of range.
    """
    if num_steps < 1:
        raise ValueError(f"steps must be >= 1, got {num_steps}")
    if not 0 < lr < 1:
        raise ValueError(f"lr must lie in (0, 1), got {lr}")
    x = torch.tensor(starts, dtype=torch.float64).repeat(len(NAMES), 1, 1)
    hyper = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "amsgrad": False, "lr": lr}
    state = {
        "step": torch.tensor(0.0),
        "exp_avg": torch.zeros_like(x),
        "exp_avg_sq": torch.zeros_like(x),
    }
    bargain = _Famo(len(starts))
    every = max(1, num_steps // KEEP)
    kept, at = [losses(x)], [0]
    for step in range(1, num_steps + 1):
        now, gradients = losses_and_gradients(x)
        w = torch.ones_like(now)
        a, b, d = _dots(gradients[1:4])
        w[1] = pair_weights.cagrad(a[0], b[0], d[0])
        w[2] = pair_weights.imtl_g(a[1], b[1], d[1])
        w[3] = pair_weights.norm_scaled(pair_weights.balanced(a[2], b[2], d[2]), a[2], b[2], d[2])
        w[4] = bargain.weights(now[4])
        whole = {k: _each_task(v[UPDATES:] if v.ndim else v) for k, v in state.items()}
        peeks = adam.peek(gradients[UPDATES:], whole, hyper)
        w[UPDATES:] = pair_weights.balanced(*_dots(peeks))
        w[UPDATES + 1] = pair_weights.convex(w[UPDATES + 1])
        mixed = (w[..., None] * gradients).sum(-2)
        update = adam.peek(mixed, state, hyper)
        update[UPDATES:] = (w[UPDATES:, :, :, None] * peeks).sum(-2)
        state = adam.advance(mixed, state, hyper)
        x = x - lr * update
        bargain.observe(now[4], losses(x[4]))
        if step % every == 0 or step == num_steps:
            kept.append(losses(x))
            at.append(step)
            tell(at[-1] - at[-2])
    return Paths(torch.stack(kept), at, kept[-1], lr)


class _Famo:
    """FAMO's own numbers for many starts at once, by the method's constants and its Adam on them."""

    def __init__(self, num: int) -> None:
        self.method = FAMO()
        self.xi = torch.zeros(num, 2, dtype=torch.float64)
        self.moments = begin(2 * num)
        self.everyone = torch.ones(2 * num, dtype=torch.bool)

    def weights(self, now: Tensor) -> Tensor:
        """Return z_t / (c L_t) [num, 2]."""
        z = torch.softmax(self.xi, -1) / (now + SHIFT)
        return z / z.sum(-1, keepdim=True)

    def observe(self, before: Tensor, after: Tensor) -> None:
        """Move xi by what the losses did."""
        z = torch.softmax(self.xi, -1)
        fell = (before + SHIFT).log() - (after + SHIFT).log()
        gradient = z * (fell - (z * fell).sum(-1, keepdim=True)) + self.method.gamma * self.xi
        moved, self.moments = learned_adam(
            self.xi.flatten(), gradient.flatten(), self.moments, self.everyone, self.method.lr
        )
        self.xi = moved.view_as(self.xi)


def _dots(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return <r_1, r_1>, <r_1, r_2>, <r_2, r_2> [...] of rows [..., 2, n]."""
    first, second = rows.unbind(-2)
    return first.square().sum(-1), (first * second).sum(-1), second.square().sum(-1)


def _each_task(value: Tensor) -> Tensor:
    """Return Adam's moments [..., n] as [..., 2, n], the same for both tasks; the step counter as it is."""
    return value if value.ndim == 0 else value.unsqueeze(-2).expand(*value.shape[:-1], 2, value.shape[-1])
