"""A seeded number in [0, 1) of every value: the same on every machine, in every chunk and on every day."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import polars as pl

Array = np.ndarray[Any, Any]


def uniform(values: pl.Series | Array, seed: int) -> Array:
    """Return float64 [N] in [0, 1), which depends on (value, seed) alone: a draw that needs no table of what was drawn before.

    A whole number and its text have the same draw, so that a CSV and a Parquet file of one log are split alike; all missing values share one.
    Other text is known by its CRC-32, so two texts in 4 billion are drawn together.

    Example:
        >>> uniform(np.array([7, 8]), 0).round(3).tolist() == uniform(pl.Series(["7", "8"]), 0).round(3).tolist()
        True

    Source: splitmix64 (Steele, Lea, Flood, OOPSLA 2014).
    """
    series = values if isinstance(values, pl.Series) else pl.Series(values)
    mixed = _mix(_keys(series) ^ _mix(np.array([seed % 2**64], np.uint64)))
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _keys(series: pl.Series) -> Array:
    """Return uint64 [N] of integers as they are, of other values what their text is known by."""
    if series.dtype.is_integer():
        known = series.fill_null(0).to_numpy()
        keys = (
            known.astype(np.uint64) if series.dtype == pl.UInt64 else known.astype(np.int64).view(np.uint64)
        )
        return np.where(series.is_null().to_numpy(), _TEXT ^ np.uint64(0xFFFFFFFF), keys)
    unique = series.cast(pl.String).fill_null("\0").unique()
    table = pl.DataFrame({"value": unique, "key": pl.Series([_key(v) for v in unique], dtype=pl.UInt64)})
    text = pl.DataFrame({"value": series.cast(pl.String).fill_null("\0")})
    return text.join(table, on="value", how="left", maintain_order="left")["key"].to_numpy()


_TEXT = np.uint64(0xD6E8FEB800000000)
"""Upper half of the key of a text that is no number."""


def _key(text: str) -> int:
    if text == "\0":
        return int(_TEXT) ^ 0xFFFFFFFF
    digits = text[1:] if text[:1] == "-" else text
    whole = digits.isascii() and digits.isdigit() and len(digits) <= 20 and text == str(int(text))
    if whole and -(2**63) <= int(text) < 2**64:
        return int(text) & (2**64 - 1)
    return int(_TEXT) ^ zlib.crc32(text.encode())


def _mix(x: Array) -> Array:
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(x ^ (x >> np.uint64(31)))
