"""Train a ranker: the loop in one function, read top to bottom. `eq.train` is its public name."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from equipoise import checkpoint, grow, models
from equipoise.balancer import Balancer
from equipoise.config import LR_GRID, LR_TIMES, TrainConfig, write_text
from equipoise.data.batches import Batch
from equipoise.data.store import Log, Split
from equipoise.data.tell import Tell, silent
from equipoise.evaluation import Scores, check_monitor, monitored, primary, score
from equipoise.interrupt import Interruption
from equipoise.losses import Losses
from equipoise.presets import build_balancer, build_optimizers, sort_options
from equipoise.progress import Progress
from equipoise.runs import (
    Run,
    check_device,
    check_raw,
    check_trainable,
    folder,
    keep,
    open_data,
    provenance,
    undo,
)
from equipoise.transfer import waits

MAX_BAD_STEPS = 20


class Diverged(ValueError):
    """No task had a finite loss for `MAX_BAD_STEPS` steps."""


@dataclass
class Result:
    """A finished run: its folder, metrics {"valid": ..., "test": ...}, history entries and the best model."""

    path: Path | None
    metrics: dict[str, Any]
    history: list[dict[str, Any]]
    model: models.Ranker | dict[str, models.Ranker]
    config: TrainConfig


def train(
    data: Log | str | Path | None = None,
    model: str | None = None,
    method: str | None = None,
    *,
    out: str | Path | None = None,
    overwrite: bool = False,
    from_run: str | Path | None = None,
    quiet: bool = False,
    **options: Any,
) -> Result:
    """Train `model` with `method`, keep the epoch that is best on validation, and read the test split once.

    Args:
        data: a Log, the path of one, a CSV or Parquet file (with `labels=[...]`), or None for the simulated log.
        model, method: names of MODELS (default mmoe), METHODS and their combinations (default pub), or "single": one model a task.
        out: the run's folder; default `runs/<model>-<method>-<seed>`, numbered when taken.
        overwrite: replace a run in `out`.
        from_run: a run's folder, to go on from its best parameters and its optimizer's state on a log that was extended since
            (`eq.data.extend`); its options are taken where none is given, and without `data` its data.
        quiet: print nothing.
        options: see `TrainConfig`.

    Returns:
        Result. The folder holds run.json, history.jsonl, metrics.json, checkpoint/ and report.html.

    Raises:
        ValueError: an unknown option, a task with one class in training or validation, an existing `out`.
        KeyboardInterrupt: Ctrl-C or SIGTERM; the checkpoint in the folder continues with `resume`.
    """
    if data is not None and not isinstance(data, Log | str | Path):
        raise ValueError(
            f"data must be a Log or a path, got {type(data).__name__}; make a log of a data frame with eq.data.from_frame(df, labels=[...])"
        )
    named: dict[str, Any] = {} if data is None or isinstance(data, Log) else {"data": str(data)}
    if isinstance(data, Log):
        whole = [label["name"] for label in data.manifest["schema"]["labels"]]
        named = {"data": str(data.path)} | (
            {"tasks": data.schema.tasks} if data.schema.tasks != whole else {}
        )
    if from_run is None:
        check_raw(data if data is not None else options.get("data"), options)
    chosen = {name: value for name, value in (("model", model), ("method", method)) if value is not None}
    named = {**options, **named, **chosen}
    config = TrainConfig.read(named if from_run is None else grow.options_from(from_run, named))
    models.check(config.model, sort_options(config.set, config.method, models.options(config.model))["model"])
    check_device(config.device)
    path = folder(out, config, overwrite)
    try:
        with Progress(quiet) as progress:
            log = open_data(data if isinstance(data, Log) else config.data, config, path, progress)
            if config.data is None or (isinstance(data, Log) and log.path != data.path):
                config = config.model_copy(update={"data": str(log.path)})
            return run(config, log, path, progress)
    finally:
        if not (path / "run.json").is_file():
            undo(path)


def resume(path: str | Path, *, quiet: bool = False) -> Result:
    """Continue an interrupted run from its last checkpoint, to the same parameters as without the interruption.

    Raises:
        ValueError: no run.json in `path`, or the data has changed since.
    """
    path = Path(path)
    if not (path / "run.json").is_file():
        raise ValueError(
            f"run {str(path)!r} must be a folder with run.json, found none; start with `equipoise train`"
        )
    config = TrainConfig.of_run(path)
    with Progress(quiet) as progress:
        local = path / "log"
        log = open_data(local if local.is_dir() else config.data, config, path, progress)
        was = config.provenance.get("fingerprint")
        if was != log.fingerprint:
            raise ValueError(
                f"run {str(path)!r} was started on data {was}, found {log.fingerprint}; restore the log"
            )
        return run(config, log, path, progress)


def run(config: TrainConfig, log: Log, path: Path | None, progress: Progress) -> Result:
    """Train on an opened log, from the checkpoint in `path` if there is one; write metrics and report."""
    if config.tasks:
        log = log.only(config.tasks)
    check_monitor(log.schema, config.monitor)
    if grow.starts(config, path):
        grow.check_start(config, log)  # what cannot go on leaves no run behind
    check_trainable(log, progress)
    found = {**provenance(log), "tasks": list(log.schema.tasks), "batch_size": batch_size(config, log)}
    config = config.model_copy(update={"provenance": {**found, **config.provenance}})
    if "lr" not in config.model_fields_set and config.optimizer in LR_TIMES:
        progress.note(
            f"lr {config.lr:g} is Adam's default; {config.optimizer} mostly wants some {LR_TIMES[config.optimizer]:g} times as much: "
            "give lr, or lr auto"
        )
    if config.lr == "auto":
        config = config.model_copy(update={"lr": choose_lr(config, log, progress)})
    if path is not None:
        if config.method != "single":
            assemble(config, log)  # what cannot be built leaves no run behind
        config.save(path / "run.json")
        keep(path)
    result = _fit(config, log, path, progress)
    if path is not None:
        write_text(path / "metrics.json", json.dumps(result.metrics, indent=1) + "\n")
        from equipoise.study.report import write_report

        progress.note(f"report: {write_report(path)}")
    return result


def assemble(config: TrainConfig, log: Log) -> tuple[models.Ranker, list[torch.optim.Optimizer], Balancer]:
    """Return model, optimizers and Balancer of the options; ValueError where one of them does not take its own."""
    options = sort_options(config.set, config.method, models.options(config.model))
    model = models.build(config.model, log.schema, **{"seed": config.seed, **options["model"]}).to(
        config.device
    )
    optimizers = build_optimizers(
        config.optimizer, model.parameters(), model.tables(), float(config.lr), config.weight_decay
    )
    balancer = build_balancer(config.method, optimizers, model.shared_parameters(), options)
    return model, optimizers, balancer


def batch_size(config: TrainConfig, log: Log) -> int:
    """Return the rows of a batch: those asked for, else 2048, less where an epoch would have under 20 steps."""
    rows = len(log.split("train"))
    return config.batch_size or min(2048, max(16, min(rows, config.max_rows or rows) // 20))


def fit(config: TrainConfig, log: Log, path: Path | None, progress: Progress) -> Result:
    """The loop: batches, losses, balancer, validation, early stopping; then the test split, once."""
    model, optimizers, balancer = assemble(config, log)
    if tables := model.tables():
        progress.note(
            f"row-sparse tables: {sum(len(t) for t in tables):,} rows, {type(optimizers[0]).__name__}; rows that a batch does not "
            "touch keep value and moments"
        )
    split, valid = log.split("train"), log.split("valid")
    state = Run(path, model, optimizers, balancer, config.provenance.get("vocabulary", {}))
    num_rows = min(len(split), config.max_rows or len(split))
    size = batch_size(config, log)
    per_epoch = -(-num_rows // size)
    torch.manual_seed(config.seed)
    if grow.starts(config, path):
        grow.begin(config, log, state)
    state.restore()
    begun, bad, device = time.monotonic() - state.seconds, 0, torch.device(config.device)
    with Interruption() as interruption:
        while not state.done and state.epoch < config.epochs:
            model.train()
            for batch in _epoch(split, size, config, state, per_epoch):
                losses = take_step(model, balancer, batch.to(config.device))
                state.step += 1
                state.position += 1
                state.record(losses, len(batch))
                # a step between solves on a device does not know who took part (docs/performance.md)
                if not waits(device) or balancer.last is None or balancer.last.status != "kept":
                    bad = 0 if balancer.last is not None and balancer.last.tasks else bad + 1
                state.seconds = time.monotonic() - begun
                if bad >= MAX_BAD_STEPS:
                    raise Diverged(
                        f"every task was absent or non-finite for {bad} steps; lower lr (now {config.lr}), or look whether labels are "
                        "known and weights above 0"
                    )
                if state.step % max(1, per_epoch // 20) == 0:
                    progress.steps(state.flush(), per_epoch * config.epochs)
                over = config.time_limit is not None and state.seconds >= config.time_limit
                if interruption.asked:
                    state.save()
                    raise KeyboardInterrupt
                if over:
                    state.done = True
                    break
                if state.since_saved() >= config.checkpoint_seconds:
                    state.save()
            scores = score(model, valid, config.device)
            value = monitored(log.schema, scores, config.monitor)
            progress.epoch(state.end_epoch(scores, value, primary(log.schema, scores), config.patience))
            state.save()
    state.take_best()
    metrics: dict[str, Any] = {
        "valid": score(model, valid, config.device),
        "test": score(model, log.split("test"), config.device),
    }
    metrics |= {"best_epoch": state.best_epoch, "steps": state.step, "seconds": round(state.seconds, 2)}
    return Result(path, metrics, state.history, model, config)


def take_step(model: models.Ranker, balancer: Balancer, batch: Batch) -> Losses:
    """Run one optimizer step on a batch and return its losses, with what the method asks for.

    A method that needs two backward calls (SDMGrad) gets one for each half of the batch, and the losses are those of the
    second; one row serves as both. One that looks at what the step did (FAMO) gets a closure.
    """
    if "cross" in balancer.options.needs:
        middle = len(batch) // 2
        for half in (batch.part(0, max(1, middle)), batch.part(middle, len(batch))):
            losses = model.losses(half)
            balancer.backward(losses)
    else:
        losses = model.losses(batch)
        balancer.backward(losses)
    if hasattr(balancer.method, "observe"):
        balancer.step(lambda: model.losses(batch))
    else:
        balancer.step()
    return losses


def _epoch(split: Split, size: int, config: TrainConfig, state: Run, per_epoch: int) -> Any:
    """Yield the rest of the epoch's batches, `max_rows` at most."""
    found = split.batches(size, shuffle=True, seed=config.seed, epoch=state.epoch, start=state.position)
    for _, batch in zip(range(state.position, per_epoch), found, strict=False):
        yield batch


def _run_single(config: TrainConfig, log: Log, path: Path | None, progress: Progress) -> Result:
    """Train one model a task with the same settings, each in `single/<task>` of the run's folder."""
    parts: dict[str, Result] = {}
    for task in log.schema.tasks:
        progress.note(f"single-task model of {task!r}")
        own = config.model_copy(update={"method": "equal", "tasks": [task], "provenance": {}})
        if config.monitor.partition(":")[0] != task:
            own = own.model_copy(update={"monitor": "mean_primary"})
        if config.from_run is not None:
            own = own.model_copy(update={"from_run": str(Path(config.from_run) / "single" / task)})
        place = None if path is None else path / "single" / task
        if place is not None:
            place.mkdir(parents=True, exist_ok=True)
        parts[task] = run(own, log, place, progress)
    metrics: dict[str, Any] = {
        kind: {task: found for part in parts.values() for task, found in part.metrics[kind].items()}
        for kind in ("valid", "test")
    }
    metrics["seconds"] = round(sum(part.metrics["seconds"] for part in parts.values()), 2)
    metrics["steps"] = sum(part.metrics["steps"] for part in parts.values())
    history = [entry for part in parts.values() for entry in part.history]
    if path is not None:
        write_text(path / "history.jsonl", "".join(json.dumps(entry) + "\n" for entry in history))
    return Result(path, metrics, history, {task: part.model for task, part in parts.items()}, config)  # type: ignore[misc]


def _fit(config: TrainConfig, log: Log, path: Path | None, progress: Progress) -> Result:
    return (_run_single if config.method == "single" else fit)(config, log, path, progress)


def choose_lr(config: TrainConfig, log: Log, progress: Progress) -> float:
    """Return the learning rate of `LR_GRID`, at the optimizer's scale, that is best on validation after `auto_epochs` epochs; grows at an edge.

    Raises:
        Diverged: no rate had finite losses.
    """
    tried: dict[float, float] = {}
    failed: Diverged | None = None
    waiting = [float(f"{lr * LR_TIMES.get(config.optimizer, 1.0):.1g}") for lr in LR_GRID]
    while waiting:
        lr = waiting.pop()
        short = config.model_copy(update={"lr": lr, "epochs": min(config.auto_epochs, config.epochs)})
        try:
            with Progress(quiet=True) as silent:
                result = _fit(short, log, None, silent)
        except Diverged as error:
            tried[lr], failed = -math.inf, error
            progress.note(f"lr {lr:g}: no task had a finite loss")
        else:
            tried[lr] = monitored(log.schema, _valid(result), config.monitor)
            progress.note(f"lr {lr:g}: {config.monitor} {tried[lr]:.4f} on validation")
        if not waiting and len(tried) < 8:
            best = max(tried, key=lambda x: tried[x])
            if best in (min(tried), max(tried)) and tried[best] > -math.inf:
                waiting = [float(f"{best * (0.316 if best == min(tried) else 3.16):.1g}")]
    best = max(tried, key=lambda x: tried[x])
    if failed is not None and tried[best] == -math.inf:
        raise failed
    progress.note(f"lr auto: {best:g}")
    return best


def _valid(result: Result) -> Scores:
    found: Scores = result.metrics["valid"]
    return found


def evaluate(
    path: str | Path, data: Log | str | Path | None = None, split: str = "test", *, tell: Tell = silent
) -> dict[str, Any]:
    """Return {task: metrics} of a run's best model on a split of `data` (default the run's own log).

    `tell` is called with ("predicting", rows done, rows in all).

    Raises:
        ValueError: no finished epoch in the run; a log prepared with another vocabulary. One that was extended since will do: ids that
            the run does not know count as unseen.
    """
    path = Path(path)
    if not (path / "run.json").is_file():
        raise ValueError(f"run {str(path)!r} must be a folder with run.json, found none")
    config = TrainConfig.of_run(path)
    if data is None:
        data = path / "log" if (path / "log").is_dir() else config.data
    log = data if isinstance(data, Log) else Log.open(str(data))
    if config.tasks:
        log = log.only(config.tasks)
    if config.method == "single":
        return {
            task: evaluate(path / "single" / task, log, split, tell=tell)[task] for task in log.schema.tasks
        }
    saved = checkpoint.load(path / "checkpoint" / "best.safetensors")
    options = sort_options(config.set, config.method, models.options(config.model))
    grow.check_lineage(path, config.provenance, log)
    known = grow.Known(log.split(split), config.provenance["num_ids"])
    model = models.build(config.model, known.schema, **options["model"])
    model.load_state_dict(saved["model"])
    return score(model, known, tell=tell)
