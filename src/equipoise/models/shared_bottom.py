"""SharedBottom: one trunk, one tower a task (Caruana 1997)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

from torch import Tensor

from equipoise.data.batches import Batch
from equipoise.data.schema import Schema
from equipoise.models.blocks import BlockOptions
from equipoise.models.layers import mlp, tower
from equipoise.models.ranker import ByTask, Ranker, seeded


class SharedBottom(Ranker):
    """y_t = tower_t(trunk(x)): embeddings and trunk are shared, towers are the tasks' own.

    Args:
        schema: `log.schema`.
        embedding_dim: size of each feature's embedding.
        hidden: trunk sizes. tower_sizes: hidden sizes of each tower, () for a linear one.
        dropout: after each hidden layer. batch_norm: before each ReLU.
        id_dropout, sparse: see `FeatureEmbedding`; sparse also where the schema says so.
        seed: of the initial parameters; None draws from torch's generator as it is.
        blocks: what else the model has, see `equipoise.models.blocks.Blocks`.

    Source: R. Caruana, Multitask Learning, Machine Learning 28, 1997.
    """

    def __init__(
        self,
        schema: Schema,
        *,
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
        self.schema = schema
        with seeded(seed):
            self.embedding = self.inputs(schema, embedding_dim, id_dropout, sparse, blocks)
            self.trunk = mlp(self.embedding.width, hidden, dropout, batch_norm)
            width = hidden[-1] if hidden else self.embedding.width
            self.own = ByTask({task: tower(width, tower_sizes, dropout, batch_norm) for task in schema.tasks})

    def represent(self, batch: Batch) -> Tensor:
        """Return the trunk's output [B, hidden[-1]]."""
        out: Tensor = self.trunk(self.embedding(batch))
        return out

    def logits(self, batch: Batch, representation: Tensor) -> dict[str, Tensor]:
        """Return {task: tower(trunk)} [B]."""
        return {task: self.own[task](representation).squeeze(-1) for task in self.schema.tasks}
