"""Logits, labels, masks -> one loss a task: sum(mask * weight * l) / sum(mask * weight)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from equipoise import levels
from equipoise.data.batches import Batch
from equipoise.data.schema import Schema
from equipoise.delayed import fake_negative_weights


class Losses(dict[str, Tensor | None]):
    """{task: scalar loss, or None where the batch has no valid label of the task}.

    Attributes:
        counts: {task: sum of mask times sample weight}, what the mean was taken over.
        representation: the shared representation that the towers read, or None.
    """

    def __init__(
        self,
        losses: Mapping[str, Tensor | None],
        counts: dict[str, float],
        representation: Tensor | None = None,
    ) -> None:
        super().__init__(losses)
        self.counts = counts
        self.representation = representation


def task_losses(
    outputs: Mapping[str, Tensor],
    batch: Batch,
    schema: Schema,
    representation: Tensor | None = None,
    rows: Mapping[str, Tensor] | None = None,
) -> Losses:
    """Return the losses of a batch.

    Binary tasks: cross-entropy with the raw output as logit. Watch: weighted logistic regression. Regression: squared error or Huber loss (delta 1) against
    the label, or log1p or the rank of it, standardised by `schema.label_scale`. Rows whose label is missing count for nothing; sample
    weights are divided by their sum. Half-precision outputs are raised to float32 first. Which tasks have a label is known of a
    batch that `Batch.to` brought to a device; of one that was made there it is read, which synchronises.

    Args:
        outputs: {task: [B] raw output}.
        rows: {task: [B] loss of each row} that a model computed itself, instead of those of its outputs.

    Raises:
        ValueError: no outputs, or one that is not [B].
    """
    if not outputs:
        raise ValueError("outputs must hold at least one task, got none")
    for name, output in outputs.items():
        if output.shape != (len(batch),):
            raise ValueError(f"outputs[{name!r}] must have shape ({len(batch)},), got {tuple(output.shape)}")
    raised = {
        name: output.to(torch.promote_types(output.dtype, torch.float32)) for name, output in outputs.items()
    }
    weights = {name: batch.weights_of(name).to(output.dtype) for name, output in raised.items()}
    sums = torch.stack([weight.sum() for weight in weights.values()])
    counts = {name: batch.counts[name] for name in outputs if name in batch.counts}
    if len(counts) < len(outputs):
        counts = dict(zip(outputs, sums.tolist(), strict=True))  # synchronises, once for all tasks
    losses: dict[str, Tensor | None] = dict.fromkeys(outputs)
    for at, (name, output) in enumerate(raised.items()):
        if counts[name] > 0:
            own = None if rows is None else rows.get(name)
            each = row_losses(name, output, batch, schema) if own is None else own.to(output.dtype)
            losses[name] = (each * weights[name]).sum() / sums[at]
    return Losses(losses, counts, representation)


def row_losses(task: str, output: Tensor, batch: Batch, schema: Schema) -> Tensor:
    """Return the loss of each row, [B]; of rows without a label too, finite as their label is 0.

    Watch, with t = time / its training mean >= 0 and output z: t softplus(-z) + softplus(z), a positive of weight t and a
    negative of weight 1, least where exp(z) = E[t]. Source: Covington, Adams, Sargin, RecSys 2016, section 4.2; there an
    impression is either positive or negative, so that the odds are E[t] only nearly, for few clicks; here each row is
    both, and the odds are E[t].
    """
    label, spec = batch.labels[task].to(output.dtype), schema.label(task)
    if spec.kind == "binary":
        rows = F.binary_cross_entropy_with_logits(sampled(task, output, schema), label, reduction="none")
        weights = fake_negative_weights(task, output, batch, schema)
        return rows if weights is None else rows * weights
    if spec.kind == "ordinal":
        return levels.ordinal_rows(task, output, label, schema)
    if spec.way == "d2q":
        return levels.quantile_rows(task, output, label, batch.numerical, schema)
    mean, std = schema.label_scale.get(spec.name, (0.0, 1.0))
    if spec.kind == "watch":
        return F.softplus(output) + label / std * F.softplus(-output)
    if spec.transform == "rank":
        target = levels.standard_rank(task, label, schema)
    else:
        target = ((torch.log1p(label) if spec.transform == "log1p" else label) - mean) / std
    if spec.loss == "huber":
        return F.huber_loss(output, target, reduction="none")
    return F.mse_loss(output, target, reduction="none")


def sampled(task: str, output: Tensor, schema: Schema) -> Tensor:
    """Return the logit of a binary task among the rows that sampling has left: output - log(rate).

    With rate r of the negatives kept, odds are 1 / r of what they were. The output stays the logit of all rows, p = sigmoid(output), so that
    what is made of it (a product along a funnel, a prediction, an exported model) is right as it is:
    with p' the probability on the sample, p = r p' / (r p' + 1 - p').
    Source: He et al., Practical Lessons from Predicting Clicks on Ads at Facebook, ADKDD 2014, section 6.3.
    """
    rate = schema.sampling.get(task)
    return output if rate is None else output - math.log(rate)


def predictions(
    outputs: Mapping[str, Tensor], schema: Schema, numerical: Tensor | None = None
) -> dict[str, Tensor]:
    """Return {task: probability, or expected label in its own units} of raw outputs.

    Args:
        numerical: the batch's, [B, D]; only d2q reads it, whose prediction hangs on the item's length.

    Watch: the training mean times exp(output). Under log1p it is the expected log taken back, which is below the expected label (the median, if logs are symmetric);
    under rank the label at the expected quantile.
    """
    result = {}
    for name, output in outputs.items():
        spec = schema.label(name)
        if spec.kind == "binary":
            result[name] = torch.sigmoid(output)
        elif spec.kind == "ordinal":
            result[name] = levels.ordinal_mean(name, output, schema)
        elif spec.way == "d2q":
            if numerical is None:
                raise ValueError(
                    f"numerical must be given, since task {name!r} is learned by d2q; pass batch.numerical"
                )
            result[name] = levels.quantile_time(name, output, numerical, schema)
        elif spec.transform == "rank":
            result[name] = levels.ranked_label(name, output, schema)
        else:
            mean, std = schema.label_scale.get(name, (0.0, 1.0))
            if spec.kind == "watch":
                result[name] = torch.exp(output) * std
                continue
            value = output * std + mean
            result[name] = torch.expm1(value) if spec.transform == "log1p" else value
    return result
