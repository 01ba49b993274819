"""How a side of a comparison is tuned: learning rate on a grid that grows, then its own constants. Validation only."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from equipoise.study.cells import Job, Outcome
from equipoise.study.spaces import LR_GRID, NUM_CANDIDATES, candidates, next_rate

MAX_RATES = 8
Outcomes = Mapping[str, Outcome]


@dataclass(frozen=True)
class Unit:
    """What is tuned by itself: a side, or one task's model of the single-task side.

    Attributes:
        model, method: names; "equal#2" is a second copy of equal, which draws other seeds throughout. task: of a
            single-task model, else None.
    """

    model: str
    method: str
    task: str | None = None


def split_copy(method: str) -> tuple[str, int]:
    """Return ("equal", 2) of "equal#2": the method that runs and the number of the copy; ("equal", 1) without one.

    Raises:
        ValueError: what follows # is no number from 2 to 99.
    """
    name, mark, number = method.partition("#")
    if mark and not (number.isdecimal() and 2 <= int(number) <= 99):
        raise ValueError(
            f"a copy of a method is written {name}#2, with a number from 2 to 99, got {method!r}"
        )
    return name, int(number) if mark else 1


@dataclass(frozen=True)
class Setup:
    """What all runs of a comparison have in common.

    Attributes:
        log: folder. tasks: names. rates: {task: share of positives in training} of the binary ones. base: options of TrainConfig.
        options: {model: its options for TrainConfig.set}. tuning_seeds: of the grid; the first also of the candidates.
        grid: learning rates. num_candidates: further runs.
    """

    log: str
    tasks: tuple[str, ...]
    rates: Mapping[str, float]
    base: Mapping[str, Any]
    options: Mapping[str, Mapping[str, Any]]
    tuning_seeds: tuple[int, ...] = (1000, 1001)
    grid: tuple[float, ...] = LR_GRID
    num_candidates: int = NUM_CANDIDATES

    def job(
        self, unit: Unit, lr: float, seed: int, chosen: Mapping[str, Any] | None = None, final: bool = False
    ) -> Job:
        """Return the run of a unit at a learning rate and seed with the settings of a candidate."""
        chosen = chosen or {"set": {}, "weight_decay": 0.0}
        method, copy = split_copy(unit.method)
        config = {
            **self.base,
            "model": unit.model,
            "method": "equal" if method == "single" else method,
            "tasks": list(self.tasks) if unit.task is None else [unit.task],
            "lr": lr,
            "seed": seed + 100_000 * (copy - 1),
            "set": {**self.options.get(unit.model, {}), **chosen["set"]},
            "weight_decay": chosen["weight_decay"],
        }
        return Job(self.log, config, final)


@dataclass(frozen=True)
class Tuned:
    """What was chosen for a unit, and what else was tried.

    Attributes:
        lr: learning rate. chosen: {"set", "weight_decay"} beside it. value: of the choice on validation, comparable only within the unit.
        tried: {learning rate: mean over tuning seeds}. others: (settings, value) of the further runs; the first is the default.
        failed: why no run of the unit gave a model, or None.
    """

    lr: float
    chosen: dict[str, Any]
    value: float
    tried: dict[float, float]
    others: list[tuple[dict[str, Any], float]]
    failed: str | None = None


def tuning(unit: Unit, setup: Setup) -> Generator[list[Job], Outcomes, Tuned]:
    """Yield the runs that are needed next, take their outcomes, return what is chosen.

    First every rate of the grid at each tuning seed; as long as the best mean lies on an end, the next half-decade too.
    Then the candidates of `equipoise.study.spaces` at the first tuning seed, against the default at that same seed.
    """
    tried: dict[float, float] = {}
    first: dict[float, float] = {}
    reason = None
    waiting: Sequence[float] = setup.grid
    while waiting:
        jobs = {(lr, seed): setup.job(unit, lr, seed) for lr in waiting for seed in setup.tuning_seeds}
        found = yield list(jobs.values())
        for lr in waiting:
            outcomes = [found[jobs[lr, seed].name] for seed in setup.tuning_seeds]
            tried[lr] = statistics.fmean(o.value for o in outcomes)
            first[lr] = outcomes[0].value
            reason = next((o.failed for o in outcomes if o.failed), reason)
        beyond = next_rate(tried)
        waiting = [beyond] if beyond is not None and len(tried) < MAX_RATES else []
    lr = max(tried, key=lambda rate: tried[rate])
    default: dict[str, Any] = {"set": {}, "weight_decay": 0.0}
    if tried[lr] == -float("inf"):
        return Tuned(lr, default, tried[lr], tried, [], reason)
    own = setup.tasks if unit.task is None else (unit.task,)
    options = candidates(split_copy(unit.method)[0], own, setup.rates, setup.num_candidates)
    further = [setup.job(unit, lr, setup.tuning_seeds[0], option) for option in options]
    found = (yield further) if further else {}
    others = [
        (default, first[lr]),
        *((o, found[j.name].value) for o, j in zip(options, further, strict=True)),
    ]
    chosen, value = max(others, key=lambda entry: entry[1])
    return Tuned(lr, chosen, value, tried, others)


def tune_all(
    units: Sequence[Unit], setup: Setup, perform: Callable[[list[Job]], Outcomes]
) -> dict[Unit, Tuned]:
    """Return what was chosen for each unit; the runs that all of them need next are done together."""
    result: dict[Unit, Tuned] = {}
    going = {unit: tuning(unit, setup) for unit in units}
    asked = {unit: next(steps) for unit, steps in going.items()}
    while asked:
        found = perform([job for jobs in asked.values() for job in jobs])
        for unit in list(asked):
            try:
                asked[unit] = going[unit].send(found)
            except StopIteration as end:
                result[unit] = end.value
                del asked[unit]
    return {unit: result[unit] for unit in units}
