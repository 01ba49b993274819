"""GradVac: each gradient is turned until its cosine to every other reaches a moving target."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor


@dataclass(frozen=True)
class GradVac:
    """GradVac: each gradient is turned until its cosine to every other reaches a moving target; all are summed.

    For each task i, over the others j in random order: phi = cos(g_i', g_j); where phi is under the target q_ij,
    g_i' += |g_i'| (q sqrt(1 - phi^2) - phi sqrt(1 - q^2)) / (|g_j| sqrt(1 - q^2)) g_j; then
    q_ij <- (1 - beta) q_ij + beta phi. Targets start at 0 (the first step is PCGrad's); those of absent tasks stay. A
    surgered gradient of length 0 has phi = 0; a target counts as at most 1 - 1e-12, where the formula divides by 0.

    Args:
        beta: how fast targets move, in [0, 1].

    Raises:
        ValueError: beta outside [0, 1].

    Source: ICLR 2021, equations 4 and 5, beta as in the paper's experiments (ports often use 0.5).
    """

    beta: float = 0.01
    level: ClassVar[str] = "gradients"
    any_level: ClassVar[bool] = False
    scale: ClassVar[str] = "raw"
    total: ClassVar[str | None] = None
    needs: ClassVar[tuple[str, ...]] = ("generator", "present")
    solves: ClassVar[bool] = False
    paper: ClassVar[str] = "Wang, Tsvetkov, Firat, Cao, Gradient Vaccine, ICLR 2021"
    use: ClassVar[str] = (
        "As PCGrad, where tasks usually agree and a step with less agreement than usual should be corrected too."
    )

    def __post_init__(self) -> None:
        if not 0.0 <= self.beta <= 1.0:
            raise ValueError(f"beta must be in [0, 1], got {self.beta!r}")

    def init(self, num_tasks: int) -> dict[str, Any]:
        """Return the targets [T, T], all 0."""
        return {"targets": torch.zeros(num_tasks, num_tasks, dtype=torch.float64)}

    def __call__(
        self,
        statistic: Tensor,
        state: dict[str, Any],
        *,
        generator: torch.Generator | None = None,
        present: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return the weights [P] float64 for a Gram matrix [P, P] and the moved targets; orders from `generator`."""
        m = statistic.double() / statistic.diagonal().max()
        norms = m.diagonal().sqrt().tolist()
        targets = state["targets"].clone()
        places = torch.arange(len(m)) if present is None else present.nonzero().flatten()
        coefficients = torch.eye(len(m), dtype=torch.float64)
        for i, row in enumerate(coefficients):
            others = [j for j in range(len(m)) if j != i]
            for k in torch.randperm(len(others), generator=generator).tolist():
                j = others[k]
                products = m @ row
                length = math.sqrt(max(float(products @ row), 0.0))
                gone = length <= 1e-12 * norms[i]
                phi = 0.0 if gone else max(-1.0, min(1.0, float(products[j]) / (length * norms[j])))
                here = (places[i], places[j])
                target = float(targets[here])
                if phi < target:
                    aim = min(target, 1.0 - 1e-12)
                    tangent = aim * math.sqrt((1.0 - phi**2) / (1.0 - aim**2)) - phi
                    row[j] += length / norms[j] * tangent
                targets[here] = (1.0 - self.beta) * target + self.beta * phi
        return coefficients.sum(0), {"targets": targets}
