"""MMoE: shared experts, one softmax gate and one tower a task (Ma et al., KDD 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor, nn

from equipoise.data.batches import Batch
from equipoise.data.schema import Schema
from equipoise.models.blocks import BlockOptions
from equipoise.models.layers import Experts, mixture, tower
from equipoise.models.ranker import ByTask, Ranker, parts, seeded


class MMoE(Ranker):
    """y_t = tower_t(sum_e softmax(G_t x)_e f_e(x)): embeddings and experts are shared, gates and towers the tasks' own.

    Args:
        schema: `log.schema`.
        num_experts: E, each started differently.
        embedding_dim: size of each feature's embedding.
        expert: sizes of each expert. tower_sizes: hidden sizes of each tower, () for a linear one.
        gates: "own", or "shared" for one gate that all tasks use (OMoE, a baseline of the paper).
        dropout: after each hidden layer. batch_norm: before each ReLU.
        id_dropout, sparse: see `FeatureEmbedding`; sparse also where the schema says so.
        seed: of the initial parameters; None draws from torch's generator as it is.
        blocks: what else the model has, see `equipoise.models.blocks.Blocks`.

    Source: Ma et al., Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts, KDD 2018,
    equations 6 and 7; gates are linear in the input without a bias, as there.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        num_experts: int = 8,
        embedding_dim: int = 16,
        expert: Sequence[int] = (128, 64),
        tower_sizes: Sequence[int] = (32,),
        gates: str = "own",
        dropout: float = 0.0,
        batch_norm: bool = False,
        id_dropout: float = 0.05,
        sparse: bool = False,
        seed: int | None = None,
        **blocks: Unpack[BlockOptions],
    ) -> None:
        super().__init__()
        if gates not in ("own", "shared"):
            raise ValueError(f"gates must be 'own' or 'shared', got {gates!r}")
        self.schema = schema
        with seeded(seed):
            self.embedding = self.inputs(schema, embedding_dim, id_dropout, sparse, blocks)
            width = self.embedding.width
            self.experts = Experts(num_experts, width, expert, dropout, batch_norm)
            self.gate = nn.Linear(width, num_experts, bias=False) if gates == "shared" else None
            self.own = ByTask()
            for task in schema.tasks:
                parts: dict[str, nn.Module] = {"tower": tower(expert[-1], tower_sizes, dropout, batch_norm)}
                if gates == "own":
                    parts["gate"] = nn.Linear(width, num_experts, bias=False)
                self.own[task] = nn.ModuleDict(parts)

    def represent(self, batch: Batch) -> Tensor:
        """Return [B, width + E * d]: the input, which the gates read, and the experts' outputs."""
        x = self.embedding(batch)
        return torch.cat([x, self.experts(x).flatten(1)], dim=1)

    def logits(self, batch: Batch, representation: Tensor) -> dict[str, Tensor]:
        """Return {task: tower(gated mixture)} [B]."""
        x = representation[:, : self.embedding.width]
        f = representation[:, self.embedding.width :].view(x.shape[0], self.experts.num_experts, -1)
        common = None if self.gate is None else mixture(self.gate, x, f)
        result = {}
        for task in self.schema.tasks:
            part = parts(self.own, task)
            mixed = mixture(part["gate"], x, f) if common is None else common
            result[task] = part["tower"](mixed).squeeze(-1)
        return result
