"""`equipoise tune`: optuna over model, method, learning rate and constants, on validation; every trial a run on disk."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from equipoise import models
from equipoise.config import write_text
from equipoise.data.store import Log
from equipoise.presets import parse_method, sort_options
from equipoise.study.cells import Job, code, perform_all
from equipoise.study.claim import begin, held, set_aside
from equipoise.study.spaces import SPACES
from equipoise.study.tuning import Setup, Unit

if TYPE_CHECKING:
    import optuna

OBJECTIVES = ("mean", "tasks")
LR_RANGE = (1e-4, 3e-2)
SEARCH = "search.json"
WEIGHT_DECAYS = (0.0, 1e-6, 1e-5, 1e-4, 1e-3)


@dataclass(frozen=True)
class Trial:
    """One trained setting: its job's options, the validation metric of each task (None where undefined), or why it failed."""

    number: int
    config: dict[str, Any]
    scores: dict[str, float | None]
    seconds: float
    failed: str | None


@dataclass(frozen=True)
class Tuning:
    """A finished search: all trials, and the numbers of the best one ("mean") or of the Pareto front ("tasks").

    `simulated`: whether its log is.
    """

    objective: str
    tasks: tuple[str, ...]
    trials: tuple[Trial, ...]
    front: tuple[int, ...]
    simulated: bool


def tune(
    data: str | Path | Log,
    *,
    out: str | Path,
    models_: Sequence[str] = ("mmoe",),
    methods: Sequence[str] = ("equal", "fixed", "pub"),
    trials: int = 30,
    objective: str = "mean",
    tasks: Sequence[str] = (),
    seed: int = 0,
    base: dict[str, Any] | None = None,
    set_: dict[str, Any] | None = None,
    overwrite: bool = False,
    quiet: bool = False,
) -> Tuning:
    """Search model, method, learning rate, weight decay and the method's constants, one training run a trial.

    The first trials are plain training of each model at 1e-3, so that the search cannot end below it by bad luck. The test split is not read.
    A folder that holds a search goes on up to `trials`; with `overwrite` it starts again.

    Args:
        data: a prepared log. out: folder of trials. models_, methods: names, as `equipoise train` takes them; `single` is not one.
        objective: "mean" of the tasks' AUC (xauc), found by TPE, over those whose validation labels differ; "tasks": each task's own,
            a Pareto front by NSGA-II's non-dominated sorting inside TPE.
        base, set_: options of every run, as in `equipoise.study.compare.make_plan`. seed: of the search and of every run.

    Raises:
        ImportError: optuna is missing; it comes with the extra `tune`.
        ValueError: an unknown name or objective, fewer trials than models, `out` with another search; validation labels of one class
            only, of a task with "tasks", of all tasks with "mean".
    """
    optuna = _optuna()
    log = data if isinstance(data, Log) else Log.open(data)
    names = tuple(tasks or log.schema.tasks)
    view = log.only(list(names))
    setup = _setup(view, models_, methods, names, dict(base or {}), dict(set_ or {}))
    if objective not in OBJECTIVES:
        raise ValueError(f"objective must be one of {', '.join(OBJECTIVES)}, got {objective!r}")
    if trials < len(models_):
        raise ValueError(
            f"trials must be at least one a model ({len(models_)}), got {trials}: the first ones are plain training"
        )
    _check_defined(view, names, objective)
    folder = Path(out)
    plan = {
        "fingerprint": log.fingerprint,
        "code": code(),
        "models": list(models_),
        "methods": list(methods),
        "tasks": list(names),
        "objective": objective,
        "seed": seed,
        "base": setup.base,
        "options": setup.options,
    }
    _claim(folder, json.loads(json.dumps(plan)), log.path, overwrite)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    search = optuna.create_study(
        study_name="tune",
        storage=optuna.storages.JournalStorage(
            optuna.storages.journal.JournalFileBackend(str(folder / "trials.log"))
        ),
        directions=["maximize"] * (len(names) if objective == "tasks" else 1),
        load_if_exists=True,
    )
    for stopped in search.get_trials(deepcopy=False, states=[optuna.trial.TrialState.RUNNING]):
        if "told" in stopped.user_attrs:  # killed when all but the search knew how it ended
            _tell(search, _told(stopped), objective)
        else:  # killed in the middle: what it was to try is tried first
            search.enqueue_trial({**stopped.system_attrs.get("fixed_params", {}), **stopped.params})
            search.tell(stopped.number, state=optuna.trial.TrialState.FAIL)
    if not search.trials:
        for name in models_:
            search.enqueue_trial({"model": name, "method": "equal", "lr": 1e-3, "weight_decay": 0.0})
    done: list[Trial] = [_told(t) for t in search.trials if "told" in t.user_attrs]
    with _bar(quiet) as bar:
        task = bar.add_task("trials", total=trials, completed=len(done))
        while len(done) < trials:
            search.sampler = optuna.samplers.TPESampler(seed=seed + len(done))
            asked = (
                search.ask()
            )  # drawn from its number's own seed, so that a stopped search goes on as if it had not
            job = _job(asked, setup, models_, ("equal", *(m for m in methods if m != "equal")), seed)
            found = perform_all([job], folder, 0)[job.name]
            scores = {n: _metric(found.metrics.get("valid", {}).get(n, {})) for n in names}
            trial = Trial(asked.number, job.config, scores, found.seconds, found.failed)
            asked.set_user_attr("told", asdict(trial))
            _tell(search, trial, objective)
            done.append(trial)
            bar.advance(task)
    result = Tuning(objective, names, tuple(done), front(done, objective), log.schema.simulated)
    write_text(folder / "tune.json", json.dumps(asdict(result), indent=1) + "\n")
    return result


def mean(trial: Trial) -> float | None:
    """Return a trial's mean over the tasks whose metric is defined, None where none is or training failed."""
    known = [v for v in trial.scores.values() if v is not None]
    return sum(known) / len(known) if known and trial.failed is None else None


def front(trials: Sequence[Trial], objective: str) -> tuple[int, ...]:
    """Return numbers of the trials that no other is better than on every task ("tasks"), or of the best mean."""
    if objective == "mean":
        means = {t.number: value for t in trials if (value := mean(t)) is not None}
        return (max(means, key=lambda n: means[n]),) if means else ()
    whole = [t for t in trials if t.failed is None and None not in t.scores.values()]
    values = {t.number: [v for v in t.scores.values() if v is not None] for t in whole}

    def beaten(mine: list[float]) -> bool:
        return any(
            all(a >= b for a, b in zip(other, mine, strict=True)) and other != mine
            for other in values.values()
        )

    return tuple(number for number, mine in values.items() if not beaten(mine))


def _setup(
    log: Log,
    models_: Sequence[str],
    methods: Sequence[str],
    tasks: tuple[str, ...],
    base: dict[str, Any],
    chosen: dict[str, Any],
) -> Setup:
    """Return what the trials share, after checking every name and option."""
    from equipoise.study.compare import checked_options

    for method in methods:
        if method == "single":
            raise ValueError(
                "methods must train one model of all tasks, got 'single'; use `equipoise train --method single`"
            )
        parse_method(method)
    options = checked_options(models_, base, chosen)
    for name in models_:
        models.build(name, log.schema, **sort_options(options[name], "equal", models.options(name))["model"])
    return Setup(str(log.path.resolve()), tasks, {}, base, options)


def _job(asked: optuna.Trial, setup: Setup, models_: Sequence[str], methods: Sequence[str], seed: int) -> Job:
    """Return the run of a trial: what it draws is what the method has."""
    model = asked.suggest_categorical("model", list(models_))
    method = asked.suggest_categorical("method", list(methods))
    lr = float(f"{asked.suggest_float('lr', *LR_RANGE, log=True):.3g}")
    chosen: dict[str, Any] = {}
    name = parse_method(method)[0]
    if name == "fixed":
        raw = {t: math.exp(asked.suggest_float(f"fixed.{t}", -math.log(5), math.log(5))) for t in setup.tasks}
        total = sum(raw.values())
        chosen["method.weights"] = {t: round(w * len(raw) / total, 4) for t, w in raw.items()}
    for key, values in SPACES.get(name, {}).items():
        value = asked.suggest_categorical(f"{method}.{key}", ["default", *values])
        if value != "default":
            chosen[f"method.{key}"] = value
    decay = asked.suggest_categorical("weight_decay", list(WEIGHT_DECAYS))
    return setup.job(Unit(model, method), lr, seed, {"set": chosen, "weight_decay": decay})


def _check_defined(log: Log, tasks: Sequence[str], objective: str) -> None:
    """Raise ValueError where the objective has no value for any model: validation labels that are all alike, or none."""
    rates = {task: log.split("valid").rates(task) for task in tasks}
    alike = [t for t, r in rates.items() if r.get("positive_rate") in (None, 0.0, 1.0) and not r.get("std")]
    if len(alike) == len(tasks) or (alike and objective == "tasks"):
        raise ValueError(
            f"tasks must have different labels in valid, got one class only (or none) for {', '.join(map(repr, alike))}; "
            f"{'leave them out with --tasks, take --objective mean,' if len(alike) < len(tasks) else 'take other --tasks,'} or split otherwise"
        )


def _tell(search: optuna.Study, trial: Trial, objective: str) -> None:
    """Tell the search how a trial ended, a failure where the objective has no value."""
    values = list(trial.scores.values()) if objective == "tasks" else [mean(trial)]
    known = [v for v in values if v is not None]
    if trial.failed is None and len(known) == len(values):
        search.tell(trial.number, known)
    else:
        search.tell(trial.number, state=_optuna().trial.TrialState.FAIL)


def _metric(found: dict[str, Any]) -> float | None:
    value = found.get("auc", found.get("xauc"))
    return None if value is None else float(value)


def _told(trial: optuna.trial.FrozenTrial) -> Trial:
    return Trial(**trial.user_attrs["told"])


def _claim(folder: Path, plan: dict[str, Any], data: Path, overwrite: bool) -> None:
    """Write the search's plan, or check that the one there is the same; `overwrite` starts again, of the same plan too."""
    there = held(folder, SEARCH, plan, "search")
    if there is not None and overwrite:
        set_aside(folder, data)
    elif there is not None and (differing := [key for key in plan if plan[key] != there.get(key)]):
        raise ValueError(
            f"out {str(folder)!r} holds a search with another {' and '.join(differing)}; choose another --out, or --overwrite to "
            "start again"
        )
    begin(folder, SEARCH, plan)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise ImportError("equipoise tune needs optuna: pip install 'equipoise[tune]'") from error
    return optuna


def _bar(quiet: bool) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True, quiet=quiet),
    )
