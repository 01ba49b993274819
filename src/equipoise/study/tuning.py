"""How a side of a comparison is tuned: learning rate on a grid that grows, then its own constants. Validation only."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from equipoise.config import LR_GRID
from equipoise.study.cells import Job, Outcome
from equipoise.study.spaces import (
    NUM_CANDIDATES,
    NUM_FINALISTS,
    WEIGHT_DECAYS,
    beside,
    constants,
    next_decay,
    next_rate,
)

MAX_RATES = 8
DEFAULT: dict[str, Any] = {"set": {}, "weight_decay": 0.0}
"""What the rates of the grid run with."""
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

    @property
    def num_runs(self) -> int:
        """Tuning runs of a unit whose best rate does not lie on the grid's edge, no two of them alike."""
        again = min(NUM_FINALISTS, self.num_candidates)
        seeds = len(self.tuning_seeds)
        return len(self.grid) * seeds + self.num_candidates + again * (seeds - 1)

    def job(
        self, unit: Unit, lr: float, seed: int, chosen: Mapping[str, Any] | None = None, final: bool = False
    ) -> Job:
        """Return the run of a unit at a learning rate and seed with the settings of a candidate."""
        chosen = chosen or DEFAULT
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


class Tried(NamedTuple):
    """A setting {"lr", "set", "weight_decay"} of the further runs, its mean validation value and over how many tuning seeds."""

    option: dict[str, Any]
    value: float
    num_seeds: int


@dataclass(frozen=True)
class Tuned:
    """What was chosen for a unit, and what else was tried.

    Attributes:
        lr: learning rate. chosen: {"set", "weight_decay"} beside it. value: of the choice on validation, comparable only within the unit.
        tried: {learning rate: mean over tuning seeds}, without weight decay. others: the further runs, the first the default at the best of these rates.
        failed: why no run of the unit gave a model, or None.
    """

    lr: float
    chosen: dict[str, Any]
    value: float
    tried: dict[float, float]
    others: list[Tried]
    failed: str | None = None


def tune_all(
    units: Sequence[Unit], setup: Setup, perform: Callable[[list[Job]], Outcomes]
) -> dict[Unit, Tuned]:
    """Return what was chosen for each unit; the runs that all of them need next are done together.

    First every rate of the grid at each tuning seed. As long as the best mean of any unit lies on an end, the next half-decade is tried by all
    units of the same model: a rate that one side may have, every side may have. (With a grid for each side a copy of plain training whose best
    lay on the edge by luck went on to a better rate, and was declared better than the other.) Then, at the first tuning seed and against the
    default at that same seed, `num_candidates` runs, of eight: three on weight decay, each next to the best so far; two on the rates beside the best
    at that decay, on decay again where the grid has them (no decay at all is best); three on the side's own constants, or on decay again where it
    has none (`equipoise.study.spaces`). Decay comes first and for
    all alike: it can be worth more than any method's constants, and a side that could not have it would lose by that alone. Last a run-off: the
    `NUM_FINALISTS` best of these run with the other tuning seeds, and of them and the default, which has run with all, the best mean is chosen.
    (With one seed a lucky run at a worse rate was chosen for plain training, and .01 of AUC went to the side beside it.) No run is done, or
    counted, twice: without growth of the grid every unit has exactly `setup.num_runs`.
    """
    seeds = setup.tuning_seeds
    outcomes: dict[Unit, dict[float, list[Outcome]]] = {unit: {} for unit in units}
    waiting = {unit.model: list(setup.grid) for unit in units}
    while any(waiting.values()):
        jobs = {
            (unit, lr): [setup.job(unit, lr, seed) for seed in seeds]
            for unit in units
            for lr in waiting[unit.model]
        }
        found = perform([job for each in jobs.values() for job in each])
        for (unit, lr), each in jobs.items():
            outcomes[unit][lr] = [found[job.name] for job in each]
        waiting = {model: _beyond(model, outcomes) for model in waiting}
    result: dict[Unit, Tuned] = {}
    for unit, seen in outcomes.items():
        tried = {lr: statistics.fmean(o.value for o in each) for lr, each in seen.items()}
        lr = max(tried, key=lambda rate: tried[rate])
        if tried[lr] == -float("inf"):
            failed = next(o.failed for each in seen.values() for o in each if o.failed)
            result[unit] = Tuned(lr, DEFAULT, tried[lr], tried, [], failed)
        else:
            first = seen[lr][0].value
            result[unit] = Tuned(lr, DEFAULT, first, tried, [Tried({"lr": lr, **DEFAULT}, first, 1)])
    _go_on(result, setup, perform)
    return result


def _go_on(found: dict[Unit, Tuned], setup: Setup, perform: Callable[[list[Job]], Outcomes]) -> None:
    """Do the further runs and put what they find into `found`; a unit that has no model stays as it is."""
    num = setup.num_candidates
    num_rates, num_constants = num // 4, 3 * num // 8
    units = [unit for unit, tuned in found.items() if tuned.failed is None]

    def run(wanted: Mapping[Unit, Sequence[Mapping[str, Any]]]) -> bool:
        """Try these changes of each unit's best setting; return whether there was any."""
        options = {
            unit: [{"lr": found[unit].lr, **found[unit].chosen, **change} for change in changes]
            for unit, changes in wanted.items()
        }
        jobs = {
            unit: [setup.job(unit, option["lr"], setup.tuning_seeds[0], option) for option in each]
            for unit, each in options.items()
        }
        values = perform(every) if (every := [job for each in jobs.values() for job in each]) else {}
        for unit, each in options.items():
            new = [
                Tried(option, values[job.name].value, 1) for option, job in zip(each, jobs[unit], strict=True)
            ]
            found[unit] = _choose(found[unit], [*found[unit].others, *new])
        return bool(every)

    def decays(unit: Unit, reserved: int) -> list[dict[str, float]]:
        tried: dict[float, float] = {}
        for option, value, _ in found[unit].others:
            tried[option["weight_decay"]] = max(value, tried.get(option["weight_decay"], value))
        left = max(0, num - reserved - (len(found[unit].others) - 1))
        following = WEIGHT_DECAYS if len(tried) == 1 else (next_decay(tried),)
        return [{"weight_decay": decay} for decay in following[:left] if decay is not None]

    def rates(unit: Unit) -> list[dict[str, float]]:
        """Return the rates beside the best at its settings, without those that the grid has run so."""
        new = [
            lr
            for lr in beside(found[unit].lr)
            if found[unit].chosen != DEFAULT or lr not in found[unit].tried
        ]
        return [{"lr": lr} for lr in new[:num_rates]]

    while run({unit: decays(unit, num_rates + num_constants) for unit in units}):
        pass
    run({unit: rates(unit) for unit in units})
    own = {
        unit: constants(
            split_copy(unit.method)[0],
            setup.tasks if unit.task is None else (unit.task,),
            setup.rates,
            num_constants,
        )
        for unit in units
    }
    while run({unit: decays(unit, len(own[unit])) for unit in units}):
        pass
    run({unit: [{"set": each} for each in own[unit]] for unit in units})
    if num:
        _run_off(found, units, setup, perform)


def _choose(tuned: Tuned, others: list[Tried]) -> Tuned:
    """Return the unit with these further runs, and of those with the most seeds the best one chosen."""
    most = max(each.num_seeds for each in others)
    best, value, _ = max((each for each in others if each.num_seeds == most), key=lambda each: each.value)
    chosen = {"set": best["set"], "weight_decay": best["weight_decay"]}
    return replace(tuned, lr=best["lr"], chosen=chosen, value=value, others=others)


def _run_off(
    found: dict[Unit, Tuned], units: Sequence[Unit], setup: Setup, perform: Callable[[list[Job]], Outcomes]
) -> None:
    """Run each unit's `NUM_FINALISTS` best further settings with the other tuning seeds, too, and choose by the mean over all of them.

    The default has run with all of them in the grid, so it stands beside them at no cost.
    """
    finalists = {
        unit: sorted(found[unit].others[1:], key=lambda each: -each.value)[:NUM_FINALISTS] for unit in units
    }
    jobs = {
        (unit, at): [setup.job(unit, each.option["lr"], seed, each.option) for seed in setup.tuning_seeds[1:]]
        for unit, best in finalists.items()
        for at, each in enumerate(best)
    }
    values = perform([job for each in jobs.values() for job in each])
    number = len(setup.tuning_seeds)
    for unit, best in finalists.items():
        means = [
            statistics.fmean([each.value, *(values[job.name].value for job in jobs[unit, at])])
            for at, each in enumerate(best)
        ]
        default, *others = found[unit].others
        again = [
            Tried(each.option, means[best.index(each)], number) if each in best else each for each in others
        ]
        default = Tried(default.option, found[unit].tried[default.option["lr"]], number)
        found[unit] = _choose(found[unit], [default, *again])


def _beyond(model: str, outcomes: Mapping[Unit, Mapping[float, Sequence[Outcome]]]) -> list[float]:
    """Return the rates beyond the grid that units of a model ask for, as long as it has fewer than `MAX_RATES`."""
    asked: set[float] = set()
    there: set[float] = set()
    for unit, seen in outcomes.items():
        if unit.model == model:
            there |= set(seen)
            beyond = next_rate({lr: statistics.fmean(o.value for o in each) for lr, each in seen.items()})
            asked |= {beyond} if beyond is not None else set()
    return sorted(asked - there)[: max(0, MAX_RATES - len(there))]
