"""Schema -> module. One backbone a file; MODELS lists what the command line can build."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from typing import Any

from equipoise.data.schema import Schema
from equipoise.models.adatt import AdaTT
from equipoise.models.aitm import AITM
from equipoise.models.blocks import Blocks
from equipoise.models.dbmtl import DBMTL
from equipoise.models.ds_moe import DSMoE
from equipoise.models.esmm import ESMM
from equipoise.models.home import HoME
from equipoise.models.mmoe import MMoE
from equipoise.models.ple import PLE
from equipoise.models.ppnet import PPNet
from equipoise.models.ranker import Ranker
from equipoise.models.shared_bottom import SharedBottom
from equipoise.models.single_task import SingleTask
from equipoise.models.stem import STEM
from equipoise.names import nearest

MODELS: dict[str, Callable[..., Ranker]] = {
    "single_task": SingleTask,
    "shared_bottom": SharedBottom,
    "omoe": partial(MMoE, gates="shared"),
    "mmoe": MMoE,
    "cgc": partial(PLE, levels=1),
    "ple": PLE,
    "aitm": AITM,
    "esmm": ESMM,
    "escm2": partial(ESMM, loss="dr"),
    "dbmtl": DBMTL,
    "stem": STEM,
    "adatt": AdaTT,
    "home": HoME,
    "ds_moe": DSMoE,
    "ppnet": PPNet,
}
"""Backbones by name: (schema, **options) -> module with forward, losses, predict, shared_ and task_parameters."""


def options(name: str) -> dict[str, Any]:
    """Return {option: default} of a backbone; ValueError with the nearest name for an unknown one."""
    if name not in MODELS:
        raise ValueError(f"model must be one of {', '.join(MODELS)}, got {name!r}{nearest(name, MODELS)}")
    parameters = inspect.signature(MODELS[name]).parameters.values()
    own = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    return own | {field.name: field.default for field in fields(Blocks)}


def check(name: str, chosen: dict[str, Any]) -> None:
    """Raise ValueError for an unknown backbone, an option that it does not have, or a value of another kind."""
    known = options(name)
    if unknown := [key for key in chosen if key not in known]:
        raise ValueError(f"model {name!r} has no option {unknown[0]!r}{nearest(unknown[0], known)}")
    for key, value in chosen.items():
        _check_kind(name, key, value, known[key])


def build(name: str, schema: Schema, **chosen: Any) -> Ranker:
    """Return the backbone `name` for a prepared log's schema; ValueError as `check` has it."""
    check(name, chosen)
    return MODELS[name](schema, **chosen)


def _check_kind(model: str, key: str, value: Any, default: Any) -> None:
    """Raise ValueError unless an option's value is of its default's kind; whole numbers will do for fractions."""
    if default is None:
        kind, right = "a whole number", value is None or type(value) is int
    elif isinstance(default, bool):
        kind, right = "true or false", isinstance(value, bool)
    elif isinstance(default, tuple):
        kind = "a list of whole numbers"
        right = isinstance(value, (list, tuple)) and all(type(v) is int for v in value)
    elif isinstance(default, str):
        kind, right = "a word", isinstance(value, str)
    elif isinstance(default, int):
        kind, right = "a whole number", type(value) is int
    else:
        kind, right = "a number", type(value) in (int, float)
    if not right:
        raise ValueError(
            f"option {key!r} of model {model!r} must be {kind}, got {value!r}; default {default}"
        )


__all__ = [
    "AITM",
    "DBMTL",
    "ESMM",
    "MODELS",
    "PLE",
    "STEM",
    "AdaTT",
    "DSMoE",
    "HoME",
    "MMoE",
    "PPNet",
    "Ranker",
    "SharedBottom",
    "SingleTask",
    "build",
    "check",
    "options",
]
