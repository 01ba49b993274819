"""A batch -> the backbone's input: embeddings, sequences and numbers, through the blocks that were chosen."""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from equipoise.data.batches import Batch, Ragged
from equipoise.data.features import Multi
from equipoise.data.schema import Schema
from equipoise.data.sharing import table_of, tables
from equipoise.models.blocks import (
    Blocks,
    CausalTransformer,
    Cross,
    DenseNumbers,
    DomainGate,
    Sequence,
    TargetAttention,
)
from equipoise.models.table import touched_rows


class FeatureEmbedding(nn.Module):
    """A batch -> [B, width]: embeddings of categorical features, pooled multi-valued ones, numerical values.

    All tables are rows of one `nn.Embedding`, each at its own offset (features that share a table at the same): one table and one gradient tensor instead
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
        blocks: what else the input passes through (`Blocks`); its bias tower and wide part are not made here.
        only: names of the features to read, None for all but those of the bias tower.

    Raises:
        ValueError: the schema was not prepared or has no feature, id_dropout out of range; at the call, another number of
            columns than the schema's, a batch without a multi-valued feature, or ids beyond a table (on the CPU only:
            on a GPU the check would wait for the device, and an exported graph has none).
    """

    def __init__(
        self,
        schema: Schema,
        dim: int = 16,
        id_dropout: float = 0.05,
        sparse: bool | None = None,
        blocks: Blocks | None = None,
        only: tuple[str, ...] | None = None,
    ) -> None:
        super().__init__()
        blocks = blocks or Blocks()
        blocks.check(schema)
        chosen = [
            f for f in schema.features if (f.name not in blocks.biases if only is None else f.name in only)
        ]
        categorical = [f for f in schema.categorical if f in chosen]
        numerical = [f for f in schema.numerical if f in chosen]
        self.multi = [m for m in schema.multi if m in chosen]
        names = [f.name for f in categorical] + [m.name for m in self.multi]
        if dim < 1:
            raise ValueError(f"embedding_dim must be >= 1, got {dim}")
        if not schema.features:
            raise ValueError("schema must declare at least one feature, got none")
        if missing := [name for name in names if name not in schema.num_ids]:
            raise ValueError(
                f"schema must be that of a prepared log, feature {missing[0]!r} has no num_ids; pass log.schema"
            )
        if not 0 <= id_dropout < 1:
            raise ValueError(f"id_dropout must lie in [0, 1), got {id_dropout}")
        sizes = [schema.num_ids[name] for name in names]
        shared = tables(schema, names)  # features of one table have the same rows
        begins = dict(zip(shared, itertools.accumulate(shared.values(), initial=0), strict=False))
        owner = {f.name: table_of(f) for f in schema.with_table}
        starts = [begins[owner[name]] for name in names]
        self.schema, self.id_dropout = schema, id_dropout
        self.sparse = schema.sparse if sparse is None else sparse
        self.sizes = dict(zip(names, sizes, strict=True))
        self.starts = dict(zip(names, starts, strict=True))
        count = len(categorical)
        self.categorical = [f.name for f in categorical]
        self.num_columns = len(schema.categorical), len(schema.numerical)
        self.offsets: Tensor
        self.limits: Tensor
        self.id_columns: Tensor | None
        self.number_columns: Tensor | None
        self.register_buffer("offsets", torch.tensor(starts[:count], dtype=torch.int64), persistent=False)
        self.register_buffer("limits", torch.tensor(sizes[:count], dtype=torch.int64), persistent=False)
        self.register_buffer("id_columns", _columns(schema.categorical, categorical), persistent=False)
        self.register_buffer("number_columns", _columns(schema.numerical, numerical), persistent=False)
        self.table = nn.Embedding(max(1, sum(shared.values())), dim)
        nn.init.normal_(self.table.weight, std=0.1 / math.sqrt(dim))
        self.blocks, self.dim, self.num_numbers = blocks, dim, len(numerical)
        both = bool(blocks.transformer) and blocks.transformer == blocks.attended
        self.width = dim * (len(names) + both) + len(numerical) * (dim if blocks.numerical == "dense" else 1)
        self.sequence = Sequence(blocks.max_length)
        self.attention = TargetAttention(dim) if blocks.attention else None
        self.transformer = CausalTransformer(dim, blocks.max_length) if blocks.transformer else None
        self.numbers = (
            DenseNumbers(len(numerical), dim) if blocks.numerical == "dense" and numerical else None
        )
        self.domain = DomainGate(dim, self.width) if blocks.domain else None
        self.cross = Cross(self.width, blocks.cross, blocks.cross_rank) if blocks.cross else None

    def forward(self, batch: Batch) -> Tensor:
        """Return [B, width]: categorical embeddings, pooled ones, numerical values, in the schema's order; gated and crossed."""
        _check_columns("ids", batch.ids, self.num_columns[0])
        _check_columns("numerical", batch.numerical, self.num_columns[1])
        ids = [self._ids(batch) + self.offsets] if len(self.limits) else []
        ids += [self._multi_ids(batch, feature.name) for feature in self.multi]
        table = self.table.weight
        if self.sparse and torch.is_grad_enabled() and ids:
            table, into = touched_rows(table, torch.cat([i.flatten() for i in ids]))
            pieces = torch.split(into, [i.numel() for i in ids])
            ids = [piece.view(i.shape) for piece, i in zip(pieces, ids, strict=True)]
        parts = []
        each = F.embedding(ids.pop(0), table) if len(self.limits) else None
        if each is not None:
            parts.append(each.flatten(1))
        for feature, rows in zip(self.multi, ids, strict=True):
            parts += self._of_list(feature, table, rows, batch, each)
        if self.num_numbers:
            numbers = (
                batch.numerical if self.number_columns is None else batch.numerical[:, self.number_columns]
            )
            numbers = numbers.to(table.dtype)
            parts.append(numbers if self.numbers is None else self.numbers(numbers))
        x = torch.cat(parts, dim=1)
        if self.domain is not None:
            assert each is not None
            x = self.domain(each[:, self.categorical.index(self.blocks.domain)], x)
        return x if self.cross is None else self.cross(x)

    def _of_list(
        self, feature: Multi, table: Tensor, rows: Tensor, batch: Batch, each: Tensor | None
    ) -> list[Tensor]:
        """Return what a multi-valued feature gives: attended to, read in order, or pooled, [B, dim] each."""
        ragged, parts = batch.multi[feature.name], []
        attended, read = self.blocks.attended == feature.name, self.blocks.transformer == feature.name
        if attended or read:
            sequence, there = self.sequence(table, rows, ragged)
            if attended:
                assert self.attention is not None and each is not None
                query = each[:, self.categorical.index(self.blocks.candidate)]
                parts.append(self.attention(query, sequence, there))
            if read:
                assert self.transformer is not None
                parts.append(self.transformer(sequence, there))
            return parts
        return [_pooled(table, rows, ragged, feature.pooling)]

    def _ids(self, batch: Batch) -> Tensor:
        """Return the categorical ids, int64 [B, F], each within its feature's table."""
        ids = (batch.ids if self.id_columns is None else batch.ids[:, self.id_columns]).long()
        if _readable(ids) and bool((wrong := (ids < 0) | (ids >= self.limits)).any()):
            row, at = wrong.nonzero()[0].tolist()
            name = self.categorical[at]
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


def _columns(every: list[Any], chosen: list[Any]) -> Tensor | None:
    """Return int64 columns of the chosen features, None for all of them."""
    return (
        None
        if len(every) == len(chosen)
        else torch.tensor([every.index(f) for f in chosen], dtype=torch.int64)
    )
