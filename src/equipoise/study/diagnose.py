"""`equipoise diagnose`: do the tasks conflict, at which level, where, and does balancing differ from noise?"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from equipoise import models
from equipoise.config import TrainConfig
from equipoise.data.batches import Batch
from equipoise.data.store import Log
from equipoise.gram import cosines, gram
from equipoise.models.ranker import Ranker
from equipoise.presets import sort_options
from equipoise.solve import balance
from equipoise.updates import adagrad, adam, sgd

RULES: dict[str, tuple[Any, Callable[..., torch.optim.Optimizer]]] = {
    "adam": (adam, torch.optim.Adam),
    "adagrad": (adagrad, torch.optim.Adagrad),
    "sgd": (sgd, torch.optim.SGD),
}
"""Optimizers whose updates are looked at along the one training run, each with its own moments of the summed gradient."""
STRAYS = ("angle", "alone", "length", "kept", "kept_sum", "kept_pub")
NUM_PROBES = 40
ROUNDING = 1e-12
"""Weights are float64 shares of 1: what lies this near to uniform is uniform."""
Rows = list[list[Tensor]]


@dataclass(frozen=True)
class Probe:
    """What was seen at one step.

    Attributes:
        step: optimizer steps done. gradients, updates: [T, T] cosines of the tasks' gradients and of their Adam updates.
        norms: {"gradients" | "updates": [T] lengths}. modules: {module: [T, T] cosines of gradients in it}.
        stray: {optimizer: {key of `STRAYS`: number}}; see `diagnose`.
        weights: {"nash" | "pub": two [T] convex weights, of this probe's two halves}.
    """

    step: int
    gradients: list[list[float]]
    updates: list[list[float]]
    norms: dict[str, list[float]]
    modules: dict[str, list[list[float]]]
    stray: dict[str, dict[str, float]]
    weights: dict[str, list[list[float]]]


@dataclass(frozen=True)
class Diagnosis:
    """All probes of a run, with its tasks, the share of parameters in each shared module, and the settings."""

    tasks: tuple[str, ...]
    probes: tuple[Probe, ...]
    modules: dict[str, int]
    model: str
    steps: int
    batch: int
    simulated: bool


class Shadow:
    """One optimizer's moments along a run that another one steers."""

    def __init__(self, name: str, shared: Sequence[Tensor], lr: float) -> None:
        self.rule, make = RULES[name]
        self.hyper = dict(make([nn.Parameter(torch.zeros(1))], lr=lr).param_groups[0])
        self.states: list[dict[str, Any]] = [{} for _ in shared]

    def peek(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """Return the updates of these gradients, one a shared tensor."""
        return [
            self.rule.peek(g, s or self.rule.init(g, self.hyper), self.hyper)
            for g, s in zip(gradients, self.states, strict=True)
        ]

    def advance(self, gradients: Sequence[Tensor]) -> None:
        """Take the summed gradient into the moments."""
        self.states = [
            self.rule.advance(g, s, self.hyper) for g, s in zip(gradients, self.states, strict=True)
        ]


def diagnose(
    log: Log,
    config: TrainConfig,
    *,
    num_probes: int = NUM_PROBES,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> Diagnosis:
    """Return what the tasks do to one another along a plain run: Adam on the summed loss, exactly as without being looked at.

    At `num_probes` steps, evenly spread, on two batches of their own each:
    the tasks' gradients g_t on the shared parameters and the updates u_t that Adam would make of each (their peeks), their cosines and
    lengths, and the cosines within each shared module;
    for each optimizer how far the step s that it makes of the balanced gradient g = sum_t w_t g_t (M w = 1/w on gradients, sum w = 1) strays
    from it: "angle" between s and g in degrees, beside it "alone", the mean angle between one task's own gradient and the step made of
    that, where there is nothing to balance; "length" |s| / mean_t |u_t|; and "kept": min_t w_t <g_t, s> over their mean, 1 where every
    task gains alike as was meant, below 0 where the step opposes a task, beside it the same of the step made of the plain sum ("kept_sum") and of
    PUB's own step ("kept_pub");
    convex weights of Nash-MTL (on gradients) and PUB (on Adam updates), from each of the two batches, so that noise can be told from
    conflict.

    Args:
        log: with two tasks or more. config: model, lr, epochs, batch_size, max_rows, seed, set, as in training; its method is not used.
        num_probes: >= 2. tell: called with (steps done, all).

    Raises:
        ValueError: fewer than two tasks or probes, a model without shared parameters.
    """
    tasks = tuple(log.schema.tasks)
    if len(tasks) < 2:
        raise ValueError(f"diagnose needs at least two tasks, got {list(tasks)}; conflict is between tasks")
    if num_probes < 2:
        raise ValueError(f"probes must be >= 2, got {num_probes}")
    options = sort_options(config.set, "equal", models.options(config.model))["model"]
    model = models.build(config.model, log.schema, **{"seed": config.seed, **options, "sparse": False})
    model.to(config.device)
    names = {id(p): name for name, p in model.named_parameters()}
    shared = model.shared_parameters()
    if not shared:
        raise ValueError(
            f"model {config.model!r} shares no parameters between tasks; choose another, mmoe say"
        )
    modules = [_module(names[id(p)]) for p in shared]
    lr = 1e-3 if config.lr == "auto" else float(config.lr)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    shadows = {name: Shadow(name, shared, lr) for name in RULES}
    split = log.split("train")
    rows = min(len(split), config.max_rows or len(split))
    size = config.batch_size or min(2048, max(16, rows // 20))
    total = max(num_probes, math.ceil(rows / size) * config.epochs)
    at = {round(i * (total - 1) / (num_probes - 1)) for i in range(num_probes)}
    training, looking = _stream(split, size, config.seed), _stream(split, size, config.seed + 1)
    torch.manual_seed(config.seed)
    probes = []
    model.train()
    for step in range(total):
        if step in at:
            batches = [next(looking).to(config.device) for _ in range(2)]
            state = torch.get_rng_state()
            probes.append(probe(model, shared, modules, shadows, batches, tasks, step))
            torch.set_rng_state(state)
        known = [loss for loss in model.losses(next(training).to(config.device)).values() if loss is not None]
        if known:
            optimizer.zero_grad(set_to_none=True)
            torch.stack(known).sum().backward()  # type: ignore[no-untyped-call]
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in shared]
            for shadow in shadows.values():
                shadow.advance(gradients)
            optimizer.step()
        tell(step + 1, total)
    counts: dict[str, int] = {}
    for name, p in zip(modules, shared, strict=True):
        counts[name] = counts.get(name, 0) + p.numel()
    return Diagnosis(tasks, tuple(probes), counts, config.model, total, size, log.schema.simulated)


def probe(
    model: Ranker,
    shared: Sequence[nn.Parameter],
    modules: Sequence[str],
    shadows: dict[str, Shadow],
    batches: Sequence[Batch],
    tasks: Sequence[str],
    step: int,
) -> Probe:
    """Return what two batches show at this step; parameters, buffers and moments stay as they are."""
    kept = {name: value.clone() for name, value in model.named_buffers()}
    halves = [_gradients(model, shared, batch, tasks) for batch in batches]
    for name, value in model.named_buffers():
        value.copy_(kept[name])
    both = [[(a + b) / 2 for a, b in zip(*pair, strict=True)] for pair in zip(*halves, strict=True)]
    peeks = [shadows["adam"].peek(row) for row in both]
    m, n = gram(both), gram(peeks)
    inside = {
        name: cosines(
            gram([[v for v, where in zip(row, modules, strict=True) if where == name] for row in both])
        )
        for name in dict.fromkeys(modules)
    }
    weights = {
        "nash": [_convex(gram(half)) for half in halves],
        "pub": [_convex(gram([shadows["adam"].peek(row) for row in half])) for half in halves],
    }
    w = torch.tensor(_convex(m))
    return Probe(
        step,
        cosines(m).tolist(),
        cosines(n).tolist(),
        {"gradients": m.diagonal().sqrt().tolist(), "updates": n.diagonal().sqrt().tolist()},
        {name: c.tolist() for name, c in inside.items()},
        {name: _stray(shadow, both, w) for name, shadow in shadows.items()},
        weights,
    )


def _gradients(model: Ranker, shared: Sequence[nn.Parameter], batch: Batch, tasks: Sequence[str]) -> Rows:
    """Return one row of gradients a task; zeros for a task without a known label."""
    losses = model.losses(batch)
    rows = []
    for task in tasks:
        loss = losses.get(task)
        found: Sequence[Tensor | None] = [None] * len(shared)
        if loss is not None:
            found = torch.autograd.grad(loss, shared, retain_graph=True, allow_unused=True)
        rows.append([torch.zeros_like(p) if g is None else g for g, p in zip(found, shared, strict=True)])
    return rows


def _stray(shadow: Shadow, rows: Rows, w: Tensor) -> dict[str, float]:
    """Return angle, length and what is kept of the balance when the optimizer steps on sum_t w_t g_t."""
    meant = [torch.tensordot(w.to(c[0]), torch.stack(c), 1) for c in zip(*rows, strict=True)]
    made, updates = shadow.peek(meant), [shadow.peek(row) for row in rows]
    m = gram(updates)
    lengths, own = m.diagonal().sqrt(), torch.tensor(_convex(m))
    of_pub = [torch.tensordot(own.to(c[0]), torch.stack(c), 1) for c in zip(*updates, strict=True)]
    of_sum = shadow.peek([torch.stack(c).sum(0) for c in zip(*rows, strict=True)])
    products = gram([*rows, made, of_sum, of_pub])[: len(rows), len(rows) :]
    gains = w.double()[:, None] * products  # w_t <g_t, s> of each step s
    kept = [float(g.min() / g.mean()) if float(g.mean()) > 0 else -1.0 for g in gains.T]
    return {
        "angle": _angle(meant, made),
        "alone": statistics.fmean(_angle(row, update) for row, update in zip(rows, updates, strict=True)),
        "length": float(gram([made])[0, 0].sqrt() / lengths.mean()) if float(lengths.mean()) else 0.0,
        "kept": kept[0],
        "kept_sum": kept[1],
        "kept_pub": kept[2],
    }


def _angle(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    """Return the angle between two rows, in degrees; 90 where one is 0."""
    cosine = float(cosines(gram([a, b]))[0, 1])
    return math.degrees(math.acos(max(-1.0, min(1.0, cosine))))


def _convex(m: Tensor) -> list[float]:
    w = balance(m).weights.double()
    total = float(w.sum())
    return (w / total).tolist() if total > 0 else [1.0 / len(w)] * len(w)


def _module(name: str) -> str:
    """Return where a parameter lies: its first part, with a number that follows it (experts.3)."""
    parts = name.split(".")
    return ".".join(parts[:2]) if len(parts) > 2 and parts[1].isdigit() else parts[0]


def _stream(split: Any, size: int, seed: int) -> Iterator[Batch]:
    """Yield shuffled batches without end."""
    for epoch in itertools.count():
        yield from split.batches(size, shuffle=True, seed=seed, epoch=epoch)


# what the probes say together


@dataclass(frozen=True)
class Pair:
    """Two tasks over all probes: mean cosines, and shares of probes with a cosine below 0."""

    tasks: tuple[str, str]
    gradients: float
    updates: float
    gradients_conflict: float
    updates_conflict: float


def pairs(found: Diagnosis) -> list[Pair]:
    """Return every pair of tasks, first task first."""
    result = []
    for i, j in itertools.combinations(range(len(found.tasks)), 2):
        g = [p.gradients[i][j] for p in found.probes]
        u = [p.updates[i][j] for p in found.probes]
        shares = [statistics.fmean(v < 0 for v in values) for values in (g, u)]
        names = (found.tasks[i], found.tasks[j])
        result.append(Pair(names, statistics.fmean(g), statistics.fmean(u), *shares))
    return result


def modules(found: Diagnosis) -> dict[str, tuple[float, float]]:
    """Return {module: (mean cosine over pairs and probes, share of them below 0)}, most conflict first."""
    result = {}
    for name in found.modules:
        values = [
            p.modules[name][i][j]
            for p in found.probes
            for i, j in itertools.combinations(range(len(found.tasks)), 2)
        ]
        result[name] = (statistics.fmean(values), statistics.fmean(v < 0 for v in values))
    return dict(sorted(result.items(), key=lambda entry: entry[1][0]))


@dataclass(frozen=True)
class Deviation:
    """A method's weight of a task: mean over probes, its distance from uniform, and that in standard errors.

    `noise` is the sd between two batches at the same step; `z` the mean deviation over sd / sqrt(probes), the sd being that over probes: infinite, with the deviation's sign, where the
    weight is the same at every probe and not uniform.
    """

    mean: float
    deviation: float
    noise: float
    z: float


def deviations(found: Diagnosis, method: str) -> dict[str, Deviation]:
    """Return {task: how its weight under "nash" or "pub" differs from 1/T}."""
    result = {}
    for t, task in enumerate(found.tasks):
        first, second = ([p.weights[method][half][t] for p in found.probes] for half in (0, 1))
        means = [(a + b) / 2 for a, b in zip(first, second, strict=True)]
        noise = math.sqrt(statistics.fmean((a - b) ** 2 for a, b in zip(first, second, strict=True)) / 2)
        sd = statistics.stdev(means)
        away = statistics.fmean(means) - 1 / len(found.tasks)
        # weights that never change are as sure as can be; a rounding's distance from uniform is none
        still = 0.0 if abs(away) < ROUNDING else math.copysign(math.inf, away)
        z = away / (sd / math.sqrt(len(means))) if sd > 0 else still
        result[task] = Deviation(statistics.fmean(means), away, noise, z)
    return result


def strays(found: Diagnosis) -> dict[str, dict[str, float]]:
    """Return {optimizer: medians over probes of each of `STRAYS`}."""
    return {
        name: {key: statistics.median(p.stray[name][key] for p in found.probes) for key in STRAYS}
        for name in RULES
    }
