"""Gram matrix -> Solution: small problems, solved in float64 on the CPU. One problem a file, none needs a package."""

from __future__ import annotations

from equipoise.solve.ball import conflict_averse
from equipoise.solve.cone import project
from equipoise.solve.conic import conic
from equipoise.solve.equation import balance
from equipoise.solve.fairness import fair
from equipoise.solve.simplex import min_norm
from equipoise.solve.solution import DAMPING, Solution, Status, checked

__all__ = [
    "DAMPING",
    "Solution",
    "Status",
    "balance",
    "checked",
    "conflict_averse",
    "conic",
    "fair",
    "min_norm",
    "project",
]
