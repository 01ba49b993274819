"""SingleTask: the network of one task, what multi-task models are measured against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

from torch import Tensor

from equipoise.data.batches import Batch
from equipoise.data.schema import Schema
from equipoise.models.blocks import BlockOptions
from equipoise.models.layers import mlp, tower
from equipoise.models.ranker import ByTask, Ranker, seeded


class SingleTask(Ranker):
    """y = tower(trunk(x)): embeddings, perceptron and tower of the only task.

    Its tower counts as the task's own, all else as shared, as in the other backbones: the Balancer then takes it too, and
    with one task its step is the optimizer's own.

    Args:
        schema: `log.only(["click"]).schema`, one task.
        embedding_dim: size of each feature's embedding.
        hidden: trunk sizes. tower_sizes: hidden sizes of the tower, () for a linear one.
        dropout: after each hidden layer. batch_norm: before each ReLU.
        id_dropout, sparse: see `FeatureEmbedding`; sparse also where the schema says so.
        seed: of the initial parameters; None draws from torch's generator as it is.
        blocks: what else the model has, see `equipoise.models.blocks.Blocks`.

    Raises:
        ValueError: a schema of several tasks.
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
        if len(schema.tasks) != 1:
            raise ValueError(
                f"model 'single_task' takes a schema of one task, got {', '.join(schema.tasks)}; choose one "
                f"(--tasks {schema.tasks[0]}), or train one model a task with --method single"
            )
        self.schema = schema
        with seeded(seed):
            self.embedding = self.inputs(schema, embedding_dim, id_dropout, sparse, blocks)
            self.trunk = mlp(self.embedding.width, hidden, dropout, batch_norm)
            width = hidden[-1] if hidden else self.embedding.width
            self.own = ByTask({schema.tasks[0]: tower(width, tower_sizes, dropout, batch_norm)})

    def represent(self, batch: Batch) -> Tensor:
        """Return the trunk's output [B, hidden[-1]]."""
        out: Tensor = self.trunk(self.embedding(batch))
        return out

    def logits(self, batch: Batch, representation: Tensor) -> dict[str, Tensor]:
        """Return {task: tower(trunk)} [B]."""
        return {task: self.own[task](representation).squeeze(-1) for task in self.schema.tasks}
