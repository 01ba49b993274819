"""Equipoise trains multi-task ranking models so that no task pays for another.

Flow 1, a step:   batch -> losses -> gradients -> updates -> Gram -> weights -> joint update -> parameters
    models/ -> losses.py -> gradients.py -> updates/ -> gram.py -> solve/, methods/ -> joint.py
    `Balancer` (balancer.py) wraps the user's torch optimizer and calls them in this order.
Flow 2, the data: raw log -> schema -> prepared log -> batches
    data/schema.py -> data/encode.py -> data/store.py -> data/batches.py; one public dataset a file.
Around them: metrics.py, training.py (the loop), presets.py, checkpoint.py, study/ (evidence), cli.py.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_NAMES = {
    "Balancer": "equipoise.balancer",
    "Record": "equipoise.record",
    "StationaryError": "equipoise.weighing",
    "Clippy": "equipoise.updates.clippy",
    "METHODS": "equipoise.methods",
    "PUB": "equipoise.methods",
    "Nash": "equipoise.methods",
    "Equal": "equipoise.methods",
    "MGDA": "equipoise.methods",
    "PCGrad": "equipoise.methods",
    "GradVac": "equipoise.methods",
    "IMTLG": "equipoise.methods",
    "CAGrad": "equipoise.methods",
    "FairGrad": "equipoise.methods",
    "AlignedMTL": "equipoise.methods",
    "UPGrad": "equipoise.methods",
    "DualProj": "equipoise.methods",
    "ConFIG": "equipoise.methods",
    "ConicGrad": "equipoise.methods",
    "Fixed": "equipoise.methods",
    "MoCo": "equipoise.methods",
    "SDMGrad": "equipoise.methods",
    "DBMTL": "equipoise.methods",
    "PELTR": "equipoise.methods",
    "PCD": "equipoise.methods",
    "MultiBalance": "equipoise.methods",
    "GradCraft": "equipoise.methods",
    "MetaBalance": "equipoise.methods",
    "GradDrop": "equipoise.methods",
    "UW": "equipoise.methods",
    "DWA": "equipoise.methods",
    "RLW": "equipoise.methods",
    "GLS": "equipoise.methods",
    "IMTLL": "equipoise.methods",
    "FAMO": "equipoise.methods",
    "STCH": "equipoise.methods",
    "GradNorm": "equipoise.methods",
    "ExcessMTL": "equipoise.methods",
    "BanditMTL": "equipoise.methods",
    "RowWiseAdagrad": "equipoise.updates.rowwise_adagrad",
    "StreamingAUC": "equipoise.streaming",
    "Losses": "equipoise.losses",
    "train": "equipoise.training",
    "resume": "equipoise.training",
    "evaluate": "equipoise.training",
}
_MODULES = ("data", "gram", "losses", "methods", "metrics", "models", "presets", "solve", "updates")

__all__ = [*_NAMES, *_MODULES, "__version__"]

if TYPE_CHECKING:
    from equipoise import data, gram, losses, methods, metrics, models, presets, solve, updates
    from equipoise.balancer import Balancer
    from equipoise.losses import Losses
    from equipoise.methods import (
        DBMTL,
        DWA,
        FAMO,
        GLS,
        IMTLG,
        IMTLL,
        METHODS,
        MGDA,
        PCD,
        PELTR,
        PUB,
        RLW,
        STCH,
        UW,
        AlignedMTL,
        BanditMTL,
        CAGrad,
        ConFIG,
        ConicGrad,
        DualProj,
        Equal,
        ExcessMTL,
        FairGrad,
        Fixed,
        GradCraft,
        GradDrop,
        GradNorm,
        GradVac,
        MetaBalance,
        MoCo,
        MultiBalance,
        Nash,
        PCGrad,
        SDMGrad,
        UPGrad,
    )
    from equipoise.record import Record
    from equipoise.training import evaluate, resume, train
    from equipoise.updates.clippy import Clippy
    from equipoise.weighing import StationaryError


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used (PEP 562), so that `import equipoise` costs nothing."""
    if name in _NAMES:
        value = getattr(importlib.import_module(_NAMES[name]), name)
    elif name in _MODULES:
        value = importlib.import_module(f"equipoise.{name}")
    else:
        raise AttributeError(f"module 'equipoise' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
