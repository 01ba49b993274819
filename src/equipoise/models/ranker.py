"""What every backbone offers beside its own forward: losses, predictions, and whose parameters are whose."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from equipoise.data.batches import Batch
from equipoise.data.schema import Schema
from equipoise.losses import Losses, predictions, task_losses
from equipoise.models.blocks import BlockOptions, Blocks
from equipoise.models.embedding import FeatureEmbedding
from equipoise.models.sides import Side


class ByTask(nn.ModuleDict):
    """{task: module} for tasks of any name: torch's own refuses `forward`, `train`, `a.b` and other names of its own."""

    def __getitem__(self, key: str) -> nn.Module:
        return super().__getitem__(_safe(key))

    def __setitem__(self, key: str, module: nn.Module) -> None:
        super().__setitem__(_safe(key), module)

    def __contains__(self, key: str) -> bool:
        return super().__contains__(_safe(key))


_TAKEN = frozenset(dir(nn.ModuleDict()))


def _safe(task: str) -> str:
    """Return the name under which a task's modules lie in a state dict: its own where torch allows it."""
    return f"task:{task.replace('.', ':')}" if "." in task or task in _TAKEN else task


class Ranker(nn.Module):
    """Base of the backbones. A subclass sets `schema`, `own` ({task: modules}) and defines `represent` and `logits`.

    `inputs` makes its embedding and, where blocks ask for them, `sides` ({task: Side}), the tasks' own but for `shared_sides`, which several
    losses reach.
    """

    schema: Schema
    own: ByTask
    shared_sides: tuple[str, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self.sides = ByTask()

    def inputs(
        self, schema: Schema, dim: int, id_dropout: float, sparse: bool, options: BlockOptions
    ) -> FeatureEmbedding:
        """Return the input's embedding with its blocks; the tasks' sides are made too. TypeError for an unknown block."""
        blocks, sparse = Blocks(**options), sparse or schema.sparse
        made = FeatureEmbedding(schema, dim, id_dropout, sparse, blocks)
        if blocks.wide or blocks.biases:
            for task in schema.tasks:
                self.sides[task] = Side(schema, blocks, dim, id_dropout, sparse)
        return made

    def represent(self, batch: Batch) -> Tensor:
        """Return the shared representation that the task parts read, [B, ...]."""
        raise NotImplementedError

    def logits(self, batch: Batch, representation: Tensor) -> dict[str, Tensor]:
        """Return {task: raw output [B]} from the shared representation, without the sides."""
        raise NotImplementedError

    def outputs(self, batch: Batch, representation: Tensor) -> dict[str, Tensor]:
        """Return {task: raw output [B]} from the shared representation, the tasks' sides added."""
        return self.with_sides(batch, self.logits(batch, representation))

    def with_sides(self, batch: Batch, logits: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return {task: raw output + its wide part and bias tower}; the same without them."""
        return {task: z + self.sides[task](batch) for task, z in logits.items()} if self.sides else logits

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return {task: raw output [B]}: a logit (watch: log of expected / mean time), or a standardised regression value."""
        return self.outputs(batch, self.represent(batch))

    def losses(self, batch: Batch) -> Losses:
        """Return {task: scalar loss or None}, with `.counts` and `.representation`."""
        representation = self.represent(batch)
        return task_losses(self.outputs(batch, representation), batch, self.schema, representation)

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """Return {task: [B] probability, or expected label in its own units}."""
        return predictions(self(batch), self.schema, batch.numerical)

    def task_parameters(self, task: str) -> list[nn.Parameter]:
        """Return the parameters that only this task reaches; ValueError for an unknown task."""
        self.schema.label(task)
        own = list(self.own[task].parameters())
        if task in self.sides and task not in self.shared_sides:
            own += self.sides[task].parameters()
        return own

    def shared_parameters(self) -> list[nn.Parameter]:
        """Return all other parameters, in the order of `parameters()`."""
        own = {id(p) for task in self.schema.tasks for p in self.task_parameters(task)}
        return [p for p in self.parameters() if id(p) not in own]

    def tables(self) -> list[nn.Parameter]:
        """Return the row-sparse embedding tables, which need an optimizer that takes sparse gradients; [] without `sparse`."""
        found = [m.table for m in self.modules() if isinstance(m, FeatureEmbedding) and m.sparse]
        return [p for table in found for p in table.parameters()]


def parts(modules: nn.ModuleDict, task: str) -> nn.ModuleDict:
    """Return the named parts of a task: `modules[task]`, which the type checker knows as any module."""
    found = modules[task]
    assert isinstance(found, nn.ModuleDict)
    return found


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Draw parameters inside from `seed` and leave torch's generators as they were; None draws from them as they are."""
    if seed is None:
        yield
        return
    gpus = range(torch.cuda.device_count()) if torch.get_default_device().type == "cuda" else ()
    with torch.random.fork_rng(gpus):
        if gpus:
            torch.manual_seed(seed)
        else:
            torch.default_generator.manual_seed(
                seed
            )  # torch.manual_seed would reseed the GPUs, which are not kept
        yield
