"""What luck in tuning adds to a contrast: how much a side's search would find differs from search to search."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from equipoise.study.cells import Outcome
from equipoise.study.choice import choice_variance
from equipoise.study.compare import Comparison
from equipoise.study.tuning import Unit

Array = np.ndarray[Any, Any]


def earliest(outcome: Outcome) -> Outcome:
    """Return the run of the earliest origin, whose validation rows come before every test row; the run itself without origins."""
    return outcome.parts[0] if outcome.parts else outcome


def luck_of(comparison: Comparison, units: Sequence[Unit], tasks: Sequence[str]) -> float:
    """Return the variance of what a side's search finds, from search to search, of the mean over these tasks; see `choice_variance`.

    The settings are the learning rates and the further runs, scored by the mean of one or of all tuning seeds; the noise is the
    spread of the final seeds on validation. A search again would try the same settings: its draw hangs on the method's name.
    Settings are chosen by what was monitored, over all tasks of a unit; what that does to the AUC of these differs from search to search
    all the same.

    Args:
        units: of the side, one a task where each has a model of its own. tasks: of the contrast, binary; one without validation rows of
            both classes had no say in the choice and adds nothing.
    """
    return (
        sum(
            _luck(comparison, unit, members)
            for unit in units
            if (members := [t for t in tasks if unit.task in (None, t)])
        )
        / len(tasks) ** 2
    )


def _luck(comparison: Comparison, unit: Unit, members: Sequence[str]) -> float:
    """Return the variance of what a unit's search finds, of the sum of these tasks' AUC; 0 with one setting, or without any AUC."""
    tried = [each for each in comparison.tried[unit] if all(math.isfinite(o.value) for o in each)]
    final = [earliest(o) for o in comparison.runs[unit]]
    measured = [t for t in members if all(_auc(o, t) is not None for each in [*tried, final] for o in each)]
    if len(tried) < 2 or not measured:
        return 0.0
    counts = np.array([len(each) for each in tried]) ** 0.5

    def seen(value: Callable[[Outcome], float]) -> tuple[list[float], Array]:
        scores = [statistics.fmean(value(o) for o in each) for each in tried]
        return scores, statistics.stdev(value(o) for o in final) / counts

    scores, noise = seen(lambda o: o.value)
    of = seen(lambda o: sum(_auc(o, t) or 0.0 for t in measured))
    return choice_variance(scores, noise, of=of, seed=0)


def _auc(outcome: Outcome, task: str) -> float | None:
    found: float | None = outcome.metrics["valid"][task].get("auc")
    return found
