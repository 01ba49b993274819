"""Labels that are learned through their training distribution: ordered classes, and times within classes of duration."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from equipoise.data.schema import Schema

QUANTILES = 100
"""Steps of the quantile of a time within its bucket."""


def thresholds(schema: Schema, task: str, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return an ordinal task's classes [K], ascending, and thresholds [K - 1], descending: logit of the share above each.

    Args:
        like: gives dtype and device.
    """
    found = torch.tensor(schema.label_levels[task], dtype=torch.float64)
    above = 1.0 - found[:-1, 1]
    return found[:, 0].contiguous().to(like), torch.logit(above).to(like)


def ordinal_rows(task: str, output: Tensor, label: Tensor, schema: Schema) -> Tensor:
    """Return -log P(label) [B] under cumulative logits P(y > v_k) = sigmoid(z + theta_k), theta_k the training shares' logits.

    P(v_k) = sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - e^{b - a}), a = z + theta_{k-1}, b = z + theta_k: exact where
    it is tiny. At z = 0 the classes have their training shares. Thresholds are not learned, so one output a row is all that a
    model gives; how sure it is shows in how far z is from 0 only.

    Source: proportional odds, McCullagh, Regression Models for Ordinal Data, JRSS B 1980.
    """
    values, theta = thresholds(schema, task, output)
    at = torch.searchsorted(values, label.contiguous()).clamp(max=len(values) - 1)
    low = torch.cat([theta.new_full((1,), math.inf), theta])[at]  # of the class below: always exceeded
    high = torch.cat([theta, theta.new_full((1,), -math.inf)])[at]
    first = torch.where(torch.isinf(low), 0.0, F.logsigmoid(output + torch.where(torch.isinf(low), 0.0, low)))
    last = torch.where(
        torch.isinf(high), 0.0, F.logsigmoid(-output - torch.where(torch.isinf(high), 0.0, high))
    )
    return -(first + last + torch.log1p(-torch.exp(high - low)))


def ordinal_mean(task: str, output: Tensor, schema: Schema) -> Tensor:
    """Return the expected class [B], v_1 + sum_k (v_{k+1} - v_k) P(y > v_k), in the label's own units."""
    values, theta = thresholds(schema, task, output)
    above = torch.sigmoid(output.unsqueeze(1) + theta)
    return values[0] + (above * (values[1:] - values[:-1])).sum(1)


def quantile_rows(task: str, output: Tensor, label: Tensor, numerical: Tensor, schema: Schema) -> Tensor:
    """Return D2Q's loss [B]: cross-entropy of sigmoid(z) with the time's quantile among times of its duration bucket, in [0, 1].

    Least where sigmoid(z) is the expected quantile, as D2Q's squared error is, and not flat far out.
    """
    rank = _rank(_table(task, numerical, schema, output), label)
    return F.binary_cross_entropy_with_logits(output, rank.to(output.dtype), reduction="none")


def quantile_time(task: str, output: Tensor, numerical: Tensor, schema: Schema) -> Tensor:
    """Return the time [B] at the predicted quantile of its duration bucket, between steps linearly; in the column's unit."""
    return _at(_table(task, numerical, schema, output), torch.sigmoid(output))


RANK_SCALE = (0.5, 12**-0.5)
"""Mean and standard deviation of a rank, uniform on [0, 1]: what a model learns has mean 0 and spread 1, as other labels have."""


def standard_rank(task: str, label: Tensor, schema: Schema) -> Tensor:
    """Return the standardised quantile [B] of each label among training labels, ties in the middle of theirs."""
    return (_rank(_one_table(task, schema, label), label) - RANK_SCALE[0]) / RANK_SCALE[1]


def ranked_label(task: str, output: Tensor, schema: Schema) -> Tensor:
    """Return the training label [B] at the quantile that a model gives, cut to [0, 1], between steps linearly."""
    share = (output * RANK_SCALE[1] + RANK_SCALE[0]).clamp(0.0, 1.0)
    return _at(_one_table(task, schema, output), share)


def _rank(table: Tensor, label: Tensor) -> Tensor:
    """Return the share [B] of the quantiles [B or 1, QUANTILES + 1] below each label, those equal to it half."""
    y = label.unsqueeze(1)
    return ((table < y).sum(1) + (table <= y).sum(1)).to(label.dtype) / (2 * table.shape[1])


def _at(table: Tensor, share: Tensor) -> Tensor:
    """Return the value [B] at each share in [0, 1] of the quantiles [B, QUANTILES + 1]."""
    position = share * QUANTILES
    below = position.floor().clamp(0, QUANTILES - 1)
    at = below.long().unsqueeze(1)
    low, high = table.gather(1, at).squeeze(1), table.gather(1, at + 1).squeeze(1)
    return low + (high - low) * (position - below)


def _one_table(task: str, schema: Schema, like: Tensor) -> Tensor:
    """Return the quantiles of all training labels, one row for each of `like`."""
    row = torch.tensor(schema.label_levels[task][1], dtype=torch.float64).to(like)
    return row.expand(len(like), -1)


def _table(task: str, numerical: Tensor, schema: Schema, like: Tensor) -> Tensor:
    """Return the quantiles [B, QUANTILES + 1] of each row's duration bucket."""
    edges, *rows = schema.label_levels[task]
    names = [f.column or f.name for f in schema.numerical]
    at = names.index(str(schema.label(task).duration))
    bucket = torch.bucketize(numerical[:, at].contiguous(), torch.tensor(edges, device=numerical.device))
    return torch.tensor(rows, dtype=torch.float64).to(like)[bucket]
