"""ESMM: conversion learned over all impressions as click times conversion (Ma et al., SIGIR 2018); ESCM2 on top."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from equipoise.data.batches import Batch
from equipoise.data.schema import Schema
from equipoise.delayed import fake_negative_weights
from equipoise.losses import Losses, task_losses
from equipoise.models.blocks import BlockOptions
from equipoise.models.funnel import funnel
from equipoise.models.layers import tower
from equipoise.models.ranker import ByTask, Ranker, parts, seeded

Logs = dict[str, Tensor]


class ESMM(Ranker):
    """P(buy) = P(click) P(buy | click), each factor a tower over shared embeddings; P(buy) learns from all impressions.

    The steps are those that the schema declares: a binary label with `given: click`, where click is binary, is a
    conversion, and its output is CTCVR; longer and branching funnels multiply along the way. Tasks outside the funnel
    have a plain tower. `named` gives ctr, cvr and ctcvr. The product is taken in log space, and its loss in float64:
    right to float32's rounding for probabilities down to 1e-12 and far below.

    A tower that several outputs use (click's) counts as shared, so click has no parameters of its own then.

    ESCM2 adds to the loss of a conversion the risk of cvr on clicked rows (o = 1) weighted by p = 1 / P(click), with d the
    cross-entropy of P(buy | click): ctcvr_weight l(ctcvr) + cvr_weight R, where
    "ips": R = o d p;  "dr": R = e + o (d - e) p + o (d - e)^2 p, with e >= 0 of an imputation tower of its own.
    p is a constant there: the risk of cvr does not train the propensity. A row whose click is not known counts as o = 0.

    Args:
        schema: `log.schema`.
        loss: "ctcvr" (ESMM), "ips" or "dr" (ESCM2).
        cvr_weight, ctcvr_weight: of ESCM2's two terms, >= 0; ESMM's loss is (0, 1).
        min_propensity: P(click) counts as at least this in p, in (0, 1].
        embedding_dim: size of each feature's embedding.
        hidden: hidden sizes of each tower, () for a linear one.
        dropout: after each hidden layer. batch_norm: before each ReLU.
        id_dropout, sparse: see `FeatureEmbedding`; sparse also where the schema says so.
        seed: of the initial parameters; None draws from torch's generator as it is.
        blocks: what else the model has, see `equipoise.models.blocks.Blocks`.

    Raises:
        ValueError: several tasks without a funnel of binary ones, an unknown loss, a weight or propensity out of range.

    Source: Ma et al., Entire Space Multi-Task Model: An Effective Approach for Estimating Post-Click Conversion Rate,
    SIGIR 2018, from memory. Wang et al., ESCM2: Entire Space Counterfactual Multi-Task Model for Post-Click Conversion
    Rate Estimation, SIGIR 2022, checked on PaddleRec's code, whose weights .5 are the defaults. There p is constant under
    IPS only and bounded by 15, and e is a probability; a cross-entropy goes beyond 1, so ours is a softplus.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        loss: str = "ctcvr",
        cvr_weight: float = 0.5,
        ctcvr_weight: float = 0.5,
        min_propensity: float = 0.01,
        embedding_dim: int = 16,
        hidden: Sequence[int] = (128, 64),
        dropout: float = 0.0,
        batch_norm: bool = False,
        id_dropout: float = 0.05,
        sparse: bool = False,
        seed: int | None = None,
        **blocks: Unpack[BlockOptions],
    ) -> None:
        super().__init__()
        if loss not in ("ctcvr", "ips", "dr"):
            raise ValueError(f"loss must be 'ctcvr', 'ips' or 'dr', got {loss!r}")
        if cvr_weight < 0 or ctcvr_weight < 0:
            raise ValueError(f"cvr_weight and ctcvr_weight must be >= 0, got {cvr_weight} and {ctcvr_weight}")
        if not 0 < min_propensity <= 1:
            raise ValueError(f"min_propensity must lie in (0, 1], got {min_propensity}")
        late = [y.name for y in schema.labels if y.correction is not None]
        if late and loss != "ctcvr":
            raise ValueError(
                f"loss must be 'ctcvr' where a label has a correction ({late[0]!r}), got {loss!r}: its risk on clicked rows has none"
            )
        self.schema, self.loss, self.min_propensity = schema, loss, min_propensity
        self.cvr_weight, self.ctcvr_weight = cvr_weight, ctcvr_weight
        self.given = funnel(schema, "esmm", binary=True)
        with seeded(seed):
            self.embedding = self.inputs(schema, embedding_dim, id_dropout, sparse, blocks)
            self.upper = ByTask()
            self.own = ByTask({task: nn.ModuleDict() for task in schema.tasks})
            self.shared_sides = tuple(set(self.given.values()))
            for task in schema.tasks:
                made = tower(self.embedding.width, hidden, dropout, batch_norm)
                if task in self.given.values():
                    self.upper[task] = made
                else:
                    parts(self.own, task)["tower"] = made
                if loss == "dr" and task in self.given:
                    parts(self.own, task)["imputation"] = tower(
                        self.embedding.width, hidden, dropout, batch_norm
                    )

    def represent(self, batch: Batch) -> Tensor:
        """Return the embeddings [B, width]."""
        out: Tensor = self.embedding(batch)
        return out

    def outputs(self, batch: Batch, representation: Tensor) -> dict[str, Tensor]:
        """Return {task: logit [B]}, of a conversion that of its CTCVR: log P - log(1 - P)."""
        steps = self._steps(batch, representation)
        return self._outputs(steps, _log_probabilities(steps, self.given))

    def losses(self, batch: Batch) -> Losses:
        """Return {task: scalar loss or None}; of a conversion over all impressions whose label is known."""
        x = self.represent(batch)
        steps = self._steps(batch, x)
        log_p, log_q = logs = _log_probabilities(steps, self.given)
        rows = {}
        for task in self.schema.tasks:
            if self.schema.label(task).kind != "binary":
                continue
            y = batch.labels[task].to(log_p[task].dtype)
            rows[task] = -(y * log_p[task] + (1 - y) * log_q[task])
            if rate := self.schema.sampling.get(task):  # p / (p + r q): see `losses.sampled`
                less = log_q[task] + math.log(rate)
                rows[task] += torch.logaddexp(log_p[task], less) - (1 - y) * math.log(rate)
            weights = fake_negative_weights(task, log_p[task] - log_q[task], batch, self.schema)
            if weights is not None:
                rows[task] = rows[task] * weights
            if self.loss != "ctcvr" and task in self.given:
                risk = self._risk(task, batch, x, steps[task].double(), log_p[self.given[task]])
                rows[task] = self.ctcvr_weight * rows[task] + self.cvr_weight * risk
        return task_losses(self._outputs(steps, logs), batch, self.schema, x, rows)

    @torch.no_grad()
    def named(self, batch: Batch) -> dict[str, Tensor]:
        """Return {"ctr", "cvr", "ctcvr": [B] probabilities}; of several conversions "cvr:buy", of several firsts "ctr:click".

        cvr is P(buy | click), to be judged on clicked rows; ctcvr is P(buy), on all impressions, as `predict` has it.
        """
        steps = self._steps(batch, self.represent(batch))
        log_p, _ = _log_probabilities(steps, self.given)
        first = sorted(set(self.given.values()) - set(self.given))
        named = {f"ctr:{task}" if len(first) > 1 else "ctr": torch.sigmoid(steps[task]) for task in first}
        for task in self.given:
            end = f":{task}" if len(self.given) > 1 else ""
            named[f"cvr{end}"] = torch.sigmoid(steps[task])
            named[f"ctcvr{end}"] = log_p[task].exp().to(steps[task].dtype)
        return named

    def _steps(self, batch: Batch, x: Tensor) -> dict[str, Tensor]:
        """Return {task: raw output of its tower [B]}: the logit of P(task | the task before it)."""
        steps = {
            task: (self.upper[task] if task in self.upper else parts(self.own, task)["tower"])(x).squeeze(-1)
            for task in self.schema.tasks
        }
        return self.with_sides(batch, steps)

    def _outputs(self, steps: Mapping[str, Tensor], logs: tuple[Logs, Logs]) -> dict[str, Tensor]:
        log_p, log_q = logs
        return {
            task: (log_p[task] - log_q[task]).to(z.dtype) if task in self.given else z
            for task, z in steps.items()
        }

    def _risk(self, task: str, batch: Batch, x: Tensor, step: Tensor, log_click: Tensor) -> Tensor:
        """Return ESCM2's R of each row [B]."""
        before, y = self.given[task], batch.labels[task].to(step.dtype)
        clicked = batch.labels[before].to(step.dtype) * batch.masks[before]
        weight = clicked / log_click.detach().exp().clamp(min=self.min_propensity)
        error = F.binary_cross_entropy_with_logits(step, y, reduction="none")
        if self.loss == "ips":
            return error * weight
        imputed = F.softplus(parts(self.own, task)["imputation"](x).squeeze(-1).double())
        gap = error - imputed
        return imputed + gap * weight + gap.square() * weight


def _log_probabilities(steps: Mapping[str, Tensor], given: Mapping[str, str]) -> tuple[Logs, Logs]:
    """Return {task: log P} and {task: log(1 - P)}, float64 [B], where P is the product of sigmoid(z) along the funnel.

    log P = sum of logsigmoid(z). For P <= 1/2, log(1 - P) = log1p(-exp(log P)): exact where P is tiny. Above, with s the
    step before: 1 - P_t = (1 - P_s) + P_s sigmoid(-z_t), a sum of positive terms: exact where 1 - P is tiny.
    float64, since float32 keeps log P = -28 to 1e-6 only, which is P to 1e-6.
    """
    log_p = {task: F.logsigmoid(z.double()) for task, z in steps.items()}
    log_q = {task: F.logsigmoid(-z.double()) for task, z in steps.items()}
    for task, before in given.items():
        tail = torch.logaddexp(log_q[before], log_p[before] + log_q[task])
        log_p[task] = log_p[before] + log_p[task]
        small = log_p[task] <= -math.log(2)
        inside = torch.where(
            small, log_p[task], -1.0
        )  # the branch not taken must not have an infinite gradient
        log_q[task] = torch.where(small, torch.log1p(-inside.exp()), tail)
    return log_p, log_q
