"""Time of a training step: plain Adam, the floor (forward and T backwards), Equipoise in each mode, torchjd.

python benchmarks/step_time.py [--tasks 2 4 8] [--rounds 20] [--threads N] [--sparse]

MMoE: 16 tables of 10,000 x 16, 8 experts 256-512-256 with batch norm and ReLU, a gate a task, towers 256-128-1, batch 2048;
shared = tables and experts (4.7 M parameters). All sides take turns in one process; a ratio is that of two steps of the same
round, and medians with quartiles over rounds are printed. "floor" is what no exact method can go below: a forward and T
`autograd.grad` calls, nothing else; "floor + Adam" adds the optimizer's own step. --sparse: row-sparse tables, under
SparseAdam, with Adam for the rest, on every side.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import equipoise as eq
from equipoise.models.table import touched_rows

BATCH, TABLES, ROWS, DIM, EXPERTS = 2048, 16, 10_000, 16, 8


class Model(nn.Module):
    """The MMoE above; experts are batched matrices."""

    def __init__(self, num_tasks: int, sparse: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.sparse = sparse
        self.tables = nn.Embedding(TABLES * ROWS, DIM)
        width = TABLES * DIM
        self.experts = nn.ModuleList(
            nn.Sequential(
                nn.Linear(width, 512),
                nn.BatchNorm1d(512),
                nn.ReLU(),
                nn.Linear(512, 256),
                nn.BatchNorm1d(256),
                nn.ReLU(),
            )
            for _ in range(EXPERTS)
        )
        self.gates = nn.ModuleList(nn.Linear(width, EXPERTS) for _ in range(num_tasks))
        self.towers = nn.ModuleList(
            nn.Sequential(nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 1)) for _ in range(num_tasks)
        )

    def shared_parameters(self) -> list[nn.Parameter]:
        """Tables and experts."""
        return [*self.tables.parameters(), *self.experts.parameters()]

    def losses(self, ids: Tensor, labels: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return {task: loss} and the experts' outputs [B, E, 256]."""
        if self.sparse:
            x = F.embedding(*touched_rows(self.tables.weight, ids)[::-1]).flatten(1)
        else:
            x = self.tables(ids).flatten(1)
        found = torch.stack([expert(x) for expert in self.experts], 1)
        losses = {}
        for t, (gate, tower) in enumerate(zip(self.gates, self.towers, strict=True)):
            mixed = (gate(x).softmax(-1).unsqueeze(-1) * found).sum(1)
            losses[str(t)] = F.binary_cross_entropy_with_logits(tower(mixed).squeeze(-1), labels[t])
        return losses, found


class Both:
    """Several optimizers as one."""

    def __init__(self, model: Model) -> None:
        self.parts: list[torch.optim.Optimizer] = []
        rest = list(model.parameters())
        if model.sparse:
            self.parts.append(torch.optim.SparseAdam(model.tables.parameters(), lr=1e-3))
            rest = [p for p in rest if p is not model.tables.weight]
        self.parts.append(torch.optim.Adam(rest, lr=1e-3))

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for o in self.parts:
            o.zero_grad()

    def step(self) -> None:
        """Make all steps."""
        for o in self.parts:
            o.step()


Step = Callable[[Tensor, Tensor], None]


def sides(num_tasks: int, sparse: bool, only: str | None = None) -> dict[str, Step]:
    """Return {name: a training step on (ids, labels)}, each with a model and optimizers of its own; `only` one of them."""
    makers: dict[str, Callable[[], Step | None]] = {
        "plain Adam": lambda: _plain(Model(num_tasks, sparse)),
        "floor": lambda: _floor(Model(num_tasks, sparse), step=False),
        "floor + Adam": lambda: _floor(Model(num_tasks, sparse), step=True),
    }
    modes: dict[str, dict[str, object]] = {
        "pub": {"method": "pub"},
        "pub compiled": {"method": "pub", "compile": True},
        "pub every 10, exact between": {"method": "pub", "every": 10},
        "pub every 10, weighted between": {"method": "pub", "every": 10, "between": "weighted"},
        "pub sketch": {"method": "pub", "gram": "sketch"},
        "pub at representation": {"method": "pub", "level": "representation"},
        "nash": {"method": "nash"},
        "equal, one backward": {"method": "equal", "between": "weighted"},
    }
    for name, options in modes.items():
        makers[f"equipoise {name}"] = lambda options=options: _balanced(
            Model(num_tasks, sparse), dict(options)
        )
    if not sparse:
        makers["torchjd, one backward at a time"] = lambda: _torchjd(Model(num_tasks, sparse))
    made = {name: make() for name, make in makers.items() if only in (None, name)}
    return {name: step for name, step in made.items() if step is not None}


def _plain(model: Model) -> Step:
    optimizer = Both(model)

    def step(ids: Tensor, labels: Tensor) -> None:
        optimizer.zero_grad()
        torch.stack(list(model.losses(ids, labels)[0].values())).sum().backward()
        optimizer.step()

    return step


def _floor(model: Model, step: bool) -> Step:
    adam = Both(model)

    def run(ids: Tensor, labels: Tensor) -> None:
        losses, _ = model.losses(ids, labels)
        for t, loss in enumerate(losses.values()):
            own = [*model.gates[t].parameters(), *model.towers[t].parameters()]
            found = torch.autograd.grad(loss, [*model.shared_parameters(), *own], retain_graph=True)
        if step:
            for p, g in zip(model.shared_parameters(), found, strict=False):
                p.grad = g
            adam.step()

    return run


def _torchjd(model: Model) -> Step | None:
    """Return torchjd's fastest setting here: UPGrad where its quadprog is installed, else the mean. It knows no sparse gradient."""
    try:
        from torchjd import aggregation, autojac
    except ImportError:
        print("torchjd is not installed: left out")
        return None
    try:
        aggregator = aggregation.UPGrad()
    except ImportError:
        print("torchjd without quadprog: its Mean in place of UPGrad, which does less")
        aggregator = aggregation.Mean()
    optimizer = Both(model)
    own = [*model.gates.parameters(), *model.towers.parameters()]

    def step(ids: Tensor, labels: Tensor) -> None:
        optimizer.zero_grad()
        losses = list(model.losses(ids, labels)[0].values())
        shared = model.shared_parameters()
        # faster than vmap on a CPU
        autojac.backward(losses, inputs=shared, retain_graph=True, parallel_chunk_size=1)
        autojac.jac_to_grad(shared, aggregator)
        torch.stack(losses).sum().backward(inputs=own)
        optimizer.step()

    return step


def _balanced(model: Model, options: dict[str, object]) -> Step:
    balancer = eq.Balancer(Both(model).parts, shared=model.shared_parameters(), **options)  # type: ignore[arg-type]

    def step(ids: Tensor, labels: Tensor) -> None:
        losses, found = model.losses(ids, labels)
        balancer.backward(losses, representation=found)
        balancer.step()

    return step


def data(num_tasks: int) -> tuple[Tensor, Tensor]:
    """Return ids [B, tables] and labels [T, B]; table k has rows k * ROWS ..."""
    ids = torch.randint(ROWS, (BATCH, TABLES)) + torch.arange(TABLES) * ROWS
    return ids, (torch.rand(num_tasks, BATCH) < 0.2).float()


def measure(num_tasks: int, rounds: int, sparse: bool) -> dict[str, dict[str, float]]:
    """Return {side: {"ms", "over_plain", "q1", "q3", "over_floor_adam"}}; every side once a round, order rotated."""
    steps = sides(num_tasks, sparse)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for round_ in range(rounds + 3):
        names = list(steps)
        batch = data(num_tasks)
        for name in names[round_ % len(names) :] + names[: round_ % len(names)]:
            begun = time.perf_counter()
            steps[name](*batch)
            if round_ >= 3:  # warm-up, the second step compiles
                times[name].append(time.perf_counter() - begun)
    found = {}
    for name, mine in times.items():
        # a cadence's cost is the mean of its own steps, all others' medians hold
        cadence = "every 10" in name
        ratios = [a / b for a, b in zip(mine, times["plain Adam"], strict=True)]
        floors = [a / b for a, b in zip(mine, times["floor + Adam"], strict=True)]
        quarters = statistics.quantiles(ratios, n=4)
        centre = statistics.mean if cadence else statistics.median
        found[name] = {
            "ms": 1e3 * statistics.median(mine),
            "over_plain": centre(ratios),
            "q1": quarters[0],
            "q3": quarters[2],
            "over_floor_adam": centre(floors),
        }
    return found


def main() -> None:
    """Print a table for each number of tasks and one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--sparse", action="store_true", help="row-sparse tables")
    chosen = parser.parse_args()
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    result = {}
    for num_tasks in chosen.tasks:
        found = result[num_tasks] = measure(num_tasks, chosen.rounds, chosen.sparse)
        print(
            f"\n| T = {num_tasks} | ms | over plain Adam (quartiles) | over floor + Adam |\n| --- | --- | --- | --- |"
        )
        for name, e in found.items():
            print(
                f"| {name} | {e['ms']:.0f} | {e['over_plain']:.2f} ({e['q1']:.2f} to {e['q3']:.2f}) | "
                f"{e['over_floor_adam']:.3f} |",
                flush=True,
            )
    print(
        json.dumps(
            {
                "threads": torch.get_num_threads(),
                "torch": torch.__version__,
                "sparse": chosen.sparse,
                "result": result,
            }
        )
    )


if __name__ == "__main__":
    main()
