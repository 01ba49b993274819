"""Time of a training step: plain Adam, the floor (forward and T backwards), Equipoise in each mode.

python benchmarks/step_time.py [--tasks 2 4 8] [--rounds 15] [--threads N]

MMoE: 16 tables of 10,000 x 16, 8 experts 256-512-256 with batch norm and ReLU, a gate a task, towers 256-128-1, batch 2048;
shared = tables and experts (4.7 M parameters). All sides take turns in one process; a ratio is that of two steps of the same
round, and medians with quartiles over rounds are printed. "floor" is what no exact method can go below: a forward and T
`autograd.grad` calls, nothing else; "floor + Adam" adds the optimizer's own step.
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

BATCH, TABLES, ROWS, DIM, EXPERTS = 2048, 16, 10_000, 16, 8


class Model(nn.Module):
    """The MMoE above; experts are batched matrices."""

    def __init__(self, num_tasks: int) -> None:
        super().__init__()
        torch.manual_seed(0)
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
        x = self.tables(ids).flatten(1)
        found = torch.stack([expert(x) for expert in self.experts], 1)
        losses = {}
        for t, (gate, tower) in enumerate(zip(self.gates, self.towers, strict=True)):
            mixed = (gate(x).softmax(-1).unsqueeze(-1) * found).sum(1)
            losses[str(t)] = F.binary_cross_entropy_with_logits(tower(mixed).squeeze(-1), labels[t])
        return losses, found


def sides(num_tasks: int) -> dict[str, Callable[[Tensor, Tensor], None]]:
    """Return {name: a training step on (ids, labels)}, each with a model and an optimizer of its own."""
    result: dict[str, Callable[[Tensor, Tensor], None]] = {}

    def fresh() -> tuple[Model, torch.optim.Optimizer]:
        model = Model(num_tasks)
        return model, torch.optim.Adam(model.parameters(), lr=1e-3)

    model, optimizer = fresh()

    def plain(ids: Tensor, labels: Tensor) -> None:
        optimizer.zero_grad()
        torch.stack(list(model.losses(ids, labels)[0].values())).sum().backward()
        optimizer.step()

    result["plain Adam"] = plain

    def floor(ids: Tensor, labels: Tensor) -> None:
        losses, _ = floor_model.losses(ids, labels)
        for t, loss in enumerate(losses.values()):
            own = [*floor_model.gates[t].parameters(), *floor_model.towers[t].parameters()]
            torch.autograd.grad(loss, [*floor_model.shared_parameters(), *own], retain_graph=True)

    floor_model = Model(num_tasks)
    result["floor"] = floor

    def with_adam(ids: Tensor, labels: Tensor) -> None:
        floor(ids, labels)
        adam.step()

    adam = torch.optim.Adam(floor_model.parameters(), lr=1e-3)
    for p in floor_model.parameters():
        p.grad = torch.zeros_like(p)
    result["floor + Adam"] = with_adam

    modes = {
        "pub": {"method": "pub"},
        "pub every 10, exact between": {"method": "pub", "every": 10},
        "pub every 10, weighted between": {"method": "pub", "every": 10, "between": "weighted"},
        "pub at representation": {"method": "pub", "level": "representation"},
        "nash": {"method": "nash"},
        "equal, one backward": {"method": "equal", "between": "weighted"},
    }
    for name, options in modes.items():
        result[f"equipoise {name}"] = _balanced(*fresh(), dict(options))
    return result


def _balanced(
    model: Model, optimizer: torch.optim.Optimizer, options: dict[str, object]
) -> Callable[[Tensor, Tensor], None]:
    balancer = eq.Balancer(optimizer, shared=model.shared_parameters(), **options)  # type: ignore[arg-type]

    def step(ids: Tensor, labels: Tensor) -> None:
        losses, found = model.losses(ids, labels)
        balancer.backward(losses, representation=found)
        balancer.step()

    return step


def data(num_tasks: int) -> tuple[Tensor, Tensor]:
    """Return ids [B, tables] and labels [T, B]; table k has rows k * ROWS ..."""
    ids = torch.randint(ROWS, (BATCH, TABLES)) + torch.arange(TABLES) * ROWS
    return ids, (torch.rand(num_tasks, BATCH) < 0.2).float()


def measure(num_tasks: int, rounds: int) -> dict[str, dict[str, float]]:
    """Return {side: {"ms", "over_plain", "q1", "q3", "over_floor_adam"}}; every side once a round, order rotated."""
    steps = sides(num_tasks)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for round_ in range(rounds + 2):
        names = list(steps)
        batch = data(num_tasks)
        for name in names[round_ % len(names) :] + names[: round_ % len(names)]:
            begun = time.perf_counter()
            steps[name](*batch)
            if round_ >= 2:  # warm-up
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
    chosen = parser.parse_args()
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    result = {}
    for num_tasks in chosen.tasks:
        found = result[num_tasks] = measure(num_tasks, chosen.rounds)
        print(
            f"\n| T = {num_tasks} | ms | over plain Adam (quartiles) | over floor + Adam |\n| --- | --- | --- | --- |"
        )
        for name, e in found.items():
            print(
                f"| {name} | {e['ms']:.0f} | {e['over_plain']:.2f} ({e['q1']:.2f} to {e['q3']:.2f}) | "
                f"{e['over_floor_adam']:.3f} |",
                flush=True,
            )
    print(json.dumps({"threads": torch.get_num_threads(), "torch": torch.__version__, "result": result}))


if __name__ == "__main__":
    main()
