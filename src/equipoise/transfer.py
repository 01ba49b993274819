"""Device -> host: what a step reads of the device goes through `to_host`, so that a solve synchronises once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Waiting:
    """Numbers on a device that a step can do without for a while: they go along with its next transfer.

    Attributes:
        value: tensor of any shape. found: the same in float64 on the CPU, None until it has been read.
    """

    def __init__(self, value: Tensor) -> None:
        self.value = value.detach()
        self.found: Tensor | None = None

    def read(self) -> Tensor:
        """Return the numbers, with a transfer of their own unless one has taken them along. Synchronises."""
        if self.found is None:
            to_host([], [self])
        assert self.found is not None
        return self.found


def waits(device: torch.device) -> bool:
    """Whether reading a number of this device waits for all work under way there. On the CPU it is free."""
    return device.type != "cpu"


def to_host(tensors: Sequence[Tensor], along: Sequence[Waiting] = ()) -> list[Tensor]:
    """Return the tensors in float64 on the CPU, by one transfer. Synchronises.

    Args:
        along: numbers that are read with them; their `found` is set.
    """
    unread = [w for w in along if w.found is None]
    every = [*(t.detach() for t in tensors), *(w.value for w in unread)]
    device = next((t.device for t in every if waits(t.device)), None)
    if device is None:
        found = [t.double() for t in every]
    else:
        flat = torch.cat([t.to(device, torch.float64).reshape(-1) for t in every]).cpu()
        parts = torch.split(flat, [t.numel() for t in every])
        found = [part.view(t.shape) for part, t in zip(parts, every, strict=True)]
    for w, value in zip(unread, found[len(tensors) :], strict=True):
        w.found = value
    return found[: len(tensors)]
