"""DSMoE: shared experts beside routed ones, of which each row takes the top k (after DeepSeekMoE, 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor, nn

from equipoise.data.batches import Batch
from equipoise.data.schema import Schema
from equipoise.losses import Losses, row_losses, task_losses
from equipoise.models.blocks import BlockOptions
from equipoise.models.layers import Experts, tower
from equipoise.models.ranker import ByTask, Ranker, parts, seeded


class DSMoE(Ranker):
    """y_t = tower_t(sum_s f_s(x) + sum over the top k e of s_te f_e(x)), s_t = softmax(W_t x) over the routed experts.

    Embeddings and experts are shared; router W_t and tower are the task's own. s is not normalised again over the top k.
    The loss of t has the load balance term balance * sum_e f_e P_e: f_e is the share of rows that took e, times E / k,
    and P_e the mean of s_te over the task's rows; f is counted on the batch and has no gradient. 1 is even, E / k worst.

    All experts are computed, as other tasks and rows need them: routing saves no work here, it separates experts.

    Args:
        schema: `log.schema`.
        num_experts: routed, E. top_k: k of them for each row and task, 1 to E. num_shared: shared experts, >= 1.
        balance: weight of the load balance term, >= 0.
        embedding_dim: size of each feature's embedding.
        expert: sizes of each expert. tower_sizes: hidden sizes of each tower, () for a linear one.
        dropout: after each hidden layer. batch_norm: before each ReLU.
        id_dropout, sparse: see `FeatureEmbedding`; sparse also where the schema says so.
        seed: of the initial parameters; None draws from torch's generator as it is.
        blocks: what else the model has, see `equipoise.models.blocks.Blocks`.

    Raises:
        ValueError: top_k out of range, no expert, a negative balance.

    Source: Dai et al., DeepSeekMoE: Towards Ultimate Expert Specialization in Mixture-of-Experts Language Models, 2024,
    from memory, the load balance checked on public ports of its gate (count, share, not normalised top k); a router for
    each task as in MMoE. Without the residual, whose width is another.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        num_experts: int = 8,
        top_k: int = 2,
        num_shared: int = 1,
        balance: float = 0.01,
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
        if not 1 <= top_k <= num_experts:
            raise ValueError(f"top_k must lie in [1, num_experts], got {top_k} of {num_experts}")
        if balance < 0:
            raise ValueError(f"balance must be >= 0, got {balance}; 0 leaves it out")
        self.schema, self.top_k, self.balance = schema, top_k, balance
        with seeded(seed):
            self.embedding = self.inputs(schema, embedding_dim, id_dropout, sparse, blocks)
            width = self.embedding.width
            self.shared = Experts(num_shared, width, expert, dropout, batch_norm)
            self.experts = Experts(num_experts, width, expert, dropout, batch_norm)
            self.own = ByTask()
            for task in schema.tasks:
                made = tower(expert[-1], tower_sizes, dropout, batch_norm)
                router = nn.Linear(width, num_experts, bias=False)
                self.own[task] = nn.ModuleDict({"router": router, "tower": made})
        self.widths = [width, expert[-1], num_experts * expert[-1]]

    def represent(self, batch: Batch) -> Tensor:
        """Return [B, width + d + E * d]: the input, the sum of the shared experts, the routed ones."""
        x = self.embedding(batch)
        return torch.cat([x, self.shared(x).sum(1), self.experts(x).flatten(1)], dim=1)

    def logits(self, batch: Batch, representation: Tensor) -> dict[str, Tensor]:
        """Return {task: tower(shared and routed experts)} [B]."""
        return self._outputs(representation, self._routes(representation))

    def losses(self, batch: Batch) -> Losses:
        """Return {task: scalar loss or None}, the load balance in it."""
        representation = self.represent(batch)
        routes = self._routes(representation)
        outputs, rows = self.with_sides(batch, self._outputs(representation, routes)), {}
        for task, (scores, taken) in routes.items():
            z = outputs[task].to(torch.promote_types(outputs[task].dtype, torch.float32))
            share = taken.to(scores.dtype).mean(0) * (scores.shape[1] / self.top_k)
            rows[task] = row_losses(task, z, batch, self.schema) + self.balance * (scores * share).sum(1)
        return task_losses(outputs, batch, self.schema, representation, rows)

    def _outputs(self, representation: Tensor, routes: dict[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        _, common, flat = torch.split(representation, self.widths, dim=1)
        routed = flat.view(flat.shape[0], self.experts.num_experts, -1)
        result = {}
        for task, (scores, taken) in routes.items():
            mixed = common + torch.bmm((scores * taken).unsqueeze(1), routed).squeeze(1)
            result[task] = parts(self.own, task)["tower"](mixed).squeeze(-1)
        return result

    def _routes(self, representation: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Return {task: scores s [B, E], and whether each expert is among the row's top k, [B, E]}."""
        x, routes = representation[:, : self.widths[0]], {}
        for task in self.schema.tasks:
            scores = torch.softmax(parts(self.own, task)["router"](x), dim=1)
            taken = torch.zeros_like(scores, dtype=torch.bool)
            routes[task] = scores, taken.scatter(1, scores.topk(self.top_k, dim=1).indices, True)
        return routes
