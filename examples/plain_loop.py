"""A training loop that already exists, with what real loops have: a scheduler, clipping, accumulation, bfloat16, checkpoints.

python examples/plain_loop.py

Lines that the balancer changed are marked with `<-`; the scheduler, autocast and the checkpoint of model and optimizer stay as they were.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from own_model import TwoTowers, batches
from torch.nn import functional as F

import equipoise as eq

ACCUMULATE = 2


def make() -> tuple[TwoTowers, torch.optim.Optimizer, eq.Balancer]:
    """Return a model, its optimizer and the balancer around it."""
    model = TwoTowers()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-4)
    # clip_grad_norm_ before step would see the towers only: the bound is the balancer's
    return model, optimizer, eq.Balancer(optimizer, "pub", max_task_norm=1.0)  # <-


def losses_of(model: TwoTowers, batch: tuple[torch.Tensor, ...]) -> dict[str, torch.Tensor]:
    """Return {task: loss} of a batch."""
    ids, clicked, liked = batch
    with torch.autocast("cpu", torch.bfloat16):
        click, like = model(ids)
    return {
        "click": F.binary_cross_entropy_with_logits(click.float(), clicked),
        "like": F.binary_cross_entropy_with_logits(like.float(), liked),
    }


def main() -> None:
    """Train for 100 steps of two micro-batches, save, load into new objects, and go on for a step: the same parameters."""
    torch.manual_seed(0)
    model, optimizer, balancer = make()
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=100)
    for step, batch in enumerate(batches(200)):
        losses = losses_of(model, batch)
        balancer.backward(losses)  # <- was (sum(losses.values()) / ACCUMULATE).backward()
        if (step + 1) % ACCUMULATE == 0:
            balancer.step()  # <- was clip_grad_norm_(...); optimizer.step(); optimizer.zero_grad()
            scheduler.step()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint.pt"
        torch.save(
            {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "balancer": balancer.state_dict(),
            },  # <-
            path,
        )
        state = torch.load(path, weights_only=True)
    again, other, following = make()
    again.load_state_dict(state["model"])
    other.load_state_dict(state["optimizer"])
    following.load_state_dict(state["balancer"])  # <-
    for each, its in ((model, balancer), (again, following)):
        its.backward(losses_of(each, batch))
        its.step()
    same = all(torch.equal(p, q) for p, q in zip(again.parameters(), model.parameters(), strict=True))
    print(
        f"step {following.last.step}, click {float(losses['click'].detach()):.3f}, goes on from the checkpoint to the same parameters: {same}"
    )  # type: ignore[union-attr]


if __name__ == "__main__":
    main()
