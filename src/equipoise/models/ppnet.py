"""PPNet: gates from a few prior features personalise every tower (Chang et al., KDD 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from equipoise.data.batches import Batch
from equipoise.data.schema import Schema
from equipoise.models.blocks import BlockOptions, DomainGate
from equipoise.models.ranker import ByTask, Ranker, parts, seeded
from equipoise.names import nearest


class PPNet(Ranker):
    """Towers on shared embeddings x, whose hidden layers are gated: h_l = relu(W_l h_{l-1} + b_l) * 2 sigmoid(MLP_l([p, stop_gradient(x)])).

    p are the embeddings of the prior features (user, item, author ids); no gradient reaches x through a gate. With the block
    `domain` in front (EPNet) it is PEPNet. A task's tower and gates are its own.

    Args:
        schema: `log.schema`.
        priors: categorical features, "user_id,video_id"; "" takes the group where it is a feature, else all of them.
        embedding_dim: size of each feature's embedding.
        hidden: hidden sizes of each tower, at least one.
        dropout: after each hidden layer. batch_norm: before each ReLU.
        id_dropout, sparse: see `FeatureEmbedding`; sparse also where the schema says so.
        seed: of the initial parameters; None draws from torch's generator as it is.
        blocks: what else the model has, see `equipoise.models.blocks.Blocks`.

    Raises:
        ValueError: a prior that is no categorical feature of the input, no hidden size.

    Source: Chang et al., PEPNet: Parameter and Embedding Personalized Network for Infusing with Personalized Prior Information, KDD
    2023, equations 3 to 7 from memory; the gate is the paper's Gate Neural Unit with gamma = 2.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        priors: str = "",
        embedding_dim: int = 16,
        hidden: Sequence[int] = (128, 64),
        dropout: float = 0.0,
        batch_norm: bool = False,
        id_dropout: float = 0.05,
        sparse: bool = False,
        seed: int | None = None,
        **blocks: Unpack[BlockOptions],
    ) -> None:
        super().__init__()
        if not hidden:
            raise ValueError(
                f"hidden must hold at least one size, got {hidden!r}: gates act on hidden layers"
            )
        self.schema, self.dropout = schema, dropout
        with seeded(seed):
            self.embedding = self.inputs(schema, embedding_dim, id_dropout, sparse, blocks)
            known = self.embedding.categorical
            names = [name.strip() for name in priors.split(",") if name.strip()]
            names = names or ([schema.group] if schema.group in known and schema.group else list(known))
            for name in names:
                if name not in known:
                    raise ValueError(
                        f"priors must name categorical features, got {name!r}{nearest(name, known)}"
                    )
            if not names:
                raise ValueError("priors must name a categorical feature, the schema has none")
            starts = [known.index(name) * embedding_dim for name in names]
            self.at: Tensor
            self.register_buffer(
                "at", torch.cat([torch.arange(a, a + embedding_dim) for a in starts]), persistent=False
            )
            width = self.embedding.width
            self.own = ByTask({task: nn.ModuleDict() for task in schema.tasks})
            for task in schema.tasks:
                of, size = parts(self.own, task), width
                for at, out in enumerate(hidden):
                    of[f"layer{at}"] = nn.Linear(size, out)
                    if batch_norm:
                        of[f"norm{at}"] = nn.BatchNorm1d(out)
                    of[f"gate{at}"] = DomainGate(len(self.at), width, out)
                    size = out
                of["tower"] = nn.Linear(size, 1)
        self.num_layers = len(hidden)

    def represent(self, batch: Batch) -> Tensor:
        """Return the embeddings [B, width]."""
        out: Tensor = self.embedding(batch)
        return out

    def logits(self, batch: Batch, representation: Tensor) -> dict[str, Tensor]:
        """Return {task: gated tower} [B]."""
        found, prior = {}, representation[:, self.at]
        for task in self.schema.tasks:
            of, h = parts(self.own, task), representation
            for at in range(self.num_layers):
                h = of[f"layer{at}"](h)
                h = F.relu(of[f"norm{at}"](h) if f"norm{at}" in of else h)
                gate = of[f"gate{at}"]
                assert isinstance(gate, DomainGate)
                h = F.dropout(h * gate.gate(prior, representation), self.dropout, self.training)
            found[task] = of["tower"](h).squeeze(-1)
        return found
