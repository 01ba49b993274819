"""How often each value occurs, over chunks, and the order that ids are given in; integers stay integers."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

Array = np.ndarray[Any, Any]
PARTS = 64
"""Parts that many values are counted in, one at a time: the memory of counting is that of one part."""
FEW = 2**20
"""Values that are counted at once."""
POWERS = 10 ** np.arange(20, dtype=np.uint64)


class Counts:
    """How often each value occurs, over chunks; its memory follows the number of different values, 16 bytes each for integers."""

    def __init__(self) -> None:
        self._held: dict[pl.DataType, list[pl.DataFrame]] = {}
        self._waiting: dict[pl.DataType, list[pl.DataFrame]] = {}

    def add(self, counts: pl.DataFrame) -> None:
        """Add {value: int64, uint64 or text; count: int64}."""
        dtype = counts["value"].dtype
        waiting = self._waiting.setdefault(dtype, [])
        waiting.append(counts)
        if sum(part.height for part in waiting) > max(self._height(dtype) // 2, 2**16):
            self._merge(dtype)

    def total(self) -> pl.DataFrame:
        """Return {value, count}, each value once: integers where all of them were, of one type that holds them, else text. Once only."""
        for dtype in list(self._waiting):
            self._merge(dtype)
        found = [pl.concat(parts, rechunk=False) for parts in self._held.values()]
        self._held.clear()
        found = [frame for frame in found if frame.height] or found
        if not found:
            return pl.DataFrame(schema={"value": pl.String, "count": pl.Int64})
        if len(found) == 1:
            return found[0]
        common = _common(found)
        both = Counts()
        for frame in found:
            both.add(frame.with_columns(pl.col("value").cast(common)))
        return both.total()

    def _height(self, dtype: pl.DataType) -> int:
        return sum(part.height for part in self._held.get(dtype, []))

    def _merge(self, dtype: pl.DataType) -> None:
        new = pl.concat(self._waiting.pop(dtype))
        held = self._held.setdefault(dtype, [])
        if len(held) < PARTS and self._height(dtype) + new.height <= FEW:
            held[:] = [_summed([*held, new])]
            return
        if len(held) < PARTS:
            new = pl.concat([*held, new])
            held[:] = [new.clear()] * PARTS
        place = (new["value"].hash(0) % PARTS).cast(pl.UInt8)
        for number in range(PARTS):
            held[number] = _summed([held[number], new.filter(place == number)])


def _summed(parts: list[pl.DataFrame]) -> pl.DataFrame:
    return pl.concat(parts).group_by("value").agg(pl.col("count").sum())


def _common(found: list[pl.DataFrame]) -> Any:
    """Return the type that holds every value: int64 or uint64, else text."""
    values = [frame["value"] for frame in found]
    if all(v.dtype.is_integer() for v in values):
        if all(v.min() >= 0 for v in values):  # type: ignore[operator]
            return pl.UInt64
        if all(v.max() < 2**63 for v in values):  # type: ignore[operator]
            return pl.Int64
    return pl.String


def countable(values: pl.Series) -> pl.Series | None:
    """Return integers of at most 64 bits as int64, or uint64 from 2^63 on; None for any other column."""
    if not values.dtype.is_integer() or values.dtype in (pl.Int128, pl.UInt128):
        return None
    if values.dtype == pl.UInt64 and values.len() and (values.max() or 0) >= 2**63:  # type: ignore[operator]
        return values
    return values.cast(pl.Int64)


def by_count(counts: pl.DataFrame) -> pl.DataFrame:
    """Return {value, count}, the most frequent first, ties by the value's text: 10 before 2, so ids do not depend on the type."""
    values = counts["value"]
    if not values.dtype.is_integer():
        return counts.sort(["count", "value"], descending=[True, False])
    lead, length = _text_keys(values.to_numpy())
    keys = {"count": counts["count"], "lead": pl.Series(lead), "length": pl.Series(length)}
    del lead
    down = {"count": True}
    if values.dtype == pl.Int64 and counts.height and int(values.min()) < 0:  # type: ignore[arg-type]
        keys, down = {"count": keys["count"], "minus": values < 0, **keys}, {"count": True, "minus": True}
    order = pl.DataFrame(keys).select(pl.arg_sort_by(list(keys), descending=[n in down for n in keys]))
    del keys
    return counts[order.to_series()]


def _text_keys(values: Array) -> tuple[Array, Array]:
    """Return (the first 19 digits as uint64, filled up with zeros; uint8 number of digits), by which numbers sort as their text does.

    Two of 20 digits that differ in the last one alone are told apart by it: their number of digits counts on from 20.
    """
    lead, length = np.empty(len(values), np.uint64), np.empty(len(values), np.uint8)
    for start in range(0, len(values), 2**18):
        part = values[start : start + 2**18]
        size = part.astype(np.uint64)
        size = np.where(part < 0, ~size + np.uint64(1), size)
        digits = np.maximum(np.searchsorted(POWERS, size, "right"), 1)
        long = digits == 20
        shifted = size * POWERS[np.maximum(19 - digits, 0)]
        lead[start : start + 2**18] = np.where(long, size // np.uint64(10), shifted)
        length[start : start + 2**18] = digits + np.where(long, size % np.uint64(10), 0).astype(np.int64)
    return lead, length
