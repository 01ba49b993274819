"""AdaTT: experts belong to tasks, every task's gate reads all of them, level by level (Li et al., KDD 2023)."""

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


class AdaTT(Ranker):
    """y_t = tower_t(h_t), each level: h_t <- sum over all experts of softmax(W_t h_t + b_t)_e f_e + residual_t; h_t^0 = x.

    A task's experts read the task's own h_t. residual_t is what its own experts say: sum_e v_te f_te with free weights v,
    or f_t itself where it has one. This is AdaTT-sp, without shared experts.

    All tasks reach all experts, so these count as shared, as do the gates and weights v below the last level; own are the
    last gate, the last v and the tower.

    Args:
        schema: `log.schema`.
        levels: >= 1. num_own: experts of each task at each level.
        embedding_dim: size of each feature's embedding.
        expert: sizes of each expert. tower_sizes: hidden sizes of each tower, () for a linear one.
        dropout: after each hidden layer. batch_norm: before each ReLU.
        id_dropout, sparse: see `FeatureEmbedding`; sparse also where the schema says so.
        seed: of the initial parameters; None draws from torch's generator as it is.
        blocks: what else the model has, see `equipoise.models.blocks.Blocks`.

    Raises:
        ValueError: levels below 1, no expert.

    Source: Li et al., AdaTT: Adaptive Task-to-Task Fusion Network for Multitask Learning in Recommendations, KDD 2023,
    checked on a public copy of the authors' AdaTTSp, start of v included.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        levels: int = 2,
        num_own: int = 2,
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
        if levels < 1:
            raise ValueError(f"levels must be >= 1, got {levels}")
        self.schema, self.levels, self.num_own = schema, levels, num_own
        self.names = sorted(schema.tasks)  # sums over all experts then do not hang on the order of tasks
        with seeded(seed):
            self.embedding = self.inputs(schema, embedding_dim, id_dropout, sparse, blocks)
            width = self.embedding.width
            self.lower = ByTask({task: nn.ModuleDict() for task in schema.tasks})
            self.own = ByTask({task: nn.ModuleDict() for task in schema.tasks})
            for k in range(levels):
                for task in schema.tasks:
                    experts = Experts(num_own, width, expert, dropout, batch_norm)
                    parts(self.lower, task)[f"experts{k}"] = experts
                    home = parts(self.lower if k < levels - 1 else self.own, task)
                    home[f"gate{k}"] = nn.Linear(width, num_own * len(schema.tasks))
                    if num_own > 1:
                        home[f"weights{k}"] = nn.Linear(num_own, 1, bias=False)
                width = expert[-1]
            for task in schema.tasks:
                parts(self.own, task)["tower"] = tower(width, tower_sizes, dropout, batch_norm)
        self.widths = [self.embedding.width] if levels == 1 else [width] * len(self.names)
        self.widths.append(num_own * len(self.names) * width)

    def represent(self, batch: Batch) -> Tensor:
        """Return [B, ...]: what the last level's gates read (x, or one h_t a task by name), and its experts' outputs."""
        x = self.embedding(batch)
        h = dict.fromkeys(self.names, x)
        for k in range(self.levels):
            each = [parts(self.lower, task)[f"experts{k}"](read) for task, read in h.items()]
            everyone = torch.cat(each, dim=1)
            if k < self.levels - 1:
                h = {t: self._fused(parts(self.lower, t), k, at, h[t], everyone) for at, t in enumerate(h)}
        return torch.cat([*([x] if self.levels == 1 else h.values()), everyone.flatten(1)], dim=1)

    def logits(self, batch: Batch, representation: Tensor) -> dict[str, Tensor]:
        """Return {task: tower(fused experts of the last level)} [B]."""
        *read, flat = torch.split(representation, self.widths, dim=1)
        everyone = flat.view(flat.shape[0], self.num_own * len(self.names), -1)
        result = {}
        for task in self.schema.tasks:
            at, own = self.names.index(task), parts(self.own, task)
            fused = self._fused(own, self.levels - 1, at, read[at if self.levels > 1 else 0], everyone)
            result[task] = own["tower"](fused).squeeze(-1)
        return result

    def _fused(self, part: nn.ModuleDict, k: int, at: int, h: Tensor, everyone: Tensor) -> Tensor:
        """Return the mixture of all experts and the residual of the task's own, [B, d]."""
        mine = everyone[:, at * self.num_own : (at + 1) * self.num_own]
        residual = (
            part[f"weights{k}"](mine.transpose(1, 2)).squeeze(2) if self.num_own > 1 else mine.squeeze(1)
        )
        return mixture(part[f"gate{k}"], h, everyone) + residual
