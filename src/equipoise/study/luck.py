"""What luck in tuning adds to a contrast: how much a side's search would find differs from search to search."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import numpy as np

from equipoise.study.cells import Outcome
from equipoise.study.choice import choice_variance
from equipoise.study.compare import Comparison
from equipoise.study.tuning import Unit


def earliest(outcome: Outcome) -> Outcome:
    """Return the run of the earliest origin, whose validation rows come before every test row; the run itself without origins."""
    return outcome.parts[0] if outcome.parts else outcome


def luck_of(comparison: Comparison, units: Sequence[Unit], task: str | None = None) -> float:
    """Return the variance of what a side's search finds, from search to search, of a task or the mean over tasks; see `choice_variance`.

    The settings are the learning rates and the further runs, scored by the mean of one or of all tuning seeds; the noise is the
    spread of the final seeds on validation. A search again would try the same settings: its draw hangs on the method's name.
    Settings are chosen by the mean; what that does to one task differs from search to search all the same.

    Args:
        units: of the side, one a task where each has a model of its own. task: None for the mean over tasks.
    """
    looked_at = [u for u in units if task is None or u.task in (None, task)]
    total = 0.0
    for unit in looked_at:
        tried = [each for each in comparison.tried[unit] if all(math.isfinite(o.value) for o in each)]
        final = [earliest(o) for o in comparison.runs[unit]]
        if len(tried) < 2:
            continue
        counts = np.array([len(each) for each in tried]) ** 0.5
        scores = [statistics.fmean(o.value for o in each) for each in tried]
        noise = statistics.stdev(o.value for o in final) / counts
        of = None
        if task is not None and unit.task is None:
            values = [[o.metrics["valid"][task].get("auc") for o in each] for each in [*tried, final]]
            if any(v is None for each in values for v in each):
                continue  # no validation rows of a class, so the task had no say in the choice
            of = [statistics.fmean(each) for each in values[:-1]], statistics.stdev(values[-1]) / counts
        total += choice_variance(scores, noise, of=of, seed=0)
    return total / len(looked_at) ** 2
