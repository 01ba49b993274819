"""Labels that come later than their row: what was known of them at a moment, and which are still open."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from equipoise.data.encode import as_text, column_of, milliseconds, plain
from equipoise.data.label import Label
from equipoise.data.schema import Schema
from equipoise.data.window import UNITS, span

Array = np.ndarray[Any, Any]
SPLITS = ("train", "valid", "test")
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9, 0.99)
MOST = 2**20
"""Delays that are kept for their quantiles; of more, every second one, of twice as many every fourth."""


class LateLabel(NamedTuple):
    """What a moment knows of a label, bool [N] each, but `delay`: int64 [N] ms from row to event, -1 without one.

    Attributes:
        values: an event within the window is known. known: the label counts: not so for a masked pending row.
        pending: no event is known and the window is still open. late: an event within the window comes after the moment.
        outside: an event after the window. before: an event before its row, which is no event of it.
    """

    values: Array
    known: Array
    pending: Array
    late: Array
    outside: Array
    before: Array
    delay: Array


def late_label(frame: pl.DataFrame, label: Label, time: str, moment: int, first: int = 0) -> LateLabel:
    """Return what is known at `moment` of the rows' labels.

    Positive: row time <= event time <= row time + window, and event time <= moment. Pending: not positive and row time + window > moment.

    Args:
        time: the rows' time column. moment: ms UTC. first: number of the first row, for messages.

    Raises:
        ValueError: a missing column, a time that cannot be read.
    """
    times = milliseconds(column_of(frame, time, "time"))
    events, there = event_times(frame, label, first)
    assert label.window is not None
    length = span(label.window)
    within = there & (events >= times) & (events <= times + length)
    values = within & (events <= moment)
    pending = ~values & (times + length > moment)
    return LateLabel(
        values,
        ~pending if label.pending == "mask" else np.ones(len(times), bool),
        pending,
        within & ~values,
        there & (events > times + length),
        there & (events < times),
        np.where(within, events - times, -1),
    )


def event_times(frame: pl.DataFrame, label: Label, first: int = 0) -> tuple[Array, Array]:
    """Return (int64 [N] ms UTC, 0 without an event; bool [N] there is one)."""
    assert label.event_time is not None
    what = f"event_time of label {label.name!r}"
    series = column_of(frame, label.event_time, what)
    there = series.is_not_null()
    if series.dtype.is_float():
        there &= series.is_not_nan().fill_null(False)
    if label.missing is not None:
        there &= (as_text(series) != plain(label.missing)).fill_null(False)
    at = np.flatnonzero(there.to_numpy())
    events = np.zeros(len(series), np.int64)
    if len(at):
        given = series.gather(pl.Series(at))
        try:
            events[at] = milliseconds(given)
        except ValueError as error:
            bad = _unreadable(given)
            where = "" if bad is None else f"; first in row {first + int(at[bad])}, {given[bad]!r}"
            raise ValueError(
                f"{what}, column {label.event_time!r}: {error}{where}; leave it empty where there is no event, or declare "
                "missing=VALUE"
            ) from None
    return events, there.to_numpy()


def _unreadable(series: pl.Series) -> int | None:
    """Return the first position of a text that is no time, None where the whole column is of a wrong type."""
    if series.dtype != pl.String:
        return None
    try:
        wrong = series.str.to_datetime(strict=False).is_null()
    except pl.exceptions.PolarsError:
        return 0
    return int(np.argmax(wrong.to_numpy())) if wrong.any() else None


def late_labels(schema: Schema) -> list[Label]:
    """Return the labels with an event time."""
    return [label for label in schema.labels if label.event_time is not None]


def find_moments(schema: Schema, pieces: Iterable[tuple[str, pl.DataFrame]]) -> tuple[int, dict[str, int]]:
    """Return (as_of, {split: the last moment, ms UTC, of which its labels may know}); reads all pieces once.

    `as_of` is the schema's, else the largest time of any row or event. A split ends 1 ms before the first row of the first split after it
    that begins when it is over; the test split at as_of. Random splits, and others that overlap to the last, end at as_of.

    Raises:
        ValueError: as_of before the last row; columns as `late_label`.
    """
    assert schema.time is not None
    spans: dict[str, tuple[int, int]] = {}
    last: int | None = None
    seen: dict[str, int] = {}
    for split, frame in pieces:
        if not frame.height:
            continue
        times = milliseconds(column_of(frame, schema.time, "time"))
        low, high = int(times.min()), int(times.max())
        held = spans.get(split, (low, high))
        spans[split] = min(low, held[0]), max(high, held[1])
        last = high if last is None else max(high, last)
        for label in late_labels(schema) if schema.as_of is None else ():
            events, there = event_times(frame, label, seen.get(split, 0))
            last = max(last, int(events[there].max(initial=last)))
        seen[split] = seen.get(split, 0) + frame.height
    if last is None:
        raise ValueError("the table must have rows, got none")
    as_of = last if schema.as_of is None else moment_of(schema.as_of)
    if as_of < last:
        raise ValueError(
            f"as_of must not lie before the last row, got {schema.as_of!r} and a row of {shown(last)}; leave later rows out, or take a "
            "later as_of"
        )
    rule = schema.split
    moments = dict.fromkeys(spans, as_of)
    if rule is None or rule.by not in ("random", "group"):
        order = [name for name in SPLITS if name in spans]
        for at, name in enumerate(order):
            after = [spans[other][0] for other in order[at + 1 :] if spans[other][0] >= spans[name][1]]
            moments[name] = after[0] - 1 if after else as_of
    return as_of, moments


def moment_of(text: str | int) -> int:
    """Return ms UTC of a date (its first moment), a date and time, or seconds or milliseconds.

    Example:
        >>> moment_of("1970-01-02"), moment_of("1970-01-01 00:00:01")
        (86400000, 1000)
    """
    value = int(text) if isinstance(text, int) or text.strip().lstrip("-").isdigit() else text
    try:
        return int(milliseconds(pl.Series([value]))[0])
    except (ValueError, IndexError):
        raise ValueError(
            f"as_of must be a date such as 2026-01-31 or 2026-01-31 12:00:00, or a number of seconds, got {text!r}"
        ) from None


def shown(moment: int) -> str:
    """Return ms UTC as text."""
    return str(datetime.fromtimestamp(moment / 1000, UTC).replace(tzinfo=None).isoformat(" ", "seconds"))


COUNTS = ("rows", "positive", "pending", "late", "outside", "before")


class LateNote:
    """Counts by split and day, and quantiles of the delay, of one label."""

    def __init__(self, label: Label) -> None:
        assert label.window is not None
        self.label, self.window = label, span(label.window)
        self.days: dict[str, dict[int, Array]] = {}
        self.delays: dict[str, Delays] = {}

    def add(self, split: str, found: LateLabel, times: Array, moment: int) -> None:
        """Count rows of a split."""
        day, place = np.unique(times // UNITS["d"], return_inverse=True)
        parts = (found.values, found.pending, found.late, found.outside, found.before)
        counts = [np.bincount(place, minlength=len(day))]
        counts += [np.bincount(place[part], minlength=len(day)) for part in parts]
        held = self.days.setdefault(split, {})
        for number, each in zip(day.tolist(), np.stack(counts, 1), strict=True):
            held[number] = held.get(number, np.zeros(len(COUNTS), np.int64)) + each
        over = found.values & (times + self.window <= moment)
        self.delays.setdefault(split, Delays()).add(found.delay[over])

    def told(self) -> dict[str, Any]:
        """Return the note; see docs/labels.md."""
        days = {
            split: {shown(day * UNITS["d"])[:10]: _named(held[day]) for day in sorted(held)}
            for split, held in self.days.items()
        }
        return {
            "window": self.window,
            "pending": self.label.pending,
            "splits": {split: _named(sum(held.values())) for split, held in self.days.items()},
            "days": days,
            "delay": {split: delays.told() for split, delays in self.delays.items()},
        }

    def remarks(self) -> list[str]:
        """Return a line where events come before their rows."""
        total = sum(int(counts[-1]) for held in self.days.values() for counts in held.values())
        if not total:
            return []
        return [
            f"{self.label.name}: {self.label.event_time!r} lies before its row in {total} rows, which are read as without event"
        ]


def _named(counts: Any) -> dict[str, int]:
    return dict(zip(COUNTS, np.asarray(counts).tolist(), strict=True))


class Delays:
    """Delays in ms; exact up to `MOST` of them."""

    def __init__(self) -> None:
        self.parts: list[Array] = []
        self.count, self.step, self.next = 0, 1, 0

    def add(self, delays: Array) -> None:
        """Add more of them."""
        taken = delays[self.next :: self.step]
        self.next = (self.next - len(delays)) % self.step
        self.count += len(delays)
        self.parts.append(taken)
        while sum(map(len, self.parts)) > MOST:
            whole = np.concatenate(self.parts)
            self.parts = [whole[::2]]
            self.next += self.step * (len(whole) % 2)
            self.step *= 2

    def kept(self) -> Array:
        """Return int64 [n], ascending."""
        return np.sort(np.concatenate([np.zeros(0, np.int64), *self.parts]))

    def told(self) -> dict[str, Any]:
        """Return {"events": count, "quantiles": {"0.5": ms, ...}, empty without an event}."""
        kept = self.kept()
        values = np.quantile(kept, QUANTILES).tolist() if len(kept) else []
        return {
            "events": self.count,
            "quantiles": {f"{q:g}": v for q, v in zip(QUANTILES, values, strict=False)},
        }


def late_note(as_of: int, moments: Mapping[str, int], notes: Iterable[LateNote]) -> dict[str, Any]:
    """Return `notes["late"]` of a manifest."""
    return {
        "as_of": as_of,
        "moments": dict(moments),
        "tasks": {note.label.name: note.told() for note in notes},
    }
