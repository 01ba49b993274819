"""Fake-negative weighting: labels of a snapshot -> the loss that their final labels would have had, in expectation."""

from __future__ import annotations

import torch
from torch import Tensor

from equipoise.data.batches import Batch
from equipoise.data.schema import Schema

FLOOR = 0.05
"""The least F that a positive's weight divides by: no positive weighs more than 20."""


def fake_negative_weights(task: str, logit: Tensor, batch: Batch, schema: Schema) -> Tensor | None:
    """Return the weight of each row's loss, [B], no gradient through it; None for a task without `correction: fnw`.

        positive: 1 / F        negative: (1 - p) / (1 - p F)        both times min(1, F / FLOOR)

    with p = sigmoid(logit), the model's own probability that the event comes within the window, as a constant, and F the row's `seen`, the
    probability that an event which comes is known by now. A row shows its event with probability p F, so that the expected loss is
    p F / F l(1) + (1 - p F) (1 - p) / (1 - p F) l(0) = p l(1) + (1 - p) l(0), that of the final labels. With p the model's, the
    gradient is 0 in expectation where the model is right and only there. F = 1 (the window is over) gives weights of 1. A row that is too young
    for `FLOOR` counts less as a whole, so that its positives are bounded and its probability stays right; at F = 0 it does not count.

    Delays are taken to be independent of the features, given that an event comes.

    Args:
        logit: [B] raw output: the logit of all rows, also where the loss is that of thinned-out negatives.

    Raises:
        ValueError: a batch without `seen` of the task.

    Source: Ktena et al., Addressing Delayed Feedback for Continuous Training with Neural Networks in CTR Prediction, RecSys 2019; its
    weights as two public implementations have them, the paper itself was not at hand. There every row is fed at once as a negative
    and, when its event comes, once more as a positive; a row is then positive with p / (1 + p), and the weights are 1 + p and
    (1 - p) (1 + p). A prepared log holds each row once, as of one moment, at which it is positive with p F; hence F, which
    their stream does not need.
    """
    if schema.label(task).correction is None:
        return None
    if task not in batch.seen:
        raise ValueError(
            f"batch.seen must hold task {task!r}, whose label has correction='fnw', got {sorted(batch.seen)}; take batches of a prepared "
            "log, or give it F, [B], the share of events that are known by now"
        )
    seen = batch.seen[task].to(logit.dtype)
    fixed = logit.detach()
    # (1 - p) / (1 - p F) = 1 / (1 + exp(logit) (1 - F)), finite for every logit; log(0) = -inf gives 1
    negative = torch.sigmoid(-(fixed + torch.log1p(-seen))) * (seen / FLOOR).clamp(max=1)
    return torch.where(batch.labels[task] > 0, 1 / seen.clamp(min=FLOOR), negative)
