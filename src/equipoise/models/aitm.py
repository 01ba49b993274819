"""AITM: each step of a funnel takes over what it can use of the step before it (Xi et al., KDD 2021)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor, nn

from equipoise.data.batches import Batch
from equipoise.data.schema import Schema
from equipoise.losses import Losses, row_losses, task_losses
from equipoise.models.blocks import BlockOptions
from equipoise.models.funnel import funnel
from equipoise.models.layers import mlp, tower
from equipoise.models.ranker import ByTask, Ranker, parts, seeded


class AITM(Ranker):
    """y_t = tower_t(z_t), z_t = AIT(g_t(z_s), q_t) with s the step before t; q_t = mlp_t(x), and z_t = q_t at a first step.

    AIT(p, q) = sum over u in {p, q} of softmax(<h2(u), h3(u)> / sqrt(d)) h1(u). The steps are those that the schema
    declares with `given:`; tasks outside the funnel have z_t = q_t. Where both are binary the behavioural-expectation
    calibrator adds calibration * max(P_t - P_s, 0): a later step must not be likelier than the one before it.

    The gradient of that term goes to each task's parameters from its own loss: that of t holds the term with P_s fixed,
    that of s its other half with P_t fixed, at the value 0. So the sum of the losses and its gradient are the paper's
    where all labels are known, and no loss reaches another task's tower; each part is averaged over its task's rows.

    A step that others follow shares all but its tower with them.

    Args:
        schema: `log.schema`.
        calibration: weight of the calibrator, >= 0.
        embedding_dim: size of each feature's embedding.
        hidden: sizes of mlp_t, d the last. tower_sizes: hidden sizes of each tower, () for a linear one.
        dropout: after each hidden layer. batch_norm: before each ReLU.
        id_dropout, sparse: see `FeatureEmbedding`; sparse also where the schema says so.
        seed: of the initial parameters; None draws from torch's generator as it is.
        blocks: what else the model has, see `equipoise.models.blocks.Blocks`.

    Raises:
        ValueError: several tasks without a funnel, a negative calibration.

    Source: Xi et al., Modeling the Sequential Dependence among Audience Multi-step Conversions with Multi-task Learning in
    Targeted Display Advertising, KDD 2021, equations 2 to 9 from memory; checked on MTReclib's aitm.py (transfer) and on
    ports of the authors' script (g with ReLU, weight .6). The scripts sum the calibrator over the batch beside means of
    cross-entropies; a mean here, so that it does not hang on the batch size. MTReclib has one h1, h2, h3 for all steps,
    we one set a step: with two tasks the same.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        calibration: float = 0.6,
        embedding_dim: int = 16,
        hidden: Sequence[int] = (128, 64),
        tower_sizes: Sequence[int] = (32,),
        dropout: float = 0.0,
        batch_norm: bool = False,
        id_dropout: float = 0.05,
        sparse: bool = False,
        seed: int | None = None,
        **blocks: Unpack[BlockOptions],
    ) -> None:
        super().__init__()
        if calibration < 0:
            raise ValueError(f"calibration must be >= 0, got {calibration}; 0 leaves the calibrator out")
        self.schema, self.calibration = schema, calibration
        self.given = funnel(schema, "aitm")
        with seeded(seed):
            self.embedding = self.inputs(schema, embedding_dim, id_dropout, sparse, blocks)
            width = self.embedding.width
            d = hidden[-1] if hidden else width
            followed = set(self.given.values())
            self.upper = ByTask({task: nn.ModuleDict() for task in schema.tasks if task in followed})
            self.own = ByTask({task: nn.ModuleDict() for task in schema.tasks})
            for task in schema.tasks:
                home = parts(self.upper if task in followed else self.own, task)
                home["mlp"] = mlp(width, hidden, dropout, batch_norm)
                if task in self.given:
                    home["g"] = mlp(d, (d,), dropout)
                    home.update({name: nn.Linear(d, d) for name in ("h1", "h2", "h3")})
                parts(self.own, task)["tower"] = tower(d, tower_sizes, dropout, batch_norm)

    def represent(self, batch: Batch) -> Tensor:
        """Return the embeddings [B, width]."""
        out: Tensor = self.embedding(batch)
        return out

    def logits(self, batch: Batch, representation: Tensor) -> dict[str, Tensor]:
        """Return {task: tower(z)} [B]."""
        z: dict[str, Tensor] = {}
        for task in [t for t in self.schema.tasks if t not in self.given] + list(self.given):
            home = parts(self.upper if task in self.upper else self.own, task)
            z[task] = home["mlp"](representation)
            if task in self.given:
                z[task] = _transfer(home, z[self.given[task]], z[task])
        return {task: parts(self.own, task)["tower"](z[task]).squeeze(-1) for task in self.schema.tasks}

    def losses(self, batch: Batch) -> Losses:
        """Return {task: scalar loss or None}, the calibrator in it."""
        x = self.represent(batch)
        outputs = self.outputs(batch, x)
        raised = {task: z.to(torch.promote_types(z.dtype, torch.float32)) for task, z in outputs.items()}
        rows = {task: row_losses(task, z, batch, self.schema) for task, z in raised.items()}
        for task, before in self.given.items():
            if {self.schema.label(task).kind, self.schema.label(before).kind} == {
                "binary"
            } and self.calibration:
                late, early = torch.sigmoid(raised[task]), torch.sigmoid(raised[before])
                rows[task] = rows[task] + self.calibration * torch.relu(late - early.detach())
                half = self.calibration * torch.relu(late.detach() - early)
                rows[before] = rows[before] + (half - half.detach())
        return task_losses(outputs, batch, self.schema, x, rows)


def _transfer(part: nn.ModuleDict, before: Tensor, q: Tensor) -> Tensor:
    """Return AIT(g(before), q), [B, d]."""
    u = torch.stack([part["g"](before), q], dim=1)
    scores = (part["h2"](u) * part["h3"](u)).sum(2) / math.sqrt(q.shape[1])
    values: Tensor = part["h1"](u)
    return (torch.softmax(scores, dim=1).unsqueeze(2) * values).sum(1)
