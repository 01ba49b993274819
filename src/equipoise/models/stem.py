"""STEM: shared and task-specific embedding tables; experts of other tasks are read, not trained (Su et al., AAAI 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor, nn

from equipoise.data.batches import Batch
from equipoise.data.schema import Schema
from equipoise.models.blocks import BlockOptions, Blocks
from equipoise.models.embedding import FeatureEmbedding
from equipoise.models.layers import Experts, mixture, tower
from equipoise.models.ranker import ByTask, Ranker, parts, seeded


class STEM(Ranker):
    """y_t = tower_t(sum over all experts of softmax(W_t (x_t + x_s))_e f_e), experts of other tasks with stopped gradient.

    x_s comes from the shared table and feeds the shared experts, x_t from a table of task t and feeds its own. All tasks
    read all experts forward; backward only the shared and the task's own learn from its loss. So tables, experts, gate
    and tower of a task are its own: T + 1 tables, which is what to know before choosing it for large vocabularies.

    Args:
        schema: `log.schema`.
        num_shared, num_own: shared experts, and experts of each task.
        embedding_dim: size of each feature's embedding in each table.
        expert: sizes of each expert. tower_sizes: hidden sizes of each tower, () for a linear one.
        dropout: after each hidden layer. batch_norm: before each ReLU.
        id_dropout, sparse: see `FeatureEmbedding`; ids are dropped for each table apart, sparse also where the schema says so.
        seed: of the initial parameters; None draws from torch's generator as it is.
        blocks: what else the model has, see `equipoise.models.blocks.Blocks`.

    Raises:
        ValueError: no expert.

    Source: Su et al., STEM: Unleashing the Power of Embeddings for Multi-task Recommendation, AAAI 2024, section 4 with
    one layer, checked on a public copy of the authors' STEM_Layer; its gates are perceptrons, ours linear without a bias.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        num_shared: int = 4,
        num_own: int = 4,
        embedding_dim: int = 16,
        expert: Sequence[int] = (128, 64),
        tower_sizes: Sequence[int] = (32,),
        dropout: float = 0.0,
        batch_norm: bool = False,
        id_dropout: float = 0.05,
        sparse: bool = False,
        seed: int | None = None,
        **blocks: Unpack[BlockOptions],
    ) -> None:
        super().__init__()
        if num_shared < 1 or num_own < 1:
            raise ValueError(f"num_shared and num_own must be >= 1, got {num_shared} and {num_own}")
        self.schema, self.num_shared = schema, num_shared
        self.names = sorted(schema.tasks)  # sums over all experts then do not hang on the order of tasks
        with seeded(seed):
            self.embedding = self.inputs(schema, embedding_dim, id_dropout, sparse, blocks)
            width = self.embedding.width
            self.experts = Experts(num_shared, width, expert, dropout, batch_norm)
            self.own = ByTask()
            for task in schema.tasks:
                self.own[task] = nn.ModuleDict(
                    {
                        "embedding": FeatureEmbedding(
                            schema, embedding_dim, id_dropout, sparse or schema.sparse, Blocks(**blocks)
                        ),
                        "experts": Experts(num_own, width, expert, dropout, batch_norm),
                        "gate": nn.Linear(width, num_own * len(schema.tasks) + num_shared, bias=False),
                        "tower": tower(expert[-1], tower_sizes, dropout, batch_norm),
                    }
                )

    def represent(self, batch: Batch) -> Tensor:
        """Return [B, width + num_shared * d]: the shared embeddings and the shared experts' outputs."""
        x = self.embedding(batch)
        return torch.cat([x, self.experts(x).flatten(1)], dim=1)

    def logits(self, batch: Batch, representation: Tensor) -> dict[str, Tensor]:
        """Return {task: tower(gated mixture)} [B]."""
        width, rows = self.embedding.width, representation.shape[0]
        common, shared = representation[:, :width], representation[:, width:].view(rows, self.num_shared, -1)
        read = {task: parts(self.own, task)["embedding"](batch) for task in self.names}
        each = {task: parts(self.own, task)["experts"](x) for task, x in read.items()}
        result = {}
        for task in self.schema.tasks:
            part = parts(self.own, task)
            seen = [experts if other == task else experts.detach() for other, experts in each.items()]
            mixed = mixture(part["gate"], read[task] + common, torch.cat([*seen, shared], dim=1))
            result[task] = part["tower"](mixed).squeeze(-1)
        return result
