"""F(e), the share of events that come within a time e of their row: what a pending row can have shown of its event so far."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from equipoise.data.check import damaged
from equipoise.data.label import Label
from equipoise.data.schema import Schema
from equipoise.data.window import span

Array = np.ndarray[Any, Any]
MOST = 1000
"""Delays that are kept of a label; of more, their quantiles at 1/1000, 2/1000, ... 1, so that F is off by .001 at most."""
FEW = 100
"""Events below which F is said to be rough: its standard error is up to .05."""


def corrected(schema: Schema) -> list[Label]:
    """Return the labels that are learned with `correction`."""
    return [label for label in schema.labels if label.correction is not None]


def column_for(task: str) -> str:
    """Return the name of the column of F that `Settled` adds to the rows of a task."""
    return f"\0seen {task}"


def delays_for(label: Label, delays: Array) -> Array:
    """Return int64 [n], n <= `MOST`, the delays in ms whose empirical distribution is F, ascending.

    Args:
        delays: int64 [N] ms, ascending, of events of training rows whose window was over when train ended. Others are no measure of F: a row
            that is still open shows its short delays alone.

    Raises:
        ValueError: none of them.
    """
    if not len(delays):
        raise ValueError(
            f"label {label.name!r} has correction={label.correction!r}, which learns how late events come from training rows with an event "
            f"whose window ({label.window}) was over when train ended, got none; prepare more days, shorten the window, or take "
            "pending='mask'"
        )
    if len(delays) <= MOST:
        return delays
    return np.asarray(delays[-(-np.arange(1, MOST + 1) * len(delays) // MOST) - 1])


def share_seen(delays: Array, times: Array, window: int, moment: int) -> Array:
    """Return float32 [N] F(moment - time), 1 for rows whose window is over, 0 for those younger than every delay.

    Args:
        delays: of `delays_for`. times: int64 [N] ms of the rows. window: ms. moment: ms, what the rows' labels are as of.

    Example:
        >>> share_seen(np.array([1, 2, 4, 8]), np.array([0, 3, 7, 9]), 8, 9).tolist()
        [1.0, 0.75, 0.5, 0.0]
    """
    elapsed = moment - times
    share = np.searchsorted(delays, elapsed, side="right") / len(delays)
    return np.where(elapsed >= window, 1.0, share).astype(np.float32)


def seen_columns(
    schema: Schema, delays: Mapping[str, Array], times: Array, moment: int
) -> Iterable[pl.Series]:
    """Return a column of F for each label with a correction."""
    for label in corrected(schema):
        assert label.window is not None
        found = share_seen(delays[label.name], times, span(label.window), moment)
        yield pl.Series(column_for(label.name), found)


def seen_array(frame: pl.DataFrame, schema: Schema) -> Array | None:
    """Return float32 [N, T] F of each row and task, 1 for a task without correction; None where no label asks for it."""
    if not corrected(schema):
        return None
    ones = np.ones(frame.height, np.float32)
    columns = [
        ones if label.correction is None else frame[column_for(label.name)].to_numpy()
        for label in schema.labels
    ]
    return np.stack(columns, axis=1)


def known_delays(manifest: Mapping[str, Any], schema: Schema, path: Path) -> dict[str, Array]:
    """Return {task: delays} that a log was prepared with, for rows that come later.

    Raises:
        ValueError: a manifest that lacks them.
    """
    found = {}
    for label in corrected(schema):
        held: Any = manifest["notes"]
        for key in ("late", "tasks", label.name, "seen"):
            held = held.get(key) if isinstance(held, Mapping) else None
        if not (isinstance(held, list) and held and all(type(v) is int and v >= 0 for v in held)):
            raise damaged(
                path, f"notes.late.tasks.{label.name}.seen must be a list of milliseconds, got {held!r:.60}"
            )
        found[label.name] = np.sort(np.array(held, np.int64))
    return found
