"""What a training run was asked to do: checked options, also the contents of run.json."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from equipoise.data.schema import explain

LR_GRID = (3e-4, 1e-3, 3e-3, 1e-2)
"""Half-decades, at Adam's scale."""
LR_TIMES = {"adagrad": 30.0, "sgd": 100.0}
"""How many times Adam's a good learning rate of an optimizer is: benchmarks/why.py has .1 to .3 and 1 to 3 where Adam has .003."""


class TrainConfig(BaseModel):
    """Options of `equipoise train`; unknown keys are errors.

    Attributes:
        data: a prepared log, or a CSV or Parquet file with `labels`; None makes the simulated log.
        labels, time, group: of a raw table, as `--label`, `--time`, `--group`.
        tasks: the log's tasks to train, default all, in this order.
        model, method: names of MODELS and METHODS; method also "single" and combinations (`equipoise.presets`).
        set: more options: {"model.num_experts": 4, "method.weights.like": 10, "balancer.every": 5}; the prefix may
            be left out where only one of the three knows the name.
        lr: learning rate, or "auto": the best of 3e-4, 1e-3, 3e-3, 1e-2 (30 times that for adagrad, 100 times for sgd) after `auto_epochs`
            epochs, on validation; further by half-decades while the best lies on an end. The default is Adam's.
        epochs: at most so many. batch_size: None is 2048, less where an epoch would have under 20 steps.
        weight_decay: as the optimizer takes it. monitor: "mean_primary" (mean of AUC, xauc for regression) or
            "task:metric", higher is better except for losses. patience: epochs without a better value.
        max_rows: training rows read at most; of a raw table the rows that are read at all, for all splits. time_limit: seconds of training at most.
        checkpoint_seconds: a checkpoint at least so often, beside the one of each epoch.
        from_run: a run whose parameters and optimizer's state this one begins with (`equipoise.grow`).
        provenance: what the run found (versions, data fingerprint, the tasks and the batch size it took); written, not read.
    """

    model_config = ConfigDict(extra="forbid")

    data: str | None = None
    labels: list[str] = Field(default_factory=list)
    time: str | None = None
    group: str | None = None
    tasks: list[str] = Field(default_factory=list)
    model: str = "mmoe"
    method: str = "pub"
    set: dict[str, Any] = Field(default_factory=dict)
    optimizer: Literal["adam", "adamw", "sgd", "adagrad", "rmsprop"] = "adam"
    lr: float | Literal["auto"] = 1e-3
    auto_epochs: int = Field(default=2, ge=1)
    epochs: int = Field(default=30, ge=1)
    batch_size: int | None = Field(default=None, ge=1)
    weight_decay: float = Field(default=0.0, ge=0)
    monitor: str = "mean_primary"
    patience: int = Field(default=3, ge=1)
    seed: int = Field(default=0, ge=0, lt=2**63)
    device: str = "cpu"
    max_rows: int | None = Field(default=None, ge=1)
    time_limit: float | None = Field(default=None, gt=0)
    checkpoint_seconds: float = Field(default=60.0, ge=0)
    from_run: str | None = None
    provenance: dict[str, Any] = Field(default_factory=dict)

    @classmethod
    def read(cls, content: Any) -> TrainConfig:
        """Return the checked options of a mapping; ValueError with the nearest key for an unknown one."""
        try:
            config = cls.model_validate(content)
        except ValidationError as error:
            raise ValueError(explain(error, cls, "option")) from None
        if config.lr != "auto" and not 0 < config.lr < 3e38:  # what float32 holds
            raise ValueError(f"option lr must be > 0 (and fit float32) or 'auto', got {config.lr}")
        return config

    @classmethod
    def load(cls, path: str | Path) -> dict[str, Any]:
        """Return the options in a YAML or JSON file (run.json is one) as a mapping, not yet checked.

        Raises:
            ValueError: no such file, no mapping.
        """
        try:
            content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError) as error:
            raise ValueError(f"config {str(path)!r} must be a YAML or JSON file: {error}") from None
        if not isinstance(content, dict):
            raise ValueError(f"config {str(path)!r} must hold options by name, got {type(content).__name__}")
        content.pop("provenance", None)
        return content

    @classmethod
    def of_run(cls, run: str | Path) -> TrainConfig:
        """Return the options in a run's run.json; ValueError where it cannot be read."""
        file = Path(run) / "run.json"
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(
                f"run.json {str(file)!r} cannot be read: {error}; restore it, or train anew"
            ) from None
        return cls.read(content)

    def save(self, path: Path) -> None:
        """Write the options as JSON, whole or not at all."""
        write_text(path, json.dumps(self.model_dump(), indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file beside and rename it, so that a reader never sees half of it."""
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def finite(value: Any) -> Any:
    """Return nested dicts and lists with NaN and Inf as None, for JSON knows neither; keys become text, tuples lists."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): finite(v) for k, v in value.items()}
    return [finite(v) for v in value] if isinstance(value, list | tuple) else value
