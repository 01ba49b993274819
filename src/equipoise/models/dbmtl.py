"""DBMTL: each step of a funnel reads what the steps before it found (Wang et al., 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor, nn

from equipoise.data.batches import Batch
from equipoise.data.schema import Schema
from equipoise.models.blocks import BlockOptions
from equipoise.models.funnel import funnel
from equipoise.models.layers import mlp, tower
from equipoise.models.ranker import ByTask, Ranker, parts, seeded


class DBMTL(Ranker):
    """y_t = w_t r_t + b_t, r_t = relation_t(q_t, r_s of all steps s before t), q_t = mlp_t(trunk(x)); r_t = q_t at a first step.

    So the network is factored as P(buy, click | x) = P(click | x) P(buy | x, click). The steps are those that the schema
    declares with `given:`; tasks outside the funnel have r_t = q_t. A step that others follow shares q and r with them,
    and only the last linear map is its own.

    Args:
        schema: `log.schema`.
        embedding_dim: size of each feature's embedding.
        hidden: trunk sizes. tower_sizes: sizes of mlp_t. relation: sizes of relation_t, not empty.
        dropout: after each hidden layer. batch_norm: before each ReLU.
        id_dropout, sparse: see `FeatureEmbedding`; sparse also where the schema says so.
        seed: of the initial parameters; None draws from torch's generator as it is.
        blocks: what else the model has, see `equipoise.models.blocks.Blocks`.

    Raises:
        ValueError: several tasks without a funnel, no relation size.

    Source: Wang et al., Deep Bayesian Multi-Target Learning for Recommender Systems, arXiv 1902.09154, 2019, checked on
    TorchEasyRec's DBMTL (relation networks over concatenated features), where the user names the steps that a task reads.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        embedding_dim: int = 16,
        hidden: Sequence[int] = (128, 64),
        tower_sizes: Sequence[int] = (32,),
        relation: Sequence[int] = (32,),
        dropout: float = 0.0,
        batch_norm: bool = False,
        id_dropout: float = 0.05,
        sparse: bool = False,
        seed: int | None = None,
        **blocks: Unpack[BlockOptions],
    ) -> None:
        super().__init__()
        if not relation:
            raise ValueError(f"relation must hold at least one size, got {relation!r}")
        self.schema = schema
        given = funnel(schema, "dbmtl")
        self.before: dict[str, list[str]] = {task: [] for task in schema.tasks if task not in given}
        for task, last in given.items():  # earlier steps first
            self.before[task] = [*self.before[last], last]
        followed = set(given.values())
        with seeded(seed):
            self.embedding = self.inputs(schema, embedding_dim, id_dropout, sparse, blocks)
            self.trunk = mlp(self.embedding.width, hidden, dropout, batch_norm)
            width = hidden[-1] if hidden else self.embedding.width
            size = tower_sizes[-1] if tower_sizes else width
            sizes = {task: relation[-1] if steps else size for task, steps in self.before.items()}
            self.upper = ByTask({task: nn.ModuleDict() for task in schema.tasks if task in followed})
            self.own = ByTask({task: nn.ModuleDict() for task in schema.tasks})
            for task in schema.tasks:
                home, steps = parts(self.upper if task in followed else self.own, task), self.before[task]
                home["mlp"] = mlp(width, tower_sizes, dropout, batch_norm)
                if steps:
                    inputs = size + sum(sizes[step] for step in steps)
                    home["relation"] = mlp(inputs, relation, dropout, batch_norm)
                parts(self.own, task)["tower"] = tower(sizes[task], (), dropout, batch_norm)

    def represent(self, batch: Batch) -> Tensor:
        """Return the trunk's output [B, hidden[-1]]."""
        out: Tensor = self.trunk(self.embedding(batch))
        return out

    def logits(self, batch: Batch, representation: Tensor) -> dict[str, Tensor]:
        """Return {task: w r + b} [B]."""
        r: dict[str, Tensor] = {}
        for task, steps in self.before.items():
            home = parts(self.upper if task in self.upper else self.own, task)
            r[task] = home["mlp"](representation)
            if steps:
                r[task] = home["relation"](torch.cat([r[task], *(r[step] for step in steps)], dim=1))
        return {task: parts(self.own, task)["tower"](r[task]).squeeze(-1) for task in self.schema.tasks}
