"""Numbers in text whose digits a float or an integer would lose: ids above 2^53 among floats, leading zeros."""

from __future__ import annotations

import numpy as np
import polars as pl

from equipoise.data.encode import as_text

EXACT = 2.0**53
"""Whole numbers up to here are exact as floats."""
STEP = 2**20
"""Bytes that are looked at together, so that they stay in the cache."""
PADDED = r"^[+-]?0\d"
"""Text of a number with a leading zero, which the number does not have."""
DECIMAL = r"^[+-]?\d+(\.\d*)?$"


def has_padded(block: bytes, mark: bytes) -> bool:
    """Return whether a field may begin with 0 and a digit; fields of any column, so look closer where True."""
    codes = np.frombuffer(b"\n" + block, np.uint8)
    for start in range(0, len(codes), STEP):
        part = codes[start : start + STEP + 2]
        zero = np.flatnonzero(part[1:-1] == 48)
        before, after = part[zero], part[zero + 2]
        starts = (before == ord(mark)) | (before == 10) | (before == 34)
        if (starts & (after >= 48) & (after <= 57)).any():
            return True
    return False


def loses(words: pl.Series) -> bool:
    """Return whether a whole number among texts is not the same number as a float64: 2^53 + 1, 2^63 - 1."""
    long = words.filter(words.str.contains(r"^[+-]?\d{16,}(\.0*)?$").fill_null(False))
    whole = long.str.replace(r"\..*$", "").cast(pl.Int128, strict=False)
    back = whole.cast(pl.Float64).cast(pl.Int128, strict=False)
    return bool((whole.is_null() | (whole != back).fill_null(True)).any())


def are_numbers(words: pl.Series, pattern: str = r"^[+-]?\d*\.?\d*([eE][+-]?\d+)?$") -> bool:
    """Return whether each text is a plain number, none with a leading zero."""
    there = words.drop_nulls()
    fit = there.str.contains(pattern) & ~there.str.contains(PADDED)
    return bool(fit.all()) and there.cast(pl.Float64, strict=False).null_count() == 0


def canonical(words: pl.Series) -> pl.Series:
    """Return numbers as `as_text` writes them, no digit lost: "7" for 7, "+7" and "7.0", "9223372036854775807" as it is.

    `words` must be numbers (`are_numbers`) or missing.
    """
    whole = words.str.contains(r"^[+-]?\d+(\.0*)?$")
    short = words.str.replace(r"\.0*$", "").str.strip_prefix("+")
    if bool(whole.fill_null(True).all()):
        return short
    return short.zip_with(whole.fill_null(True), as_text(words.cast(pl.Float64, strict=False)))
