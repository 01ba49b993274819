"""Counts of integers stay integers: sums, the order of ids, look-ups, stored tables."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from equipoise.data import Categorical, Label, Log, Schema, write_log
from equipoise.data import counts as module
from equipoise.data.counts import Counts, by_count
from equipoise.data.encode import Lookup
from equipoise.data.extend import extend

EDGES = [0, 1, 2, 10, 19, 100, 2**53 + 1, 2**63 - 1, 10**18, 10**18 + 1]
SIGNED = [*EDGES, -1, -5, -12, -10, -(2**63), -(2**63) + 1]
UNSIGNED = [*EDGES, 2**63, 10**19, 10**19 - 1, 2**64 - 1, 2**64 - 2, 1844674407370955161]


def counted(values, dtype):
    return pl.DataFrame({"value": pl.Series(values, dtype=dtype), "count": pl.Series([1] * len(values))})


@pytest.mark.parametrize("dtype", [pl.Int64, pl.UInt64])
def test_integers_are_ordered_as_their_text(dtype):
    draw = np.random.default_rng(0)
    values = SIGNED if dtype == pl.Int64 else UNSIGNED
    values = list({*values, *(int(10 ** (draw.random() * 18.9)) for _ in range(2000))})
    draw.shuffle(values)
    counts = pl.Series(draw.integers(1, 3, len(values)))
    whole = pl.DataFrame({"value": pl.Series(values, dtype=dtype), "count": counts})
    text = whole.with_columns(pl.col("value").cast(pl.String))
    found = by_count(whole)
    assert found["value"].dtype == dtype
    assert found.with_columns(pl.col("value").cast(pl.String)).equals(by_count(text))


def test_sums_do_not_depend_on_parts(monkeypatch):
    monkeypatch.setattr(module, "FEW", 1000)
    draw, held = np.random.default_rng(0), Counts()
    values = draw.integers(0, 60_000, 400_000) * 64
    for part in np.array_split(values, 37):
        held.add(pl.Series("value", part).value_counts(name="count").cast({"count": pl.Int64}))
    expected = pl.Series("value", values).value_counts(name="count").cast({"count": pl.Int64})
    assert len(held._held[pl.Int64()]) == module.PARTS
    assert held.total().sort("value").equals(expected.sort("value"))


def test_types_that_meet_hold_every_value():
    def total(*given):
        held = Counts()
        for values, dtype in given:
            held.add(counted(values, dtype))
        found = held.total().sort("value")
        return found["value"].dtype, dict(found.iter_rows())

    assert total(([1, 5], pl.Int64), ([2**63, 5], pl.UInt64)) == (pl.UInt64, {1: 1, 5: 2, 2**63: 1})
    assert total(([-1], pl.Int64), ([5], pl.UInt64)) == (pl.Int64, {-1: 1, 5: 1})
    mixed = total(([-1, 5], pl.Int64), ([2**63], pl.UInt64), (["5", "u"], pl.String))
    assert mixed == (pl.String, {"-1": 1, "5": 2, "u": 1, str(2**63): 1})
    assert total() == (pl.String, {})


@pytest.mark.parametrize("stored", [pl.Int64, pl.UInt64, pl.String])
@pytest.mark.parametrize("asked", [pl.Int64, pl.UInt64, pl.Int8, pl.UInt16, pl.Int128, pl.Float64, pl.String])
def test_look_ups_of_any_type(stored, asked):
    known = [5, 100, 7, 2**53] + ([2**63 - 1] if stored == pl.Int64 else [2**64 - 1])
    lookup = Lookup(counted(known, pl.UInt64).with_columns(pl.col("value").cast(stored)), None)
    wanted = [7, 100, 9, None, 5] + ([-7] if asked not in (pl.UInt64, pl.UInt16) else [])
    if asked in (pl.Int64, pl.UInt64, pl.Int128, pl.String):
        wanted += known[3:] if asked != pl.Int64 or stored == pl.Int64 else known[3:4]
    ids = lookup.ids(pl.Series(wanted, dtype=pl.Int128).cast(asked))
    assert ids.dtype == np.int32
    assert ids.tolist() == [known.index(v) + 1 if v in known else 0 for v in wanted]


@pytest.mark.parametrize("second", [pl.Int64, pl.String])
def test_a_log_stores_integers_and_goes_on_from_text(tmp_path, second):
    ids = [2**63 - 1, 7, 2**53 + 1, -3]
    rows = pl.DataFrame({"id": [*ids, *ids, 12] * 4, "click": [0, 1, 1] * 12})
    schema = Schema(features=(Categorical(name="id", min_count=5),), labels=(Label(name="click"),))
    splits = dict.fromkeys(("train", "valid", "test"), rows)
    log = write_log(tmp_path / "log", splits, schema)
    text = write_log(tmp_path / "text", {k: v.cast({"id": pl.String}) for k, v in splits.items()}, schema)
    stored = pl.read_parquet(tmp_path / "log" / "vocabulary" / "id.parquet")
    assert stored["value"].dtype == pl.Int64 and log.vocabulary("id")["value"].dtype == pl.String
    assert log.vocabulary("id").equals(text.vocabulary("id"))
    assert log.fingerprint == text.fingerprint and log.manifest["lineage"] == text.manifest["lineage"]
    assert log.values("id", np.array([0, 1, 3])).to_list() == [None, *log.vocabulary("id")["value"][0, 2]]
    more = pl.DataFrame({"id": [12, 99] * 40, "click": [0, 1] * 40}).cast({"id": second})
    for each in (log, text):
        before = each.vocabulary("id")["value"].to_list()
        after = extend(each.path, more)
        values = after.vocabulary("id")["value"].to_list()
        assert values[:4] == before and set(values[4:]) == {"12", "99"}
    assert Log.open(log.path).vocabulary("id").equals(Log.open(text.path).vocabulary("id"))


@pytest.mark.parametrize("stored", [pl.Int64, pl.UInt64, pl.String])
@pytest.mark.parametrize("given", [pl.Int8, pl.Int64, pl.UInt64])
def test_numbers_that_lie_close_are_looked_up_by_place(stored, given):
    base = 0 if pl.UInt64 in (stored, given) else -3
    base = 2**63 if stored == given == pl.UInt64 else base
    known = pl.Series([base + i for i in (5, 0, 9, 2)]).cast(stored)
    lookup = Lookup(pl.DataFrame({"value": known, "count": [1] * 4}), None)
    ids = {int(value): i for i, value in enumerate(known.to_list(), 1)}
    values = [base + i for i in range(11)] + [None, 100, 0]
    found = lookup.ids(pl.Series(values, dtype=given))
    assert found.dtype == np.int32 and found.tolist() == [ids.get(v, 0) for v in values]
    by_text = stored == pl.String and given == pl.UInt64  # 64 unsigned bits have no place among int64
    assert by_text or (lookup.whole is not None and lookup.whole[2] is not None)
