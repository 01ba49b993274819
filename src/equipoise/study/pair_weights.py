"""Weights of two tasks in closed form, for many Gram matrices at once: what the solvers give one at a time.

Each takes dot products [...] a = <r_1, r_1>, b = <r_1, r_2>, d = <r_2, r_2> of two rows, float64, and returns weights [..., 2].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

FLOOR = 1e-12
"""1 + cosine is at least this where the rows are opposite."""
RANK = 20 * torch.finfo(torch.float64).eps
"""`IMTLG` takes two rows for dependent when 1 - |cosine| is under this share of 1 + |cosine|."""


def balanced(a: Tensor, b: Tensor, d: Tensor) -> Tensor:
    """Return the solution of M w = 1/w: w_t = 1 / (|r_t| sqrt(1 + cosine)). A zero row has weight 0, the other 1 / |r|."""
    first, second = a.sqrt(), d.sqrt()
    lengths = first * second
    there = lengths > 0
    cosine = torch.where(there, b / torch.where(there, lengths, 1.0), 0.0).clamp(-1, 1)
    root = (1 + cosine).clamp(min=FLOOR).sqrt()
    return torch.stack([_inverse(first * root), _inverse(second * root)], dim=-1)


def imtl_g(a: Tensor, b: Tensor, d: Tensor) -> Tensor:
    """Return IMTL-G's weights: 1/|r_t| over their sum; for dependent rows the pseudo-inverse's, |r_t| over their sum or difference."""
    first, second = a.sqrt(), d.sqrt()
    cosine = (b / (first * second)).clamp(-1, 1)
    apart = torch.stack([second, first], dim=-1) / (first + second)[..., None]
    sign = cosine.sign()
    along = (a + sign * d) / (a + d).square()  # of v = (|r_1|, sign |r_2|), M = v v'
    v = torch.stack([first, sign * second], dim=-1) * along[..., None]
    total = v.sum(-1, keepdim=True)
    dependent = torch.where(total.abs() > FLOOR * v.abs().sum(-1, keepdim=True), v / total, 0.0)
    independent = 1 - cosine.abs() > RANK * (1 + cosine.abs())
    return torch.where(independent[..., None], apart, dependent)


def cagrad(a: Tensor, b: Tensor, d: Tensor, radius: float = 0.5) -> Tensor:
    """Return CAGrad's weights 1/2 + c |g_0| / |g_x| (x, 1 - x), x in [0, 1] the least of <g_x, g_0> + c |g_0| |g_x|.

    g_x = x r_1 + (1 - x) r_2 and g_0 = g_1/2. That function of x is convex with a root in closed form. Where
    |g_x| is 0 there is no step that helps both: weights 0.
    """
    length = ((a + 2 * b + d).clamp(min=0) / 4).sqrt()
    slope = (a - d) / 2  # of <g_x, g_0>
    bend = (a - 2 * b + d).clamp(min=0)  # |r_1 - r_2|^2
    start = b - d  # <r_1 - r_2, r_2>
    spread = (a * d - b * b).clamp(min=0)  # |r_1 - r_2|^2 |r_2|^2 - start^2
    k = radius * length
    inside = k.square() * bend - slope.square()
    root = -slope * (spread / torch.where(inside > 0, inside, 1.0)).sqrt()
    x = torch.where(
        (inside > 0) & (bend > 0), (root - start) / torch.where(bend > 0, bend, 1.0), (slope < 0).double()
    )
    x = torch.where(bend > 0, x, 0.5).clamp(0, 1)
    reach = (x * x * a + 2 * x * (1 - x) * b + (1 - x).square() * d).clamp(min=0).sqrt()
    scale = torch.maximum(a, d).sqrt()
    found = 0.5 + (k * _inverse(reach))[..., None] * torch.stack([x, 1 - x], dim=-1)
    stuck = (reach <= 1e-6 * scale) & (length > 1e-9 * scale)
    return torch.where(stuck[..., None], 0.0, found)


def norm_scaled(w: Tensor, a: Tensor, b: Tensor, d: Tensor) -> Tensor:
    """Return the weights scaled so that |sum_t w_t r_t| is the mean length of the rows (scale "norm")."""
    length = (w[..., 0].square() * a + 2 * w[..., 0] * w[..., 1] * b + w[..., 1].square() * d).clamp(min=0)
    return w * ((a.sqrt() + d.sqrt()) / 2 / length.sqrt().clamp(min=math.sqrt(FLOOR)))[..., None]


def convex(w: Tensor) -> Tensor:
    """Return the weights over their sum."""
    return w / w.sum(-1, keepdim=True)


def _inverse(value: Tensor) -> Tensor:
    return torch.where(value > 0, 1 / torch.where(value > 0, value, 1.0), 0.0)
