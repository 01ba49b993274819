"""Parts that backbones are made of: multi-layer perceptrons, experts, mixtures."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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
