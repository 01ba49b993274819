"""Parts that backbones are made of: feature embeddings, multi-layer perceptrons, experts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from equipoise.data.batches import Batch, Ragged
from equipoise.data.schema import Schema
from equipoise.models.table import touched_rows


class FeatureEmbedding(nn.Module):
    """A batch -> [B, width]: embeddings of categorical features, pooled multi-valued ones, numerical values.

    All tables are rows of one `nn.Embedding`, each feature at its own offset: one table and one gradient tensor instead
    of one a feature. In training an id, of a multi-valued feature too, is replaced by its feature's row 0 with
    probability `id_dropout`, else the row of unseen ids would never be trained.

    A multi-valued feature is pooled by mean or sum; with weights by sum(w e) / sum(w) or sum(w e). An empty list, or
    under the mean one whose weights sum to 0, gives the zero vector.

    Args:
        schema: of a prepared log (`num_ids` filled).
        dim: embedding size of every feature.
        id_dropout: probability in [0, 1).
        sparse: the table's gradient is row-sparse: only the rows of a batch have a gradient and move, so a step costs the same
            whatever the table's size. It needs SparseAdam, Adagrad, RowWiseAdagrad or SGD. None: as the schema says.

    Raises:
        ValueError: the schema was not prepared or has no feature, id_dropout out of range; at the call, another number of
            columns than the schema's, a batch without a multi-valued feature, or ids beyond a table (on the CPU only:
            on a GPU the check would wait for the device, and an exported graph has none).
    """

    def __init__(
        self, schema: Schema, dim: int = 16, id_dropout: float = 0.05, sparse: bool | None = None
    ) -> None:
        super().__init__()
        names = [f.name for f in schema.categorical] + [m.name for m in schema.multi]
        if not schema.features:
            raise ValueError("schema must declare at least one feature, got none")
        if missing := [name for name in names if name not in schema.num_ids]:
            raise ValueError(
                f"schema must be that of a prepared log, feature {missing[0]!r} has no num_ids; pass log.schema"
            )
        if not 0 <= id_dropout < 1:
            raise ValueError(f"id_dropout must lie in [0, 1), got {id_dropout}")
        sizes = [schema.num_ids[name] for name in names]
        starts = [sum(sizes[:i]) for i in range(len(sizes))]
        self.schema, self.id_dropout = schema, id_dropout
        self.sparse = schema.sparse if sparse is None else sparse
        self.sizes = dict(zip(names, sizes, strict=True))
        self.starts = dict(zip(names, starts, strict=True))
        count = len(schema.categorical)
        self.offsets: Tensor
        self.limits: Tensor
        self.register_buffer("offsets", torch.tensor(starts[:count], dtype=torch.int64), persistent=False)
        self.register_buffer("limits", torch.tensor(sizes[:count], dtype=torch.int64), persistent=False)
        self.table = nn.Embedding(max(1, sum(sizes)), dim)
        nn.init.normal_(self.table.weight, std=0.1 / math.sqrt(dim))
        self.width = dim * len(names) + len(schema.numerical)

    def forward(self, batch: Batch) -> Tensor:
        """Return [B, width]: categorical embeddings, pooled ones, numerical values, in the schema's order."""
        _check_columns("ids", batch.ids, len(self.limits))
        _check_columns("numerical", batch.numerical, len(self.schema.numerical))
        ids = [self._ids(batch) + self.offsets] if len(self.limits) else []
        ids += [self._multi_ids(batch, feature.name) for feature in self.schema.multi]
        table = self.table.weight
        if self.sparse and torch.is_grad_enabled() and ids:
            table, into = touched_rows(table, torch.cat([i.flatten() for i in ids]))
            pieces = torch.split(into, [i.numel() for i in ids])
            ids = [piece.view(i.shape) for piece, i in zip(pieces, ids, strict=True)]
        parts = []
        if len(self.limits):
            parts.append(F.embedding(ids.pop(0), table).flatten(1))
        for feature, rows in zip(self.schema.multi, ids, strict=True):
            parts.append(_pooled(table, rows, batch.multi[feature.name], feature.pooling))
        if self.schema.numerical:
            parts.append(batch.numerical.to(table.dtype))
        return torch.cat(parts, dim=1)

    def _ids(self, batch: Batch) -> Tensor:
        """Return the categorical ids, int64 [B, F], each within its feature's table."""
        ids = batch.ids.long()
        if _readable(ids) and bool((wrong := (ids < 0) | (ids >= self.limits)).any()):
            row, at = wrong.nonzero()[0].tolist()
            name = self.schema.categorical[at].name
            raise ValueError(
                f"batch.ids of feature {name!r} must lie in [0, {self.sizes[name]}), got {int(ids[row, at])}; "
                "was the batch made with another log's vocabulary?"
            )
        return self._dropped(ids)

    def _multi_ids(self, batch: Batch, name: str) -> Tensor:
        """Return the ids of a multi-valued feature, int64, as rows of the common table."""
        if name not in batch.multi:
            raise ValueError(
                f"batch.multi must hold feature {name!r}, got {sorted(batch.multi) or 'none'}; "
                "was the batch made with another schema?"
            )
        ids = batch.multi[name].values.long()
        if _readable(ids) and bool((wrong := (ids < 0) | (ids >= self.sizes[name])).any()):
            raise ValueError(
                f"batch.multi of feature {name!r} must hold ids in [0, {self.sizes[name]}), got {int(ids[wrong][0])}; "
                "was the batch made with another log's vocabulary?"
            )
        return self._dropped(ids) + self.starts[name]

    def _dropped(self, ids: Tensor) -> Tensor:
        """Return the ids, in training each one 0 with probability `id_dropout`."""
        if not self.training or self.id_dropout == 0:
            return ids
        return ids * (torch.rand(ids.shape, device=ids.device) >= self.id_dropout)


def _pooled(table: Tensor, rows: Tensor, ragged: Ragged, pooling: str) -> Tensor:
    """Return the pooled embeddings of a multi-valued feature, [B, dim]."""
    firsts = ragged.offsets[:-1]
    if ragged.weights is None:
        return F.embedding_bag(rows, table, firsts, mode=pooling)
    weights = ragged.weights.to(table.dtype)
    pooled = F.embedding_bag(rows, table, firsts, mode="sum", per_sample_weights=weights)
    if pooling == "sum":
        return pooled
    totals = torch.segment_reduce(weights, "sum", offsets=ragged.offsets, initial=0.0)
    return pooled / totals.masked_fill(totals == 0, math.inf).unsqueeze(1)  # x / inf = 0: the zero vector


def _readable(ids: Tensor) -> bool:
    """Whether ids may be looked at here: on a GPU that would wait for the device, in `torch.export` there are none."""
    return not ids.is_cuda and not torch.compiler.is_compiling()


def _check_columns(what: str, columns: Tensor, wanted: int) -> None:
    if columns.ndim != 2 or columns.shape[1] != wanted:
        raise ValueError(
            f"batch.{what} must have shape [B, {wanted}], one column a feature of the schema, got {tuple(columns.shape)}"
        )


def mlp(width: int, hidden: Sequence[int], dropout: float = 0.0, batch_norm: bool = False) -> nn.Sequential:
    """Return Linear (-> BatchNorm1d) -> ReLU (-> Dropout) a hidden size; the identity for none."""
    layers: list[nn.Module] = []
    for size in hidden:
        layers.append(nn.Linear(width, size))
        if batch_norm:
            layers.append(nn.BatchNorm1d(size))
        layers.append(nn.ReLU())
        if dropout > 0:
            layers.append(nn.Dropout(dropout))
        width = size
    return nn.Sequential(*layers)


def tower(width: int, hidden: Sequence[int], dropout: float, batch_norm: bool) -> nn.Sequential:
    """Return an MLP that ends in one number a row."""
    return nn.Sequential(
        *mlp(width, hidden, dropout, batch_norm), nn.Linear(hidden[-1] if hidden else width, 1)
    )


class Experts(nn.Module):
    """E perceptrons of one shape side by side: [B, width] -> [B, E, hidden[-1]], each started differently.

    Weights are [E, in, out], so that each layer is one batched product. Each layer is Linear (-> BatchNorm) -> activation
    (-> Dropout), the activation "relu" or "silu" (Swish). In training one row alone, which has no variance, is normalised
    by the running statistics.
    """

    def __init__(
        self,
        num_experts: int,
        width: int,
        hidden: Sequence[int],
        dropout: float = 0.0,
        batch_norm: bool = False,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        if num_experts < 1 or not hidden:
            raise ValueError(
                f"num_experts must be >= 1 and expert sizes not empty, got {num_experts} and {hidden}"
            )
        self.weights, self.biases, self.norms = nn.ParameterList(), nn.ParameterList(), nn.ModuleList()
        self.num_experts, self.dropout, self.activation = num_experts, dropout, activation
        for size in hidden:
            bound = 1.0 / math.sqrt(width)
            self.weights.append(nn.Parameter(torch.empty(num_experts, width, size).uniform_(-bound, bound)))
            self.biases.append(nn.Parameter(torch.empty(num_experts, 1, size).uniform_(-bound, bound)))
            self.norms.append(nn.BatchNorm1d(num_experts * size) if batch_norm else nn.Identity())
            width = size

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, E, hidden[-1]]."""
        h = x.expand(self.num_experts, *x.shape)
        for weight, bias, norm in zip(self.weights, self.biases, self.norms, strict=True):
            h = torch.baddbmm(bias, h, weight)
            if isinstance(norm, nn.BatchNorm1d):
                flat = _normalised(norm, h.transpose(0, 1).flatten(1))
                h = flat.view(h.shape[1], h.shape[0], h.shape[2]).transpose(0, 1)
            h = F.silu(h) if self.activation == "silu" else F.relu(h)
            h = F.dropout(h, self.dropout, self.training)
        return h.transpose(0, 1)


def _normalised(norm: nn.BatchNorm1d, x: Tensor) -> Tensor:
    """Return norm(x); of one row in training, by the running statistics."""
    if norm.training and len(x) == 1:
        return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
    out: Tensor = norm(x)
    return out


def mixture(gate: nn.Module, x: Tensor, experts: Tensor) -> Tensor:
    """Return sum_e softmax(gate(x))_e f_e, [B, d], of experts [B, E, d]."""
    return torch.bmm(torch.softmax(gate(x), dim=-1).unsqueeze(1), experts).squeeze(1)
