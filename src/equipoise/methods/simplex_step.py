"""The projection on the simplex that MoCo's and SDMGrad's steps end with."""

from __future__ import annotations

import torch
from torch import Tensor


def on_simplex(x: Tensor) -> Tensor:
    """Return the point of the simplex {w >= 0, sum w = 1} that is nearest to x [P].

    w = max(x - theta, 0), theta from the sorted entries (Held, Wolfe, Crowder, Mathematical Programming 6, 1974).

    Example:
        >>> on_simplex(torch.tensor([0.6, 0.6, -1.0])).tolist()
        [0.5, 0.5, 0.0]
    """
    ordered = torch.sort(x, descending=True).values
    above = (ordered.cumsum(0) - 1.0) / torch.arange(1, len(x) + 1, dtype=x.dtype)
    theta = above[int((ordered > above).sum()) - 1]
    return (x - theta).clamp_min(0.0)
