"""`equipoise compare`: tuned sides, the same seeds for all, one primary contrast named before the run. See docs/protocol.md."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from equipoise import models
from equipoise.config import TrainConfig, finite, write_text
from equipoise.data.store import Log, Split
from equipoise.names import nearest
from equipoise.presets import parse_method, sort_options
from equipoise.study.cells import Job, Outcome, code, perform_all
from equipoise.study.claim import begin, held, set_aside
from equipoise.study.forecast import Forecast, forecast
from equipoise.study.origins import Pooled, boundaries, make_origins, pool
from equipoise.study.tuning import Setup, Tuned, Unit, split_copy, tune_all

METHODS = ("single", "equal", "fixed", "uw", "famo", "pcgrad", "cagrad", "nash", "imtl_g", "pub")
"""Compared by default."""
SEEDS, QUICK_SEEDS = 10, 5
PLAN = "plan.json"


@dataclass(frozen=True)
class Plan:
    """What a comparison will do, written before its first run and never changed after.

    Attributes:
        data: {"path", "fingerprint", "rows", "simulated"}. code: fingerprint of the training code.
        tasks, models, methods: names. primary: the method of the primary contrast, in the first model. reference: plain training.
        seeds: of the final runs. margin: a difference within it counts for nothing, in AUC. base, options: of the runs.
        screening: fewer seeds than evidence needs.
        dropped: methods that the budget left no time for.
        origins: test periods, the log's own and those before it; tuned on the validation rows of the earliest.
    """

    data: dict[str, Any]
    code: str
    tasks: tuple[str, ...]
    models: tuple[str, ...]
    methods: tuple[str, ...]
    primary: str
    reference: str
    seeds: tuple[int, ...]
    tuning_seeds: tuple[int, ...]
    grid: tuple[float, ...]
    num_candidates: int
    margin: float
    base: dict[str, Any]
    options: dict[str, dict[str, Any]]
    screening: bool
    preset: str | None = None
    dropped: tuple[str, ...] = ()
    origins: int = 1

    def units(self) -> list[Unit]:
        """Return what is tuned by itself: each side, of the single-task side each task's model."""
        return [
            Unit(model, method, task)
            for model in self.models
            for method in self.methods
            for task in (self.tasks if method == "single" else (None,))
        ]

    def setup(self, log: Log) -> Setup:
        """Return what all runs have in common."""
        train = log.summary()["train"]["tasks"]
        rates = {t: e["positive_rate"] for t, e in train.items() if e.get("positive_rate") is not None}
        return Setup(
            str(log.path.resolve()),  # runs go by it: the same log by another name is the same
            self.tasks,
            rates,
            self.base,
            self.options,
            self.tuning_seeds,
            self.grid,
            self.num_candidates,
        )


@dataclass
class Comparison:
    """A finished comparison.

    Attributes:
        plan, test: what was to be done, and the rows it is judged on. tuned: what was chosen for each unit.
        tried: of each unit the tuning runs, a list of seeds a setting. runs: its final runs by seed (means over origins).
    """

    plan: Plan
    test: Split | Pooled
    tuned: dict[Unit, Tuned]
    tried: dict[Unit, list[list[Outcome]]] = field(default_factory=dict)
    runs: dict[Unit, list[Outcome]] = field(default_factory=dict)


def make_plan(
    data: str | Path | Log,
    *,
    models_: Sequence[str] = ("mmoe",),
    methods: Sequence[str] = METHODS,
    primary: str = "pub",
    reference: str = "equal",
    seeds: int | None = None,
    quick: bool = False,
    tasks: Sequence[str] = (),
    margin: float = 0.002,
    base: Mapping[str, Any] | None = None,
    set_: Mapping[str, Any] | None = None,
    grid: Sequence[float] | None = None,
    num_candidates: int | None = None,
    num_tuning_seeds: int | None = None,
    preset: str | None = None,
    origins: int = 1,
) -> Plan:
    """Return the checked plan of a comparison on a prepared log; nothing is trained.

    Args:
        data: a prepared log. models_, methods: names; `primary` and `reference` are added where they are missing. "equal#2" is a
            second copy of equal with its own seeds and tuning, to see what the comparison says of no difference at all.
        seeds: of the final runs, default 10, or 5 with `quick`.
        base: options of TrainConfig for every run (epochs, batch_size, patience, optimizer, max_rows, device ...).
        set_: model options for every model that has them, as `--set`.
        grid, num_candidates, num_tuning_seeds: of tuning, other than the protocol's; the report says so. More seeds make the luck of
            a search smaller, where that is what limits a comparison.
        origins: test periods; more than 1 need a log split by time (see `equipoise.study.origins.make_origins`).

    Raises:
        ValueError: an unknown model, method or option, or one named twice; fewer than 2 seeds; the primary method is the reference.
    """
    log = data if isinstance(data, Log) else Log.open(data)
    for argument, names in (("models", models_), ("methods", methods), ("tasks", tasks)):
        if twice := next((name for name in names if list(names).count(name) > 1), None):
            copy = "; a second copy of a method is written equal#2" if argument == "methods" else ""
            raise ValueError(
                f"{argument} must name each once, got {twice!r} twice in {', '.join(names)}{copy}"
            )
    missing = [reference] if reference not in methods else []
    chosen = tuple(dict.fromkeys([*missing, *methods, primary]))
    for name in (split_copy(method)[0] for method in chosen):
        if name != "single":
            parse_method(name)
    if primary == reference:
        raise ValueError(f"primary must be another method than the reference, got {primary!r} for both")
    if "single" in (primary, reference):
        raise ValueError("primary and reference must be methods, got 'single', which is a row of its own")
    number = seeds if seeds is not None else QUICK_SEEDS if quick else SEEDS
    if number < 2:
        raise ValueError(f"seeds must be >= 2, got {number}: one run has no spread")
    if not 0 < margin < 0.5:
        raise ValueError(f"margin must lie in (0, .5), in AUC, got {margin}")
    if num_tuning_seeds is not None and not 1 <= num_tuning_seeds <= 100:
        raise ValueError(f"num_tuning_seeds must lie in 1 .. 100, got {num_tuning_seeds}")
    if origins < 1:
        raise ValueError(f"origins must be >= 1, got {origins}")
    if origins > 1:
        boundaries(log)
    of_tasks = tuple(tasks or log.schema.tasks)
    view = log.only(list(of_tasks))
    shared = dict(base or {})
    per_model = checked_options(models_, shared, dict(set_ or {}))
    for name in models_:  # what cannot be built is said now
        models.build(
            name, view.schema, **sort_options(per_model[name], "equal", models.options(name))["model"]
        )
    setup = Setup("", (), {}, {}, {})
    return Plan(
        data={
            "path": str(log.path),
            "fingerprint": log.fingerprint,
            "rows": {name: len(split) for name, split in log.splits.items()},
            "simulated": log.schema.simulated,
            "country": log.manifest["notes"].get("country"),
        },
        code=code(),
        tasks=of_tasks,
        models=tuple(models_),
        methods=chosen,
        primary=primary,
        reference=reference,
        seeds=tuple(range(number)),
        tuning_seeds=setup.tuning_seeds
        if num_tuning_seeds is None
        else tuple(setup.tuning_seeds[0] + i for i in range(num_tuning_seeds)),
        grid=tuple(grid or setup.grid),
        num_candidates=setup.num_candidates if num_candidates is None else num_candidates,
        margin=margin,
        base=shared,
        options=per_model,
        screening=number < SEEDS,
        preset=preset,
        origins=origins,
    )


def trim(plan: Plan, expected: Forecast, hours: float) -> Plan:
    """Return the plan without the last of its secondary methods, as many as must go to fit a budget in core-hours.

    Raises:
        ValueError: primary, reference and single task alone do not fit.
    """
    kept, dropped = list(plan.methods), []
    while expected.hours(kept) > hours:
        secondary = [m for m in kept if m not in (plan.primary, plan.reference, "single", "fixed")]
        if not secondary:
            raise ValueError(
                f"budget of {hours:g} core-hours must hold the primary contrast, which needs about "
                f"{expected.hours(kept):.1f}; take fewer epochs, rows (--max-rows), models or seeds"
            )
        dropped.append(secondary[-1])
        kept.remove(secondary[-1])
    return replace(plan, methods=tuple(kept), dropped=tuple(reversed(dropped)))


def planned(plan: Plan, out: Path) -> Plan | None:
    """Return the plan with the methods that a comparison in `out` has, if that is this plan less what a budget left out; else None.

    Whoever goes on with a comparison goes on with its methods, however busy the machine is now.

    Raises:
        ValueError: `out` is something else.
    """
    there = held(out, PLAN, _plain(plan), "comparison")
    if there is None or not set(_differing(plan, there)) <= {"methods", "dropped"}:
        return None
    methods, dropped = tuple(there.get("methods", ())), tuple(there.get("dropped", ()))
    if sorted(methods + dropped) != sorted(plan.methods):
        return None
    return replace(plan, methods=methods, dropped=dropped)


def claim(plan: Plan, out: Path, overwrite: bool = False) -> None:
    """Write plan.json into `out`, or check that the one there is the same, so that runs are never mixed.

    `overwrite`: start again, of the same plan too; what the comparison there had is deleted.

    Raises:
        ValueError: another plan, data or code is there and `overwrite` is not given; `out` is something else, or holds the data.
    """
    there = held(out, PLAN, _plain(plan), "comparison")
    if there is not None and overwrite:
        set_aside(out, plan.data["path"])
    elif there is not None and (differing := _differing(plan, there)):
        key = differing[0]
        raise ValueError(
            f"out {str(out)!r} holds a comparison with another {' and '.join(differing)} ({key}: {_brief(there.get(key))} there, "
            f"{_brief(_plain(plan)[key])} now); runs of different data, code or plans are never mixed: choose another --out, or "
            "--overwrite to start again"
        )
    begin(out, PLAN, _plain(plan))


def _plain(plan: Plan) -> dict[str, Any]:
    """Return the plan in JSON's types."""
    found: dict[str, Any] = json.loads(json.dumps(asdict(plan)))
    return found


def _differing(plan: Plan, there: Mapping[str, Any]) -> list[str]:
    """Return the names of what differs from a plan on disk; the path of the data may."""
    mine, other = ({**each, "data": {**each.get("data", {}), "path": ""}} for each in (_plain(plan), there))
    return [key for key in mine if mine[key] != other.get(key)]


def carry_out(
    plan: Plan, out: Path, *, workers: int = 1, quiet: bool = False, tuned_with: Plan | None = None
) -> Comparison:
    """Tune every unit, run the final seeds, and return all of it; what an earlier call finished is read.

    Args:
        workers: runs at once, each in a process of its own; 0: in this one, one after the other.
        tuned_with: the same plan with more methods, beside which these were tuned: the grid of learning rates grows by what
            any of them asks for.
    """
    log = Log.open(plan.data["path"])
    if log.fingerprint != plan.data["fingerprint"]:
        raise ValueError(
            f"log {plan.data['path']!r} has changed since the plan was made; prepare it as it was, or start again"
        )
    logs = [log] if plan.origins == 1 else make_origins(log, plan.origins, out / "origins")
    logs = [each.only(list(plan.tasks)) for each in logs]
    setup, units = plan.setup(logs[0]), (tuned_with or plan).units()
    setups = [replace(setup, log=str(each.path.resolve())) for each in logs]
    seen: dict[str, Outcome] = {}
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=_console(quiet),
        redirect_stdout=False,
    )
    with bar:
        tuning_bar = bar.add_task("tuning runs", total=len(units) * setup.num_runs)
        final_bar = bar.add_task("final runs", total=len(plan.units()) * len(plan.seeds) * len(logs))

        def tune_step(jobs: list[Job]) -> dict[str, Outcome]:
            at = bar.tasks[tuning_bar]
            bar.update(tuning_bar, total=max(at.total or 0, at.completed + len(jobs)))
            found = perform_all(jobs, out, workers, lambda n: bar.advance(tuning_bar, n), plan.code)
            seen.update(found)
            return found

        tuned = tune_all(units, setup, tune_step)
        write_text(
            out / "tuning.json", json.dumps(finite([_told(u, t) for u, t in tuned.items()]), indent=1) + "\n"
        )
        tuned = {unit: tuned[unit] for unit in plan.units()}
        finals = {
            unit: [[s.job(unit, t.lr, seed, t.chosen, final=True) for s in setups] for seed in plan.seeds]
            for unit, t in tuned.items()
            if t.failed is None
        }
        found = perform_all(
            [job for seeds in finals.values() for jobs in seeds for job in jobs],
            out,
            workers,
            lambda n: bar.advance(final_bar, n),
            plan.code,
        )
    test = logs[0].split("test") if len(logs) == 1 else Pooled([each.split("test") for each in logs])
    runs = {}
    for unit, seeds in finals.items():
        folds = [[found[job.name] for job in jobs] for jobs in seeds]
        runs[unit] = [each[0] if isinstance(test, Split) else pool(each, test) for each in folds]
    tried = {unit: _tried(setup, unit, t, seen) for unit, t in tuned.items()}
    return Comparison(plan, test, tuned, tried, runs)


def _tried(setup: Setup, unit: Unit, tuned: Tuned, seen: Mapping[str, Outcome]) -> list[list[Outcome]]:
    """Return the tuning runs of each setting that a unit tried: the rates, then the further ones, the first seeds each."""
    settings: list[tuple[float, dict[str, Any] | None, int]]
    settings = [(lr, None, len(setup.tuning_seeds)) for lr in tuned.tried]
    settings += [(each.option["lr"], each.option, each.num_seeds) for each in tuned.others[1:]]
    return [
        [seen[setup.job(unit, lr, seed, option).name] for seed in setup.tuning_seeds[:num]]
        for lr, option, num in settings
    ]


def expect(plan: Plan) -> Forecast:
    """Return how long the plan will take and the smallest differences that it can show, from a few timed steps."""
    log = Log.open(plan.data["path"]).only(list(plan.tasks))
    return forecast(
        log,
        plan.units(),
        plan.setup(log),
        num_seeds=len(plan.seeds),
        primary=plan.primary,
        origins=plan.origins,
    )


def checked_options(
    models_: Sequence[str], base: Mapping[str, Any], chosen: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """Return {model: those of the chosen options that it has}.

    Raises:
        ValueError: an unknown model, an option of TrainConfig that is unknown or the study's own, a model option that no model has.
    """
    TrainConfig.read({**base, "lr": 1e-3})
    for name in ("lr", "seed", "method", "model", "tasks", "weight_decay", "data", "set"):
        if name in base:
            raise ValueError(f"option {name!r} is the protocol's own and cannot be given")
    found = {name: _options(name, chosen) for name in models_}
    if unused := [key for key in chosen if not any(key in own for own in found.values())]:
        every = [n for name in models_ for n in models.options(name)]
        raise ValueError(f"option {unused[0]!r} is taken by none of the models{nearest(unused[0], every)}")
    return found


def _options(model: str, chosen: dict[str, Any]) -> dict[str, Any]:
    """Return those of the chosen model options that this model has; ValueError for a method's or the balancer's."""
    known = models.options(model)
    bare = {key.removeprefix("model."): key for key in chosen}
    return {key: chosen[key] for name, key in bare.items() if name.split(".")[0] in known}


def _told(unit: Unit, tuned: Tuned) -> dict[str, Any]:
    return {**asdict(unit), **asdict(tuned), "when": time.strftime("%Y-%m-%d %H:%M", time.gmtime())}


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 80 else text[:77] + "..."


def _console(quiet: bool) -> Any:
    from rich.console import Console

    return Console(stderr=True, quiet=quiet)
