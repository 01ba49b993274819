"""The history of an impression: the last things consumed before it, compared with a plain loop, and nothing later."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from equipoise.data.history import last_before


def by_loop(rows: pl.DataFrame, last: int) -> list[list[int]]:
    found = []
    for row in rows.iter_rows(named=True):
        seen = {
            (e["end"], e["start"], e["item"])
            for e in rows.iter_rows(named=True)
            if e["user"] == row["user"] and e["positive"] and e["end"] < row["start"]
        }
        found.append([item for _, _, item in sorted(seen)][-last:])
    return found


def table(seed: int, n: int = 150) -> pl.DataFrame:
    g = np.random.default_rng(seed)
    start = 1_650_000_000_000 + g.integers(0, 60, n)
    columns = {
        "user": g.integers(-3, 4, n),
        "item": g.integers(0, 5, n) + 10**12,
        "start": start,
        "end": start + g.integers(0, 9, n),
    }
    return pl.DataFrame(columns | {"positive": g.random(n) < 0.5})


@pytest.mark.parametrize("last", [1, 3, 1000])
@pytest.mark.parametrize("seed", range(4))
def test_it_is_what_a_loop_finds(seed: int, last: int) -> None:
    rows = table(seed)
    assert last_before(*rows, last).to_list() == by_loop(rows, last)


def test_nothing_that_comes_later_changes_it() -> None:
    rows = table(9)
    now = int(rows["start"].median())
    early = pl.Series(rows["start"] <= now)
    later = rows.with_columns(item=pl.when(pl.col("end") >= now).then(-1).otherwise("item"))
    before = last_before(*rows, 5).filter(early).to_list()
    assert last_before(*later, 5).filter(early).to_list() == before
    assert last_before(*rows.filter(early), 5).to_list() == before


def test_order_of_rows_does_not_matter() -> None:
    rows = table(3)
    order = np.random.default_rng(0).permutation(rows.height)
    assert last_before(*rows[order], 4).to_list() == [last_before(*rows, 4).to_list()[i] for i in order]


def test_edges() -> None:
    one = pl.DataFrame({"user": [1], "item": [2], "start": [3], "end": [4], "positive": [True]})
    assert last_before(*one, 2).to_list() == [[]]
    assert last_before(*one.clear(), 2).to_list() == []
    assert last_before(*one.with_columns(positive=False), 2).to_list() == [[]]
    with pytest.raises(ValueError, match="last must be 1 id or more, got 0"):
        last_before(*one, 0)
    with pytest.raises(ValueError, match="end must lie less than"):
        last_before(*one.with_columns(start=0, end=2**62), 2)
