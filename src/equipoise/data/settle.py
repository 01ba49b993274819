"""Raw pieces -> the rows and labels that a log is to hold: late labels as of their split's end, negatives thinned out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import polars as pl

from equipoise.data.encode import column_of, milliseconds
from equipoise.data.late import Delays, LateNote, find_moments, late_label, late_labels, late_note
from equipoise.data.sampling import Rate, sample
from equipoise.data.schema import Schema
from equipoise.data.seen import FEW, corrected, delays_for, seen_columns
from equipoise.data.tell import Tell, silent, told

Piece = tuple[str, pl.DataFrame]
Pieces = Callable[[], Iterable[Piece]]


class Settled:
    """Pieces in which labels with an event time have become plain columns, and rows that are not to be learned from are gone.

    A schema with neither late labels nor negatives leaves the pieces as they are. Late labels cost one more pass over them, at once.

    Labels with a correction get a column of F (see `seen.py`) from the second pass on, whose delays the first one learns unless given.

    Args:
        rows: of all pieces, where known, for `tell`, which hears how far each pass is.

    Attributes:
        notes: those given; when a pass has ended also "late" (see docs/labels.md), "sampled", and lines in "suspects".
    """

    def __init__(
        self,
        schema: Schema,
        raw: Pieces,
        notes: Mapping[str, Any] | None = None,
        delays: Mapping[str, np.ndarray[Any, Any]] | None = None,
        rows: int | None = None,
        tell: Tell = silent,
    ) -> None:
        self.schema, self.raw, self.given = schema, raw, dict(notes or {})
        self.rows, self.tell = rows, tell
        self.notes: dict[str, Any] = dict(self.given)
        self.late = late_labels(schema)
        self.as_of, self.moments = (
            find_moments(schema, self._read("looking for late labels")) if self.late else (0, {})
        )
        self.rate = Rate(schema)
        self.delays = delays

    def described(self) -> Schema:
        """Return the schema with `sampling`; right when a pass has ended."""
        if self.schema.negatives is None:
            return self.schema
        return self.schema.model_copy(update={"sampling": self.rate.sampling()})

    def pieces(self, what: str) -> Iterable[Piece]:
        """Return the pieces, from the start; `what` is told to be done with them."""
        return self._pass(what) if self.late or self.schema.negatives is not None else self._read(what)

    def _read(self, what: str) -> Iterator[Piece]:
        return told(self.raw(), self.tell, what, self.rows, lambda piece: piece[1].height)

    def _pass(self, what: str) -> Iterator[Piece]:
        counters = [LateNote(label) for label in self.late]
        seen: dict[str, int] = {}
        kept: dict[str, int] = {}
        for split, frame in self._read(what):
            first = seen.get(split, 0)
            seen[split] = first + frame.height
            numbers = first + np.arange(frame.height)
            frame, numbers = self._labelled(split, frame, numbers, counters, first)
            if self.schema.negatives is not None:
                frame = sample(frame, self.schema, split, numbers)
                if split == "train":
                    self.rate.check(frame, numbers)  # a column of rates leaves every row, so they match
            kept[split] = kept.get(split, 0) + frame.height
            yield split, frame
        if self.delays is None:
            self.delays = {
                label.name: delays_for(label, counter.delays.get("train", Delays()).kept())
                for label, counter in zip(self.late, counters, strict=True)
                if label in corrected(self.schema)
            }
        self._note(counters, seen, kept)

    def _labelled(
        self,
        split: str,
        frame: pl.DataFrame,
        numbers: np.ndarray[Any, Any],
        counters: list[LateNote],
        first: int,
    ) -> tuple[pl.DataFrame, np.ndarray[Any, Any]]:
        """Return the rows with a column for each late label, and their numbers; excluded rows are left out."""
        if not self.late or not frame.height:
            return frame, numbers
        time = self.schema.time or ""
        times = milliseconds(column_of(frame, time, "time"))
        stays = np.ones(frame.height, bool)
        columns = []
        for label, counter in zip(self.late, counters, strict=True):
            found = late_label(frame, label, time, self.moments[split], first)
            counter.add(split, found, times, self.moments[split])
            columns.append(
                pl.Series(label.column or label.name, np.where(found.known, found.values, np.nan), pl.Float32)
            )
            if label.pending == "exclude":
                stays &= ~found.pending
        if self.delays is not None:
            columns += seen_columns(self.schema, self.delays, times, self.moments[split])
        return frame.with_columns(columns).filter(pl.Series(stays)), numbers[stays]

    def _note(self, counters: list[LateNote], seen: dict[str, int], kept: dict[str, int]) -> None:
        own: dict[str, Any] = {}
        if self.late:
            own["late"] = late_note(self.as_of, self.moments, counters)
            for task, delays in (self.delays or {}).items():
                own["late"]["tasks"][task]["seen"] = delays.tolist()
            own["suspects"] = [*self.given.get("suspects", []), *(x for c in counters for x in c.remarks())]
            own["suspects"] += [
                f"{task}: how late events come is learned from {len(delays)} of them alone, fewer than {FEW}; its correction is rough"
                for task, delays in (self.delays or {}).items()
                if len(delays) < FEW
            ]
        if self.schema.negatives is not None:
            own["sampled"] = {split: {"rows": seen[split], "kept": kept[split]} for split in seen}
        self.notes.update(own)
