"""What a user had consumed before an impression: the last ids that were known by then, never one from the future."""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa


def last_before(
    user: pl.Series, item: pl.Series, start: pl.Series, end: pl.Series, positive: pl.Series, last: int
) -> pl.Series:
    """Return a list column: for each row, the user's last items that ended before the row starts, oldest first.

    A row counts once it is positive and over: an impression that is still playing, or that starts in the same
    millisecond, is not in the history of another. An event that is written twice counts once.

    Args:
        user, item: integer ids. start, end: int64 milliseconds, end >= start. positive: bool.
        last: ids a row at most.

    Returns:
        List(Int64), one list a row, empty without history.

    Raises:
        ValueError: `last` below 1.

    Example:
        >>> column = pl.Series([1, 1, 1])
        >>> known = last_before(column, pl.Series([7, 8, 9]), pl.Series([0, 5, 20]), pl.Series([3, 12, 30]), column > 0, 2)
        >>> known.to_list()
        [[], [7], [7, 8]]
    """
    if last < 1:
        raise ValueError(f"last must be 1 id or more, got {last}")
    rows = pl.DataFrame({"user": user.rank("dense"), "item": item, "start": start, "end": end}).cast(pl.Int64)
    first = int(rows["start"].to_numpy().min(initial=2**62))
    span = max(1, int(rows["end"].to_numpy().max(initial=0)) - first + 2)
    if (int(rows["user"].to_numpy().max(initial=0)) + 1) * span >= 2**63:
        raise ValueError(
            f"end must lie less than 2^63 / users milliseconds after the first start, got {span}"
        )
    events = (
        rows.filter(positive).unique(["user", "item", "start", "end"]).sort("user", "end", "start", "item")
    )
    # user and time in one number, so that one sorted search finds where a row stands among its user's events
    ended = (events["user"] * span + (events["end"] - first)).to_numpy()
    stop = np.searchsorted(ended, (rows["user"] * span + (rows["start"] - first)).to_numpy(), side="left")
    begin = np.maximum(np.searchsorted(ended, (rows["user"] * span).to_numpy(), side="left"), stop - last)
    lengths = stop - begin
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    at = np.arange(offsets[-1]) - np.repeat(offsets[:-1] - begin, lengths)
    values = events["item"].cast(pl.Int64).to_numpy()[at]
    column = pl.from_arrow(pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values)))
    assert isinstance(column, pl.Series)
    return column.alias("history")
