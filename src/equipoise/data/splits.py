"""Train, valid and test of a table that is read in chunks: each row's split follows from the row alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from equipoise.data.draw import uniform
from equipoise.data.encode import as_text, column_of, milliseconds
from equipoise.data.schema import Schema, SplitRule
from equipoise.data.source import Source
from equipoise.data.store import SPLITS

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Splitter:
    """Which rows are train, valid and test.

    Attributes:
        rule, schema: see `SplitRule`. cuts: (where test begins, where valid begins): draws below them under "random", times from them on under
            "time". held: under "column" without valid rows, the draw below which training rows are valid.
    """

    rule: SplitRule
    schema: Schema
    cuts: tuple[float, float] = (0.0, 0.0)
    held: float | None = None

    @classmethod
    def fit(cls, schema: Schema, source: Source) -> Splitter:
        """Return the splitter of a table; one column is read, of a random split only as far as needed.

        Raises:
            ValueError: a word in the split column that is no split, split by time without a time column.
        """
        rule = schema.split or SplitRule()
        if rule.by == "time":
            return cls(rule, schema, _times(rule, schema, source))
        if rule.by in ("random", "group"):
            draws = lambda: _draws(schema, source, rule.seed)  # noqa: E731
            return cls(rule, schema, _shares(draws, rule.test, rule.valid))
        if _words(rule, source):
            return cls(rule, schema)
        column = rule.column or ""

        def training() -> Iterator[Array]:
            first = 0
            for chunk in source.chunks(_columns(column, schema.kept_together)):
                part = chunk.with_row_index("", first).filter(chunk[column].cast(pl.String) == "train")
                first += chunk.height
                yield _draw(part, schema.kept_together, part[""].to_numpy(), 0)

        return cls(rule, schema, held=_shares(training, 0.1, 0.0)[0])

    def parts(self, chunk: pl.DataFrame, first: int) -> Iterator[tuple[str, pl.DataFrame]]:
        """Yield (split, its rows of a chunk) in the order of `SPLITS`; `first` is the number of the chunk's first row."""
        codes = self.codes(chunk, first)
        for code, name in enumerate(SPLITS):
            rows = codes == code
            if rows.all():
                yield name, chunk
            elif rows.any():
                yield name, chunk.filter(pl.Series(rows))

    def codes(self, chunk: pl.DataFrame, first: int) -> Array:
        """Return [N] positions in `SPLITS`."""
        test, valid = self.cuts
        if self.rule.by == "time":
            times = milliseconds(column_of(chunk, self.schema.time or "", "time"))
            return np.where(times >= test, 2, np.where(times >= valid, 1, 0))
        numbers = first + np.arange(chunk.height)
        if self.rule.by in ("random", "group"):
            draw = _draw(chunk, self.schema.kept_together, numbers, self.rule.seed)
            return np.where(draw < test, 2, np.where(draw < valid, 1, 0))
        words = column_of(chunk, self.rule.column or "", "split").cast(pl.String)
        codes = np.where(words == "test", 2, np.where(words == "valid", 1, 0))
        if self.held is not None:
            draw = _draw(chunk, self.schema.kept_together, numbers, 0)
            codes[(codes == 0) & (draw < self.held)] = 1
        return codes


def _columns(*names: str | None) -> list[str]:
    return list(dict.fromkeys(name for name in names if name is not None))


def _draw(chunk: pl.DataFrame, group: str | None, numbers: Array, seed: int) -> Array:
    """Return [N] draws: one a group value (missing ones are a group), or one a row."""
    if group is None:
        return uniform(numbers, seed)
    column = column_of(chunk, group, "group")
    return uniform(column if column.dtype.is_integer() else as_text(column), seed)


def _draws(schema: Schema, source: Source, seed: int) -> Iterator[Array]:
    first = 0
    wanted = [schema.kept_together] if schema.kept_together is not None else source.columns[:1]
    for chunk in source.chunks(wanted):
        yield _draw(chunk, schema.kept_together, first + np.arange(chunk.height), seed)
        first += chunk.height


def _shares(draws: Callable[[], Iterator[Array]], test: float, valid: float) -> tuple[float, float]:
    """Return (where test ends, where valid ends) in [0, 1).

    They are the shares themselves, unless a tiny table's draws leave a split empty: then the lowest draws are test, the next ones valid.
    """
    cuts = np.array([test, test + valid]) if valid else np.array([test])
    seen, groups = np.zeros(len(cuts) + 1, bool), np.zeros(0)
    for draw in draws():
        seen[np.searchsorted(cuts, draw, "right")] = True
        if seen.all():
            return float(cuts[0]), float(cuts[-1])
        groups = np.union1d(groups, draw)
    if len(groups) < len(seen):
        return float(cuts[0]), float(cuts[-1])  # an empty split is an error, said when it is written
    most = len(groups) - len(seen) + 1
    a = min(max(1, round(test * len(groups))), most)
    b = min(a + max(1, round(valid * len(groups))), len(groups) - 1) if valid else a
    return float(groups[a]), float(groups[b])


def _times(rule: SplitRule, schema: Schema, source: Source) -> tuple[int, int]:
    """Return (first ms of test, first ms of valid): the last `test` share of rows by time, `valid` before it; 8 bytes a row."""
    if schema.time is None:
        raise ValueError("split.by='time' needs a time column, the schema has none")
    found = [
        milliseconds(column_of(chunk, schema.time, "time")).astype(np.int64)
        for chunk in source.chunks([schema.time])
    ]
    times = np.concatenate(found)
    del found
    late = int(np.quantile(times, 1 - rule.test, method="higher"))
    rest = times[times < late]  # by what is left, else one busy last day would leave no validation rows
    middle = int(np.quantile(rest, 1 - rule.valid / (1 - rule.test), method="higher")) if len(rest) else late
    return late, middle


def _words(rule: SplitRule, source: Source) -> bool:
    """Return whether the split column has valid rows; ValueError for a word that is no split, with its row."""
    first, seen = 0, set()
    column = rule.column or ""
    for chunk in source.chunks([column]):
        words = chunk[column].cast(pl.String)
        strange = ~words.is_in(SPLITS).fill_null(False)
        if strange.any():
            row = int(strange.arg_max() or 0)
            raise ValueError(
                f"split column {column!r} must hold train, valid and test, got {words[row]!r} in {source.where(first + row)}"
            )
        seen |= set(words.unique().to_list())
        first += chunk.height
    return "valid" in seen
