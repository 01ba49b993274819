"""What a training run would do, without doing it: `equipoise train --dry-run`."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console

from equipoise import models
from equipoise.config import TrainConfig
from equipoise.data.store import Log
from equipoise.evaluation import check_monitor
from equipoise.presets import sort_options
from equipoise.progress import Progress
from equipoise.runs import SIMULATED_ROWS, check_device, check_raw, check_trainable, open_data
from equipoise.training import assemble


def plan(config: TrainConfig) -> dict[str, Any]:
    """Return {"config", "options", "summary", "suspects", "parameters"}; writes nothing that stays.

    `parameters` counts the shared and each task's own. Without data there is no log yet to look at, so "summary" and
    "parameters" are None.

    Raises:
        ValueError: whatever would stop the run before its first step.
    """
    check_device(config.device)
    if config.from_run is None:
        check_raw(config.data, config.model_dump())
    options = sort_options(config.set, config.method, models.options(config.model))
    found: dict[str, Any] = {
        "config": config.model_dump(exclude={"provenance"}),
        "options": options,
        "summary": None,
        "suspects": [],
        "parameters": None,
    }
    if config.data is None:
        return found
    with tempfile.TemporaryDirectory() as scratch:
        with Progress() as shown:  # of the work alone: what is suspicious is part of the plan
            log = open_data(config.data, config, Path(scratch), Progress(quiet=True), shown.phase)
        return found | _look(log.only(config.tasks) if config.tasks else log, config)


def _look(log: Log, config: TrainConfig) -> dict[str, Any]:
    """Return what the plan says about an opened log."""
    check_monitor(log.schema, config.monitor)
    check_trainable(log, Progress())
    config = config.model_copy(update={"lr": 1e-3 if config.lr == "auto" else config.lr})
    if config.method == "single":  # one model a task
        alone = config.model_copy(update={"method": "equal"})
        built = {task: assemble(alone, log.only([task]))[0] for task in log.schema.tasks}
        own = {task: sum(p.numel() for p in model.parameters()) for task, model in built.items()}
        shared = 0
    else:
        model = assemble(config, log)[0]
        own = {task: sum(p.numel() for p in model.task_parameters(task)) for task in log.schema.tasks}
        shared = sum(p.numel() for p in model.shared_parameters())
    return {
        "summary": log.summary(),
        "suspects": log.manifest["notes"].get("suspects", []),
        "parameters": {"shared": shared, **own},
    }


def show(found: dict[str, Any]) -> None:
    """Print a plan on stdout."""
    console = Console(soft_wrap=True, highlight=False, markup=False)
    for name, value in found["config"].items():
        if value not in (None, [], {}):
            console.print(f"{name:14} {value if isinstance(value, str) else json.dumps(value)}")
    if found["summary"] is None:
        console.print(f"{'data':14} none: {SIMULATED_ROWS:,} rows would be simulated")
    else:
        counts = ", ".join(f"{name} {count:,}" for name, count in found["parameters"].items())
        console.print(f"{'parameters':14} {counts}")
        console.print(f"{'rows':14} " + ", ".join(f"{s} {e['rows']:,}" for s, e in found["summary"].items()))
    for line in found["suspects"]:
        console.print(f"look at {line}")
