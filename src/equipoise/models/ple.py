"""PLE: shared experts beside each task's own, in levels; CGC is one level (Tang et al., RecSys 2020)."""

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


class PLE(Ranker):
    """y_t = tower_t(g_t), each level k: g_t^k = sum over own and shared experts of softmax(W_t g_t^{k-1})_e f_e.

    A task's experts read the task's own g_t^{k-1}, the shared ones g_s^{k-1}; g_t^0 = g_s^0 = x. Each level but the last
    also has the shared gate, g_s^k = sum over ALL experts of softmax(W_s g_s^{k-1})_e f_e. `levels=1` is CGC.

    Through the shared gate all tasks reach a task's experts of every level but the last, so these count as shared; own
    are the experts of the last level, the gates of the last two, and the tower.

    Args:
        schema: `log.schema`.
        levels: K >= 1. num_shared, num_own: shared experts, and experts of each task, at each level.
        embedding_dim: size of each feature's embedding.
        expert: sizes of each expert. tower_sizes: hidden sizes of each tower, () for a linear one.
        dropout: after each hidden layer. batch_norm: before each ReLU.
        id_dropout, sparse: see `FeatureEmbedding`; sparse also where the schema says so.
        seed: of the initial parameters; None draws from torch's generator as it is.
        blocks: what else the model has, see `equipoise.models.blocks.Blocks`.

    Raises:
        ValueError: levels below 1, no expert.

    Source: Tang et al., Progressive Layered Extraction (PLE): A Novel Multi-Task Learning Model for Personalized
    Recommendations, RecSys 2020, section 4, from memory; TorchEasyRec's ExtractionNet has the same wiring. Gates are linear
    without a bias, as in MMoE.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        levels: int = 2,
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
        if levels < 1:
            raise ValueError(f"levels must be >= 1, got {levels}; levels=1 is CGC")
        if num_shared < 1 or num_own < 1:
            raise ValueError(f"num_shared and num_own must be >= 1, got {num_shared} and {num_own}")
        self.schema, self.levels = schema, levels
        self.names = sorted(schema.tasks)  # sums over all experts then do not hang on the order of tasks
        with seeded(seed):
            self.embedding = self.inputs(schema, embedding_dim, id_dropout, sparse, blocks)
            width = self.embedding.width
            self.shared_experts, self.shared_gates = nn.ModuleList(), nn.ModuleList()
            self.lower = ByTask({task: nn.ModuleDict() for task in schema.tasks})
            self.own = ByTask({task: nn.ModuleDict() for task in schema.tasks})
            for k in range(levels):
                self.shared_experts.append(Experts(num_shared, width, expert, dropout, batch_norm))
                if k < levels - 1:
                    everyone = num_shared + num_own * len(schema.tasks)
                    self.shared_gates.append(nn.Linear(width, everyone, bias=False))
                for task in schema.tasks:
                    experts = Experts(num_own, width, expert, dropout, batch_norm)
                    gate = nn.Linear(width, num_own + num_shared, bias=False)
                    parts(self.lower if k < levels - 1 else self.own, task)[f"experts{k}"] = experts
                    parts(self.lower if k < levels - 2 else self.own, task)[f"gate{k}"] = gate
                width = expert[-1]
            for task in schema.tasks:
                parts(self.own, task)["tower"] = tower(width, tower_sizes, dropout, batch_norm)
        self.size, self.num_read = expert[-1], 1 if levels <= 2 else len(self.names)
        self.widths = [self.embedding.width if levels <= 2 else width] * self.num_read
        if levels > 1:
            self.widths += [num_own * width] * len(self.names) + [num_shared * width]
        self.widths.append(num_shared * width)

    def represent(self, batch: Batch) -> Tensor:
        """Return [B, ...], all that the tasks' own parts read.

        That is the input of their first own gate (x, from three levels on one g_t a task), the outputs of the experts
        which it weighs, and those of the last level's shared experts. No own part acts before it: through a common tensor
        every task would reach it, with a gradient of 0.
        """
        x = self.embedding(batch)
        common, own = x, dict.fromkeys(self.names, x)
        weighed: list[Tensor] = []
        for k in range(self.levels - 1):
            shared = self.shared_experts[k](common)
            each = {task: self._at(task, f"experts{k}")(h) for task, h in own.items()}
            common = mixture(self.shared_gates[k], common, torch.cat([*each.values(), shared], dim=1))
            if k < self.levels - 2:
                own = {task: self._mixed(task, k, h, each[task], shared) for task, h in own.items()}
            else:
                weighed = [*each.values(), shared]
        weighed.append(self.shared_experts[-1](common))
        read = [x] if self.levels <= 2 else list(own.values())
        return torch.cat([*read, *(h.flatten(1) for h in weighed)], dim=1)

    def logits(self, batch: Batch, representation: Tensor) -> dict[str, Tensor]:
        """Return {task: tower(gated mixture of the last level)} [B]."""
        blocks = torch.split(representation, self.widths, dim=1)
        read, weighed = blocks[: self.num_read], [self._experts(h) for h in blocks[self.num_read :]]
        k, result = self.levels - 1, {}
        for task in self.schema.tasks:
            at = self.names.index(task)
            h = read[at if len(read) > 1 else 0]
            if k > 0:
                h = self._mixed(task, k - 1, h, weighed[at], weighed[-2])
            mixed = self._mixed(task, k, h, self._at(task, f"experts{k}")(h), weighed[-1])
            result[task] = self._at(task, "tower")(mixed).squeeze(-1)
        return result

    def _mixed(self, task: str, k: int, h: Tensor, own: Tensor, shared: Tensor) -> Tensor:
        """Return the mixture [B, d] of a task's gate at level k over its own and the shared experts."""
        return mixture(self._at(task, f"gate{k}"), h, torch.cat([own, shared], dim=1))

    def _experts(self, flat: Tensor) -> Tensor:
        """Return outputs [B, E, d] of flat ones."""
        return flat.view(flat.shape[0], -1, self.size)

    def _at(self, task: str, part: str) -> nn.Module:
        """Return a task's part, its own or one of `lower`."""
        own = parts(self.own, task)
        return own[part] if part in own else parts(self.lower, task)[part]
