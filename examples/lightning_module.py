"""A LightningModule with a Balancer: manual optimization, two lines in `training_step`.

python examples/lightning_module.py          # needs lightning: pip install lightning

Lightning's automatic optimization runs one backward of one loss; the balancer needs one a task, so it is switched off. Clipping is
the balancer's (`max_task_norm`), since the shared gradients are not in `p.grad` between backward and step. `Trainer`'s logging,
checkpoints and devices stay as they are; the balancer's own state goes into the checkpoint with two hooks.
"""

from __future__ import annotations

from typing import Any

import lightning
import torch
from own_model import TwoTowers, batches
from torch.nn import functional as F

import equipoise as eq


class Balanced(lightning.LightningModule):
    """Two towers on a shared trunk, trained by PUB."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = TwoTowers()
        self.balancer: eq.Balancer | None = None
        self.saved: dict[str, Any] | None = None

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer; the balancer wraps the same object."""
        optimizer = torch.optim.Adam(self.model.parameters(), lr=3e-3)
        self.balancer = eq.Balancer(optimizer, "pub")
        if self.saved is not None:
            self.balancer.load_state_dict(self.saved)
        return optimizer

    def training_step(self, batch: tuple[torch.Tensor, ...], index: int) -> None:
        """Run one balanced step and log the losses."""
        ids, clicked, liked = batch
        click, like = self.model(ids)
        losses = {
            "click": F.binary_cross_entropy_with_logits(click, clicked),
            "like": F.binary_cross_entropy_with_logits(like, liked),
        }
        assert self.balancer is not None
        self.balancer.backward(losses)  # instead of self.manual_backward(loss)
        self.balancer.step()  # instead of optimizer.step()
        self.log_dict({name: loss.detach() for name, loss in losses.items()}, prog_bar=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the balancer's state beside the optimizer's."""
        assert self.balancer is not None
        checkpoint["balancer"] = self.balancer.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Give it back once the optimizer is there."""
        self.saved = checkpoint["balancer"]


def main() -> None:
    """Train for 100 steps and print the click loss before and after."""
    torch.manual_seed(0)
    module = Balanced()
    data = list(batches(100))

    def loss() -> float:
        with torch.no_grad():
            ids, clicked, _ = data[0]
            return float(F.binary_cross_entropy_with_logits(module.model(ids)[0], clicked))

    before = loss()
    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=None))
    print(f"click {before:.4f} -> {loss():.4f}")


if __name__ == "__main__":
    main()
