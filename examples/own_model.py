"""Your own nn.Module under PUB in three lines: anything whose losses are a mapping of scalars will do.

python examples/own_model.py
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import equipoise as eq


class TwoTowers(nn.Module):
    """A trunk that both tasks read, and a tower for each."""

    def __init__(self, num_ids: int = 1000, width: int = 16) -> None:
        super().__init__()
        self.table = nn.Embedding(num_ids, width)
        self.trunk = nn.Sequential(nn.Linear(2 * width, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU())
        self.click, self.like = nn.Linear(32, 1), nn.Linear(32, 1)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits [B] of click and like for ids [B, 2]."""
        h = self.trunk(self.table(ids).flatten(1))
        return self.click(h).squeeze(-1), self.like(h).squeeze(-1)


def batches(num: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return made-up batches of ids, clicks and likes."""
    generator = torch.Generator().manual_seed(0)
    taste = torch.randn(1000, 2, generator=generator)
    found = []
    for _ in range(num):
        ids = torch.randint(1000, (512, 2), generator=generator)
        chance = torch.sigmoid(taste[ids].sum(1) - torch.tensor([1.0, 3.0]))
        labels = (torch.rand(512, 2, generator=generator) < chance).float()
        found.append((ids, labels[:, 0], labels[:, 1]))
    return found


def main() -> None:
    """Train for 200 steps and print the losses of the first and the last 20."""
    torch.manual_seed(0)
    model = TwoTowers()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    # 1: shared=None would find the table and the trunk by itself
    balancer = eq.Balancer(optimizer, eq.PUB(), shared=[*model.table.parameters(), *model.trunk.parameters()])
    history = []
    for ids, clicked, liked in batches(200):
        click, like = model(ids)
        losses = {
            "click": F.binary_cross_entropy_with_logits(click, clicked),
            "like": F.binary_cross_entropy_with_logits(like, liked),
        }
        balancer.backward(losses)  # 2: instead of sum(losses.values()).backward()
        balancer.step()  # 3: instead of optimizer.step(); optimizer.zero_grad()
        history.append([float(loss.detach()) for loss in losses.values()])
    first, last = torch.tensor(history[:20]).mean(0), torch.tensor(history[-20:]).mean(0)
    print(f"click {first[0]:.3f} -> {last[0]:.3f}   like {first[1]:.3f} -> {last[1]:.3f}")
    print("last weights", {task: round(w, 3) for task, w in balancer.last.weights.items()})  # type: ignore[union-attr]


if __name__ == "__main__":
    main()
