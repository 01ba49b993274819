"""Before a comparison trains: how long it will take, and the smallest differences that it could show."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from equipoise.config import TrainConfig
from equipoise.data.store import Log
from equipoise.study.tuning import Setup, Unit

ASSUMED_EPOCHS = 6
"""Epochs that a run takes until it stops early, where it may take more: runs of the tables in docs/results.md took 3 to 10."""
ASSUMED_SEED_SD = 0.003
"""Standard deviation over seeds of a difference in AUC, of the mean over tasks: middle of those in docs/results.md."""
ASSUMED_AUC, ASSUMED_CORRELATION = 0.75, 0.9
"""Of two models' scores on the same rows; both are usual on click logs, and only a forecast hangs on them."""
WARMUP, TIMED = 2, 8
START_SECONDS = 1.0
"""A run's process is forked, opens the log, and evaluates."""


@dataclass(frozen=True)
class Forecast:
    """Core-hours of each unit, and the smallest differences in AUC found with probability .8.

    `primary`: of the primary contrast, the mean over tasks that are not grey. `detectable`: {task: under Holm}.
    """

    unit_hours: dict[Unit, float]
    detectable: dict[str, float]
    primary: float | None = None

    def hours(self, methods: Iterable[str] | None = None) -> float:
        """Return the core-hours of these methods, default all."""
        kept = None if methods is None else set(methods)
        return sum(h for unit, h in self.unit_hours.items() if kept is None or unit.method in kept)


def forecast(
    log: Log, units: Sequence[Unit], setup: Setup, *, num_seeds: int, primary: str, origins: int = 1
) -> Forecast:
    """Time a few steps of every side, count the runs, and work out what could be detected.

    Two tuned sides, two-sided at .05: of the primary contrast alone, of a task's under Holm among all that a model is judged by (grey tasks and
    those that are not binary are not). The rows' share comes from the number of test positives (Hanley and McNeil 1982), tasks taken to be
    independent. Luck in tuning and groups of rows are not in it, and make what can be detected larger. A task without two test rows of
    each class, which shows nothing, is left out.
    """
    from equipoise.study.decide import MIN_POSITIVES
    from equipoise.study.power import detectable

    runs = setup.num_runs + num_seeds * origins
    hours = {}
    for unit in units:
        config = TrainConfig.read({**setup.job(unit, 1e-3, 0).config, "data": None})
        hours[unit] = runs * (START_SECONDS + _run_seconds(log.only(config.tasks), config)) / 3600
    counts = {task: n for task in log.schema.tasks if (n := _classes(log, task)) is not None and min(n) > 1}
    judged = sum(min(n) * origins >= MIN_POSITIVES for n in counts.values())
    methods = {unit.method for unit in units}
    # against the reference the mean and each task of every other method, the primary contrast out of it; the best other method where there is one
    family = (len(methods) - 1) * (1 + judged) - 1 + (len(methods - {primary, "single"}) > 1)
    found, variances = {}, {}
    for task, (positives, negatives) in counts.items():
        se = hanley_mcneil(positives * origins, negatives * origins, ASSUMED_AUC)
        paired = se * math.sqrt(2 * (1 - ASSUMED_CORRELATION))
        found[task] = float(detectable(ASSUMED_SEED_SD, num_seeds, paired, num_comparisons=max(1, family)))
        variances[task] = (min(positives, negatives) * origins, paired**2)
    known = [v for n, v in variances.values() if n >= MIN_POSITIVES] or [v for _, v in variances.values()]
    alone = None
    if known:
        alone = float(detectable(ASSUMED_SEED_SD, num_seeds, math.sqrt(sum(known)) / len(known)))
    return Forecast(hours, found, alone)


def _classes(log: Log, task: str) -> tuple[int, int] | None:
    """Return (positives, negatives) among the test rows whose label is known; None for a task that is not binary."""
    split = log.split("test")
    rates = split.rates(task)
    if rates.get("positives") is None:
        return None
    return int(rates["positives"]), round(len(split) * (1 - rates["missing_rate"])) - int(rates["positives"])


def hanley_mcneil(positives: float, negatives: float, auc: float) -> float:
    """Return the standard error of an AUC from this many positives and negatives.

    Source: Hanley and McNeil, The meaning and use of the area under a receiver operating characteristic (ROC) curve,
    Radiology 1982, the exponential form of Q1 and Q2.
    """
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = auc * (1 - auc) + (positives - 1) * (q1 - auc**2) + (negatives - 1) * (q2 - auc**2)
    return math.sqrt(variance / (positives * negatives))


def _run_seconds(log: Log, config: TrainConfig) -> float:
    """Return seconds of one run from a few timed steps, with a validation of a third of a step's time a batch."""
    from equipoise.training import assemble, take_step

    rows = min(len(log.split("train")), config.max_rows or len(log.split("train")))
    size = config.batch_size or min(2048, max(16, rows // 20))
    state = torch.get_rng_state()
    model, _, balancer = assemble(config, log)
    model.train()
    seconds = []
    for batch in itertools.islice(log.split("train").batches(size), WARMUP + TIMED):
        begun = time.perf_counter()
        take_step(model, balancer, batch.to(config.device))
        seconds.append(time.perf_counter() - begun)
    torch.set_rng_state(state)
    step = statistics.median(seconds[WARMUP:] or seconds)
    epochs = min(config.epochs, ASSUMED_EPOCHS)
    scored = epochs * len(log.split("valid")) + len(log.split("valid")) + len(log.split("test"))
    return step * (epochs * math.ceil(rows / size) + scored / size / 3)
