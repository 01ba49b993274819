"""What is added to a task's output from the batch itself: a wide linear part and a bias tower."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from equipoise.data.batches import Batch
from equipoise.data.schema import Schema
from equipoise.models.blocks import Blocks
from equipoise.models.embedding import FeatureEmbedding
from equipoise.models.layers import tower

BIAS_HIDDEN = 16


class Side(nn.Module):
    """One task's wide part and bias tower: a batch -> [B], added to the task's output.

    wide: sum of one number an id (multi-valued ones pooled as their feature is) and w times the numerical values. bias: a tower
    over the embeddings of the bias features; in eval mode their ids are row 0 and their numbers 0.
    """

    def __init__(self, schema: Schema, blocks: Blocks, dim: int, id_dropout: float, sparse: bool) -> None:
        super().__init__()
        self.wide: FeatureEmbedding | None = None
        self.bias: FeatureEmbedding | None = None
        if blocks.wide:
            self.wide = FeatureEmbedding(schema, 1, id_dropout, sparse, Blocks(bias=blocks.bias))
            self.num_ids = self.wide.width - self.wide.num_numbers
            self.weight = nn.Parameter(torch.zeros(self.wide.num_numbers))
        if blocks.biases:
            self.bias = FeatureEmbedding(schema, dim, id_dropout, sparse, only=blocks.biases)
            self.tower = tower(self.bias.width, (BIAS_HIDDEN,), 0.0, False)

    def forward(self, batch: Batch) -> Tensor:
        """Return [B]."""
        out: Tensor = torch.zeros((), device=batch.ids.device)
        if self.wide is not None:
            found = self.wide(batch)
            out = out + found[:, : self.num_ids].sum(1) + found[:, self.num_ids :] @ self.weight
        if self.bias is not None:
            if not self.training:
                batch = replace(
                    batch, ids=torch.zeros_like(batch.ids), numerical=torch.zeros_like(batch.numerical)
                )
            out = out + self.tower(self.bias(batch)).squeeze(-1)
        return out
