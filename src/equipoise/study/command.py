"""A run's options -> the `equipoise train` command that trains the same model, ready for a shell."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping
from typing import Any

import yaml

from equipoise.config import TrainConfig

ALWAYS = ("model", "method", "lr")
"""Said even where they are the defaults, since they are what was looked for."""
OPTIONS = (
    "tasks",
    *ALWAYS,
    "weight_decay",
    "optimizer",
    "epochs",
    "batch_size",
    "monitor",
    "patience",
    "max_rows",
    "time_limit",
    "seed",
    "device",
)
"""What `equipoise train` takes by the same name. Not among them: auto_epochs, checkpoint_seconds, which change no model of a known lr."""


def train_command(config: Mapping[str, Any], data: str) -> str:
    """Return the command that trains these options of TrainConfig on `data`: all that differ from `train`'s defaults, quoted.

    Example:
        >>> train_command({"model": "mmoe", "method": "pub", "lr": 0.003, "seed": 1, "set": {"model.expert": [64, 32]}}, "my log")
        "equipoise train 'my log' --model mmoe --method pub --lr 0.003 --seed 1 --set 'model.expert=[64, 32]'"
    """
    defaults = TrainConfig()
    words = ["equipoise", "train", data]
    for name in OPTIONS:
        value = config.get(name, getattr(defaults, name))
        if name in ALWAYS or value != getattr(defaults, name):
            text = ",".join(value) if isinstance(value, list | tuple) else str(value)
            words += [f"--{name.replace('_', '-')}", text]
    for key, value in config.get("set", {}).items():
        words += ["--set", f"{key}={_yaml(value)}"]
    return shlex.join(words)


def _yaml(value: Any) -> str:
    """Return a value as `--set` reads it: YAML on one line. JSON will not do: YAML takes its 1e-05 for a word."""
    plain = json.loads(json.dumps(value))  # tuples become lists
    text = yaml.safe_dump(plain, default_flow_style=True, sort_keys=False, width=math.inf, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")
