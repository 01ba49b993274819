"""HoME: normalised experts in a hierarchy of all tasks, groups of tasks, single tasks (Wang et al., 2024)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor, nn

from equipoise.data.batches import Batch
from equipoise.data.schema import Schema
from equipoise.models.blocks import BlockOptions
from equipoise.models.layers import Experts, mixture, tower
from equipoise.models.ranker import ByTask, Ranker, parts, seeded


class HoME(Ranker):
    """y_t = tower_t(h_t), where experts are masked by a hierarchy: all tasks (s), a group of tasks (c), one task (t).

    Meta level, of x:  z_c = mix_c(x; E_c, E_s) + self_c(x; E_c);  z_s = mix_s(x; E_s, all E_c) + self_s(x; E_s).
    Task level:        h_t = mix_t(z_c + z_s; F_t, F_c, F_s) + self_t(z_c; F_t), F_t and F_c reading z_c, F_s reading z_s.

    mix(u; ...) is the sum of experts weighted by softmax(W u); in it "+" joins the two. self(u; E) weighs a block's own
    experts alone, by softmax(W u), or by sigmoid where there is one (self gate). Each expert layer is
    Swish(BatchNorm(Linear)), and each block of experts reads u * sum_l softmax(V u)_l 2 sigmoid(u A_l B_l) (feature gate).

    The parts of a group of several tasks count as shared, also for tasks outside it, whose gradient is 0 there; those of
    a group of one are the task's own.

    Args:
        schema: `log.schema`.
        groups: which tasks belong together, "click,buy/dwell"; "" puts tasks of one kind (binary, regression, watch) together.
        num_experts: of each block.
        loras: L, low-rank parts of a feature gate, each of rank width / L.
        embedding_dim: size of each feature's embedding.
        expert: sizes of each expert. tower_sizes: hidden sizes of each tower, () for a linear one.
        dropout: after each hidden layer. batch_norm: before each ReLU of the towers; experts always have it.
        id_dropout, sparse: see `FeatureEmbedding`; sparse also where the schema says so.
        seed: of the initial parameters; None draws from torch's generator as it is.
        blocks: what else the model has, see `equipoise.models.blocks.Blocks`.

    Raises:
        ValueError: groups that do not hold each task once, no expert, loras below 1.

    Source: Wang et al., HoME: Hierarchy of Multi-Gate Experts for Multi-Task Learning at Kuaishou, arXiv 2408.05430,
    section 3, equations from memory; blocks, masks and gates checked on one public implementation (home_moe_kernels).
    What the self gates read and the feature gate's mixture of L parts are from memory alone. There inner layers of an
    expert have no norm of their own; ours do, with one layer (the default) it is the same.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        groups: str = "",
        num_experts: int = 2,
        loras: int = 2,
        embedding_dim: int = 16,
        expert: Sequence[int] = (64,),
        tower_sizes: Sequence[int] = (32,),
        dropout: float = 0.0,
        batch_norm: bool = False,
        id_dropout: float = 0.05,
        sparse: bool = False,
        seed: int | None = None,
        **blocks: Unpack[BlockOptions],
    ) -> None:
        super().__init__()
        if loras < 1:
            raise ValueError(f"loras must be >= 1, got {loras}")
        self.schema, self.num_experts = schema, num_experts
        self.members = _groups(schema, groups)
        with seeded(seed):
            self.embedding = self.inputs(schema, embedding_dim, id_dropout, sparse, blocks)
            width = self.embedding.width

            def block(inputs: int) -> nn.Module:
                gated = FeatureGate(inputs, loras)
                return nn.Sequential(gated, Experts(num_experts, inputs, expert, dropout, True, "silu"))

            def gate(inputs: int, blocks: int = 1) -> nn.Module:
                return nn.Linear(inputs, blocks * num_experts, bias=False)

            d = expert[-1] if expert else 0  # no size: Experts says so
            self.meta_shared = block(width)
            self.meta = ByTask({name: block(width) for name in self.members})
            self.gate, self.self_gate = gate(width, 1 + len(self.meta)), gate(width)
            self.experts = block(d)
            self.grouped, self.own = ByTask(), ByTask()
            for task in schema.tasks:
                self.own[task] = nn.ModuleDict(
                    {
                        "experts": block(d),
                        "gate": gate(2 * d, 3),
                        "self_gate": gate(d),
                        "tower": tower(d, tower_sizes, dropout, batch_norm),
                    }
                )
            for name, tasks in self.members.items():
                made = {"meta_gate": gate(width, 2), "meta_self_gate": gate(width), "group_experts": block(d)}
                if len(tasks) == 1:
                    parts(self.own, tasks[0]).update(made)
                else:
                    self.grouped[name] = nn.ModuleDict(made)
        self.widths = [width, *[num_experts * d] * (1 + len(self.meta)), d, num_experts * d]

    def represent(self, batch: Batch) -> Tensor:
        """Return [B, ...]: x, the meta level's experts, z_s and the task level's experts for all tasks."""
        x = self.embedding(batch)
        meta = [self.meta_shared(x), *(block(x) for block in self.meta.values())]
        z = mixture(self.gate, x, torch.cat(meta, dim=1)) + _self_gated(self.self_gate, x, meta[0])
        flat = [e.flatten(1) for e in (*meta, self.experts(z))]
        return torch.cat([x, *flat[:-1], z, flat[-1]], dim=1)

    def logits(self, batch: Batch, representation: Tensor) -> dict[str, Tensor]:
        """Return {task: tower(h)} [B]."""
        x, *meta, z, common = torch.split(representation, self.widths, dim=1)
        first, shared = self._experts(meta[0]), self._experts(common)
        found = {}
        for name, tasks, flat in zip(self.members, self.members.values(), meta[1:], strict=True):
            part = parts(self.own, tasks[0]) if len(tasks) == 1 else parts(self.grouped, name)
            mine = self._experts(flat)
            z_c = mixture(part["meta_gate"], x, torch.cat([mine, first], dim=1))
            z_c = z_c + _self_gated(part["meta_self_gate"], x, mine)
            local, both = part["group_experts"](z_c), torch.cat([z_c, z], dim=1)
            for task in tasks:
                part = parts(self.own, task)
                own = part["experts"](z_c)
                h = mixture(part["gate"], both, torch.cat([own, local, shared], dim=1))
                h = h + _self_gated(part["self_gate"], z_c, own)
                found[task] = part["tower"](h).squeeze(-1)
        return {task: found[task] for task in self.schema.tasks}

    def _experts(self, flat: Tensor) -> Tensor:
        """Return outputs [B, E, d] of flat ones."""
        return flat.view(flat.shape[0], self.num_experts, -1)


class FeatureGate(nn.Module):
    """x -> x * sum_l softmax(V x)_l 2 sigmoid(x A_l B_l), [B, width]; A_l is [width, rank], rank = width / L or 1."""

    def __init__(self, width: int, loras: int) -> None:
        super().__init__()
        rank = max(1, width // loras)
        self.choice = nn.Linear(width, loras, bias=False)
        self.down = nn.Parameter(torch.empty(loras, width, rank).uniform_(-1, 1) / math.sqrt(width))
        self.up = nn.Parameter(torch.empty(loras, rank, width).uniform_(-1, 1) / math.sqrt(rank))

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, width]."""
        low = x.expand(len(self.down), *x.shape) @ self.down @ self.up
        return x * mixture(self.choice, x, 2 * torch.sigmoid(low).transpose(0, 1))


def _self_gated(gate: nn.Module, x: Tensor, experts: Tensor) -> Tensor:
    """Return sum_e w_e f_e, [B, d]; w = softmax(gate(x)), of one expert its sigmoid."""
    if experts.shape[1] > 1:
        return mixture(gate, x, experts)
    out: Tensor = torch.sigmoid(gate(x)) * experts.squeeze(1)
    return out


def _groups(schema: Schema, text: str) -> dict[str, list[str]]:
    """Return {name: its tasks}, sorted, so that nothing hangs on the order of labels; ValueError as HoME has it."""
    if text:
        found = [[name.strip() for name in group.split(",")] for group in text.split("/")]
        if sorted(name for group in found for name in group) != sorted(schema.tasks):
            raise ValueError(
                f"groups must hold each of {', '.join(schema.tasks)} once, got {text!r}; write it as 'click,buy/dwell'"
            )
    else:
        kinds = {label.kind for label in schema.labels}
        found = [[label.name for label in schema.labels if label.kind == kind] for kind in kinds]
    named = {"+".join(sorted(group)): sorted(group) for group in found}
    return dict(sorted(named.items()))
