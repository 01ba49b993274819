"""A run's folder and state: where it stands, its history and checkpoints, and what it started from."""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from equipoise import checkpoint
from equipoise.balancer import Balancer
from equipoise.config import TrainConfig
from equipoise.data import simulate
from equipoise.data.store import Log
from equipoise.data.table import prepare_table
from equipoise.data.tell import Tell
from equipoise.evaluation import Scores
from equipoise.grow import vocabulary_of
from equipoise.models.ranker import Ranker
from equipoise.progress import Progress, summary_table
from equipoise.transfer import to_host, waits

SIMULATED_ROWS = 200_000
BEGUN = ".begun"
"""Marks a folder whose run has not begun: its data is being prepared. Holds the machine and the process."""


class Run:
    """Everything a training run changes. Saved whole, so that a killed run continues to the same parameters.

    Attributes:
        epoch, position: epoch under way and batches of it that are done. step: optimizer steps.
        history: entries of history.jsonl.
    """

    def __init__(
        self,
        path: Path | None,
        model: Ranker,
        optimizers: Sequence[torch.optim.Optimizer],
        balancer: Balancer,
        vocabulary: Mapping[str, Any] | None = None,
    ) -> None:
        self.vocabulary = dict(vocabulary or {})
        self.path, self.model, self.optimizers, self.balancer = path, model, list(optimizers), balancer
        self.epoch = self.position = self.step = self.waited = 0
        self.best_value, self.best_epoch, self.done, self.seconds = -float("inf"), -1, False, 0.0
        self.history: list[dict[str, Any]] = []
        # {task: [sum of losses, steps]}; on a device the sum is a tensor until it is read
        self.sums: dict[str, list[Any]] = {}
        self.rows, self.rows_at = 0, 0.0
        self._written = 0
        self._saved_at = time.monotonic()
        self._best_model: dict[str, Tensor] | None = None

    def record(self, losses: Mapping[str, Tensor | None], rows: int) -> None:
        """Add a step's losses to what the next history entry will average."""
        self.rows += rows
        for task, loss in losses.items():
            if loss is not None:
                total = self.sums.setdefault(task, [0.0, 0])
                total[0] = total[0] + (loss.detach().double() if waits(loss.device) else float(loss.detach()))
                total[1] += 1

    def _read(self) -> None:
        """Bring sums that lie on a device to the host, by one transfer. In place."""
        late = {task: total[0] for task, total in self.sums.items() if isinstance(total[0], Tensor)}
        for task, value in zip(late, to_host(list(late.values())), strict=True):
            self.sums[task][0] = float(value)

    def flush(self) -> dict[str, Any]:
        """Return (and keep) the history entry of the steps since the last one."""
        self._read()
        last = self.balancer.last
        assert last is not None
        spent = max(self.seconds - self.rows_at, 1e-9)
        entry = {
            "kind": "steps",
            "step": self.step,
            "epoch": self.epoch,
            "seconds": round(self.seconds, 3),
            "rows_per_second": round(self.rows / spent, 1),
            "loss": {task: total / count for task, (total, count) in self.sums.items() if count},
            "weights": last.weights,
            "status": last.status,
            "collapse": last.collapse,
            "present": list(last.tasks),
            "cosines": {kind: matrix.tolist() for kind, matrix in last.cosines.items()},
            "absent": last.totals["absent"],
            "nonfinite": last.totals["nonfinite"],
        }
        self.sums, self.rows, self.rows_at = {}, 0, self.seconds
        self.history.append(entry)
        return entry

    def end_epoch(self, scores: Scores, value: float, primary: float, patience: int) -> dict[str, Any]:
        """Note an epoch's validation; keep the model when it is the best, stop after `patience` epochs without."""
        best = value > self.best_value
        entry = {
            "kind": "epoch",
            "step": self.step,
            "epoch": self.epoch,
            "seconds": round(self.seconds, 3),
            "valid": scores,
            "mean_primary": primary,
            "best": best,
        }
        self.history.append(entry)
        if best:
            self.best_value, self.best_epoch, self.waited = value, self.epoch, 0
            self._best_model = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
            if self.path is not None:
                checkpoint.save(
                    self.path / "checkpoint" / "best.safetensors",
                    {"model": self._best_model, "epoch": self.epoch, "vocabulary": self.vocabulary},
                )
        else:
            self.waited += 1
            self.done = self.done or self.waited >= patience
        self.epoch, self.position = self.epoch + 1, 0
        return entry

    def take_best(self) -> None:
        """Load the best epoch's parameters into the model."""
        if self._best_model is not None:
            self.model.load_state_dict(self._best_model)

    def since_saved(self) -> float:
        """Return seconds since the last checkpoint."""
        return time.monotonic() - self._saved_at

    def save(self) -> None:
        """Write the checkpoint, then the history up to it. Without a folder nothing is kept."""
        self._saved_at = time.monotonic()
        if self.path is None:
            return
        self._read()
        state = {
            "model": dict(self.model.state_dict()),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "balancer": self.balancer.state_dict(),
            "random": checkpoint.random_state(),
            "best_model": self._best_model,
            "history": json.dumps(self.history),
            "vocabulary": self.vocabulary,
            **{name: getattr(self, name) for name in self._plain()},
        }
        checkpoint.save(self.path / "checkpoint" / "last.safetensors", state)
        beside = self.path / ".history.new"
        beside.write_text("".join(json.dumps(entry) + "\n" for entry in self.history), encoding="utf-8")
        beside.replace(self.path / "history.jsonl")

    @staticmethod
    def _plain() -> tuple[str, ...]:
        return (
            "epoch",
            "position",
            "step",
            "waited",
            "best_value",
            "best_epoch",
            "done",
            "seconds",
            "sums",
            "rows",
            "rows_at",
        )

    def restore(self) -> None:
        """Continue from the checkpoint in the folder, if there is one."""
        if self.path is None or not (self.path / "checkpoint" / "last.safetensors").is_file():
            return
        state = checkpoint.load(self.path / "checkpoint" / "last.safetensors")
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.balancer.load_state_dict(state["balancer"])
        torch.set_rng_state(state["random"])
        self.history = json.loads(state["history"])
        self._best_model = state["best_model"]
        for name in self._plain():
            setattr(self, name, state[name])


def folder(out: str | Path | None, config: TrainConfig, overwrite: bool) -> Path:
    """Make and return the run's folder; with `overwrite` an earlier run waits beside until `keep` or `undo`.

    Raises:
        ValueError: `out` exists, and is no run or `overwrite` is not given.
    """
    if out is None:
        base = Path("runs") / f"{config.model}-{config.method.replace('@', '-at-')}-{config.seed}"
        out, number = base, 1
        while out.exists():
            number += 1
            out = base.with_name(f"{base.name}-{number}")
    path = Path(out)
    _recover(path)
    if config.data is not None and Path(config.data).resolve().is_relative_to(path.resolve()):
        raise ValueError(f"out {str(path)!r} holds the data {config.data!r}; choose another folder")
    if path.exists():
        if not overwrite:
            raise ValueError(
                f"out {str(path)!r} must not exist yet; choose another folder, pass overwrite=True (--overwrite), or go on "
                "with `equipoise resume`"
            )
        if not path.is_dir() or (any(path.iterdir()) and not (path / "run.json").is_file()):
            raise ValueError(
                f"out {str(path)!r} exists and is no run, so it is not overwritten; choose another folder"
            )
        shutil.rmtree(_earlier(path), ignore_errors=True)
        path.rename(_earlier(path))
    path.mkdir(parents=True)
    (path / BEGUN).write_text(f"{platform.node()} {os.getpid()}", encoding="utf-8")
    return path


def _recover(path: Path) -> None:
    """Clear away what a process left that was killed before its run began, and put an earlier run back that it was to replace.

    Raises:
        ValueError: the process is at work, or on another machine.
    """
    if (path / BEGUN).is_file():
        machine, _, process = (path / BEGUN).read_text(encoding="utf-8").rpartition(" ")
        whole = process.isdecimal()  # else it was killed while it wrote this
        if whole and (machine != platform.node() or _is_alive(int(process))):
            raise ValueError(
                f"out {str(path)!r} is being made by process {process} on {machine}; wait for it, choose another folder, or delete it if that "
                "process is gone"
            )
        shutil.rmtree(path)
    if _earlier(path).is_dir() and not path.exists():
        _earlier(path).rename(path)


def _is_alive(process: int) -> bool:
    """Whether a process of this number runs here."""
    if process == os.getpid():
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _earlier(path: Path) -> Path:
    return path.with_name(f".{path.name}.earlier")


def keep(path: Path) -> None:
    """The new run has begun: delete the earlier one that it replaces."""
    (path / BEGUN).unlink(missing_ok=True)
    shutil.rmtree(_earlier(path), ignore_errors=True)


def undo(path: Path) -> None:
    """The run could not begin: remove its folder, and put the earlier one back."""
    shutil.rmtree(path, ignore_errors=True)
    if _earlier(path).is_dir():
        _earlier(path).rename(path)
    if path.parent.name == "runs" and path.parent.is_dir() and not any(path.parent.iterdir()):
        path.parent.rmdir()


def open_data(
    data: Log | str | Path | None,
    config: TrainConfig,
    path: Path,
    progress: Progress,
    tell: Tell | None = None,
) -> Log:
    """Return the log to train on: opened, prepared from a table into the run's folder, or simulated there.

    `tell`, by default the progress, hears how far preparing is.
    """
    tell = tell or progress.phase
    if isinstance(data, Log) and data._keep is None:
        return data
    if isinstance(data, Log):  # in a temporary folder, which goes with the process: the run keeps its own
        shutil.copytree(data.path, path / "log")
        return Log.open(path / "log").only(data.schema.tasks)
    if data is None:
        progress.note(f"no DATA given: simulating {SIMULATED_ROWS:,} rows")
        return simulate(path / "log", SIMULATED_ROWS, config.seed, "mixed", tell=tell)
    if Path(data).is_dir() and ((Path(data) / "manifest.json").is_file() or not config.labels):
        return Log.open(data)
    log, suspects = prepare_table(
        data,
        path / "log",
        labels=config.labels,
        time=config.time,
        group=config.group,
        max_rows=config.max_rows,
        tell=tell,
    )
    log.schema.save(path / "schema.yaml")
    for line in suspects:
        progress.note(f"look at {line}")
    return log


def check_raw(data: Log | str | Path | None, options: Mapping[str, Any]) -> None:
    """Raise ValueError for options that declare a raw table's columns where the data is none."""
    given = [name for name in ("labels", "time", "group") if options.get(name)]
    prepared = isinstance(data, Log) or (data is not None and (Path(data) / "manifest.json").is_file())
    if given and (prepared or data is None):
        came = "a prepared log" if prepared else "no data, which is the simulated log"
        raise ValueError(
            f"{given[0]} (--{given[0].removesuffix('s')}) is for a raw table, got {came}; give a CSV or Parquet file, or leave it out"
        )


def check_trainable(log: Log, progress: Progress) -> None:
    """Print what the log holds; ValueError for a task with one class (or a constant label) in training or validation."""
    if "like" in log.manifest:
        raise ValueError(
            f"log {str(log.path)!r} was prepared with --like, to be scored; train on the log it is like"
        )
    summary = log.summary()
    progress.table(summary_table(summary, {y.name: y.column or y.name for y in log.schema.labels}))
    for split in ("train", "valid"):
        for task, entry in summary[split]["tasks"].items():
            constant = (
                entry.get("std") == 0.0 if entry["kind"] != "binary" else entry["positive_rate"] in (0.0, 1.0)
            )
            if constant or entry["missing_rate"] == 1.0:
                raise ValueError(
                    f"task {task!r} must have different labels in {split}, got "
                    f"{'none' if entry['missing_rate'] == 1.0 else 'one class only'}; leave it out with --tasks, or split "
                    "otherwise"
                )


def check_device(name: str) -> None:
    """Raise ValueError unless torch can compute on this device here."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device must be one that torch knows, got {name!r}; try cpu or cuda") from error
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        here = (device.index or 0) < count
    else:
        here = device.type == "cpu" or (device.type == "mps" and torch.backends.mps.is_available())
    if not here:
        raise ValueError(f"device {name!r} is not available here; see `equipoise doctor`, or use cpu")


def provenance(log: Log) -> dict[str, Any]:
    """Return versions, machine and the data's fingerprint, for run.json."""
    from equipoise import __version__

    return {
        "equipoise": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "fingerprint": log.fingerprint,
        "num_ids": dict(log.schema.num_ids),
        "vocabulary": vocabulary_of(log),
        "simulated": log.schema.simulated,
    }
