"""Blocks that every backbone takes as options: what the input passes through, and what is added to a task's output."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from equipoise.data.batches import Ragged
from equipoise.data.schema import Schema
from equipoise.names import nearest

MAX_LENGTH = 200
ATTENTION_HIDDEN, GATE_HIDDEN, HEADS = 36, 64, 2


class BlockOptions(TypedDict, total=False):
    """The keyword arguments of `Blocks`, which every backbone passes on."""

    wide: bool
    cross: int
    cross_rank: int
    attention: str
    transformer: str
    max_length: int
    domain: str
    bias: str
    numerical: str


@dataclass(frozen=True)
class Blocks:
    """Which blocks a backbone has. All are off by default.

    Attributes:
        wide: a linear part over ids and numerical values, added to each task's output, each task its own (Cheng et al., Wide and
            Deep Learning for Recommender Systems, 2016).
        cross: layers of DCN-v2 that the input passes through, x_{l+1} = x_0 * (W_l x_l + b_l) + x_l, stacked before the backbone.
            cross_rank: W_l = U_l V_l of this rank, 0 for a full matrix (Wang et al., DCN V2, WWW 2021).
        attention: "candidate:sequence", a categorical feature and a multi-valued one: in place of its mean the sequence is
            pooled by sum_i a(e_i, q) e_i, a = MLP([q, e, q - e, q * e]), not normalised (Zhou et al., Deep Interest Network, KDD 2018).
        transformer: a multi-valued feature, oldest id first: in place of its mean the last position of a two-layer causal
            transformer over it (Kang and McAuley, Self-Attentive Sequential Recommendation, ICDM 2018). Beside `attention` on the same
            feature both are taken.
        max_length: the last ids of a sequence that are read, at most 200.
        domain: a categorical feature whose embedding gates the whole input, x * 2 sigmoid(MLP([e, stop_gradient(x)])): EPNet (Chang et
            al., PEPNet, KDD 2023).
        bias: features by name, "position,device": taken out of the input and read by a small tower a task, which is added to the output
            in training only; in eval mode, and so in serving, its ids are row 0 and its numbers 0 (the mean), a constant (Zhao et
            al., Recommending What Video to Watch Next, RecSys 2019).
        numerical: "raw" values, or "dense": relu(x_j v_j + b_j), an embedding each (Gorishniy et al., On Embeddings for Numerical
            Features in Tabular Deep Learning, NeurIPS 2022, the L-R variant).
    """

    wide: bool = False
    cross: int = 0
    cross_rank: int = 0
    attention: str = ""
    transformer: str = ""
    max_length: int = 50
    domain: str = ""
    bias: str = ""
    numerical: str = "raw"

    def __post_init__(self) -> None:
        if self.cross < 0 or self.cross_rank < 0:
            raise ValueError(f"cross and cross_rank must be >= 0, got {self.cross} and {self.cross_rank}")
        if not 1 <= self.max_length <= MAX_LENGTH:
            raise ValueError(f"max_length must lie in [1, {MAX_LENGTH}], got {self.max_length}")
        if self.numerical not in ("raw", "dense"):
            raise ValueError(f"numerical must be 'raw' or 'dense', got {self.numerical!r}")
        if self.attention and self.attention.count(":") != 1:
            raise ValueError(
                f"attention must be candidate:sequence, two features, got {self.attention!r}; try video_id:history"
            )

    @property
    def candidate(self) -> str:
        """The categorical feature that attends, "" without attention."""
        return self.attention.partition(":")[0]

    @property
    def attended(self) -> str:
        """The sequence that is attended to, "" without attention."""
        return self.attention.partition(":")[2]

    @property
    def biases(self) -> tuple[str, ...]:
        """The features of the bias tower."""
        return tuple(name.strip() for name in self.bias.split(",") if name.strip())

    def check(self, schema: Schema) -> None:
        """Raise ValueError for a feature that the schema does not have, or that is of another kind."""
        categorical, multi = [f.name for f in schema.categorical], [m.name for m in schema.multi]
        numerical = [f.name for f in schema.numerical]
        wanted = (
            [("attention", self.candidate, categorical, "a categorical feature")] if self.attention else []
        )
        wanted += [("attention", self.attended, multi, "a multi-valued feature")] if self.attention else []
        wanted += (
            [("transformer", self.transformer, multi, "a multi-valued feature")] if self.transformer else []
        )
        wanted += [("domain", self.domain, categorical, "a categorical feature")] if self.domain else []
        both = categorical + numerical
        wanted += [("bias", name, both, "a categorical or numerical feature") for name in self.biases]
        for option, name, known, what in wanted:
            if name not in known:
                raise ValueError(f"{option} must name {what}, got {name!r}{nearest(name, known)}")
        for option, name in (("attention", self.candidate), ("domain", self.domain)):
            if name and name in self.biases:
                raise ValueError(
                    f"{option} reads {name!r}, which bias takes out of the input; leave one of them out"
                )
        if self.biases and len(schema.features) == len(set(self.biases)):
            raise ValueError(f"bias must leave a feature to the backbone, got all of them: {self.bias!r}")


class Cross(nn.Module):
    """DCN-v2's layers on an input [B, n]: x_{l+1} = x_0 * (W_l x_l + b_l) + x_l."""

    def __init__(self, width: int, layers: int, rank: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(width, rank, bias=False), nn.Linear(rank, width))
            if rank
            else nn.Linear(width, width)
            for _ in range(layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, n]."""
        out = x
        for layer in self.layers:
            out = x * layer(out) + out
        return out


class Sequence(nn.Module):
    """The last `length` ids of each row as rows of a table: where each lies, and whether it is there."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length

    def forward(self, table: Tensor, rows: Tensor, ragged: Ragged) -> tuple[Tensor, Tensor]:
        """Return embeddings [B, length, d], oldest first, zeros after the last, and a mask bool [B, length]."""
        first, stop = ragged.offsets[:-1], ragged.offsets[1:]
        start = torch.maximum(first, stop - self.length)
        at = start.unsqueeze(1) + torch.arange(self.length, device=start.device)
        there = at < stop.unsqueeze(1)
        padded = torch.cat([rows, rows.new_zeros(1)])  # a place to point at when all lists are empty
        found = F.embedding(padded[at.masked_fill(~there, 0)], table)
        return found * there.unsqueeze(2), there


class TargetAttention(nn.Module):
    """DIN: sum_i a(e_i, q) e_i over a sequence, a = W_2 sigmoid(W_1 [q, e, q - e, q * e]); nothing is normalised, so interest has a strength."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.score = nn.Sequential(
            nn.Linear(4 * dim, ATTENTION_HIDDEN), nn.Sigmoid(), nn.Linear(ATTENTION_HIDDEN, 1)
        )

    def forward(self, query: Tensor, sequence: Tensor, there: Tensor) -> Tensor:
        """Return [B, d] of query [B, d], sequence [B, L, d], mask [B, L]; 0 for an empty sequence."""
        q = query.unsqueeze(1).expand_as(sequence)
        weights = self.score(torch.cat([q, sequence, q - sequence, q * sequence], dim=2)).squeeze(2) * there
        return torch.bmm(weights.unsqueeze(1), sequence).squeeze(1)


class CausalLayer(nn.Module):
    """One pre-norm layer: x + attention(norm x), then x + W_2 gelu(W_1 norm x); a position sees itself and earlier ones."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.heads = HEADS if dim % HEADS == 0 else 1
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.up, self.down = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, L, d]."""
        rows, length, dim = x.shape
        q, k, v = (
            part.view(rows, length, self.heads, dim // self.heads).transpose(1, 2)
            for part in self.qkv(self.norm1(x)).chunk(3, dim=2)
        )
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).reshape(rows, length, dim))
        out: Tensor = x + self.down(F.gelu(self.up(self.norm2(x))))
        return out


class CausalTransformer(nn.Module):
    """Two causal layers with learned positions; the output is the last position's, which has seen all. No padding is ever seen:
    it comes after the last id."""

    def __init__(self, dim: int, length: int) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.empty(length, dim).normal_(std=0.1 / math.sqrt(dim)))
        self.layers = nn.Sequential(CausalLayer(dim), CausalLayer(dim))
        self.norm = nn.LayerNorm(dim)

    def forward(self, sequence: Tensor, there: Tensor) -> Tensor:
        """Return [B, d] of sequence [B, L, d], mask [B, L]; 0 for an empty sequence."""
        h: Tensor = self.norm(self.layers(sequence + self.positions))
        count = there.sum(1)
        last = (count - 1).clamp(min=0)
        picked = h.gather(1, last.view(-1, 1, 1).expand(-1, 1, h.shape[2])).squeeze(1)
        return picked * (count > 0).unsqueeze(1)


class DomainGate(nn.Module):
    """EPNet: x * 2 sigmoid(W_2 relu(W_1 [e, stop_gradient(x)])), e the domain's embedding."""

    def __init__(self, dim: int, width: int, out: int | None = None) -> None:
        super().__init__()
        self.hidden = nn.Linear(dim + width, GATE_HIDDEN)
        self.out = nn.Linear(GATE_HIDDEN, width if out is None else out)

    def gate(self, prior: Tensor, x: Tensor) -> Tensor:
        """Return the gate 2 sigmoid(...) [B, out]; no gradient reaches x through it."""
        h = F.relu(self.hidden(torch.cat([prior, x.detach()], dim=1)))
        return 2 * torch.sigmoid(self.out(h))

    def forward(self, prior: Tensor, x: Tensor) -> Tensor:
        """Return the gated x [B, n]."""
        gated: Tensor = x * self.gate(prior, x)
        return gated


class DenseNumbers(nn.Module):
    """relu(x_j v_j + b_j) for each numerical value: [B, D] -> [B, D * d]."""

    def __init__(self, count: int, dim: int) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(dim)
        self.weight = nn.Parameter(torch.empty(count, dim).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(count, dim).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, D * d]."""
        return F.relu(x.unsqueeze(2) * self.weight + self.bias).flatten(1)
