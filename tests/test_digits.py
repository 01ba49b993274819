"""No digit of an id is lost on the way from text: files of other types, late floats, leading zeros."""

from __future__ import annotations

import polars as pl
import pytest

from equipoise.data import Categorical, Label, Schema, prepare_table
from equipoise.data.digits import are_numbers, canonical, has_padded, loses
from equipoise.data.source import open_source

BIG = 2**63 - 1


def column(folder, *files):
    """Return the column `id` of CSV files of these texts."""
    for number, ids in enumerate(files):
        text = "id,click\n" + "".join(f"{v},{k % 2}\n" for k, v in enumerate(ids))
        (folder / f"{number}.csv").write_text(text)
    return pl.concat(list(open_source(folder).chunks()))["id"]


def test_ids_of_an_integer_and_a_float_file_keep_their_digits(tmp_path, small):
    whole = [str(BIG - k) for k in range(300)]
    found = column(tmp_path, whole, ["7.0", "2.5", "1e3", *whole[:5], "", "8"])
    assert found.to_list() == [*whole, "7", "2.5", "1000", *whole[:5], None, "8"]
    found = column(tmp_path, ["7.0", "2.5", "8"] * 200, whole)  # the other way round
    assert found.to_list() == ["7", "2.5", "8"] * 200 + whole


def test_small_integers_and_floats_are_numbers_still(tmp_path, small):
    found = column(tmp_path, ["1", "2"] * 40, ["1.5", "-3e20", "9007199254740992"])
    assert found.to_list() == [1.0, 2.0] * 40 + [1.5, -3e20, 2.0**53]


@pytest.mark.parametrize("late", ["7.0", "7.25", str(2**64 - 1)])
def test_a_float_after_whole_ids_does_not_make_floats_of_them(tmp_path, small, late):
    ids = [str(BIG - k) for k in range(900)]
    assert column(tmp_path, [*ids, late, "7"]).to_list() == [*ids, late.removesuffix(".0"), "7"]


def test_large_ids_among_floats_in_the_first_rows(tmp_path, small):
    ids = ["1.5", *(str(BIG - k) for k in range(900)), "3.0"]
    assert column(tmp_path, ids).to_list() == [*ids[:-1], "3"]
    assert column(tmp_path, [*ids, "u"]).to_list() == [*ids, "u"]  # no column of numbers: as it stands


@pytest.mark.parametrize("quote", ["", '"'])
def test_a_leading_zero_far_down_stays(tmp_path, small, quote):
    ids = [str(k) for k in range(10, 2000)] + [f"{quote}007{quote}", "7"]
    assert column(tmp_path, ids).to_list() == [v.strip('"') for v in ids]
    assert column(tmp_path, ids[:1990]).to_list() == list(range(10, 2000))
    (tmp_path / "0.csv").write_text("id,zip\n" + "".join(f"{k},0{k}\n" for k in range(10, 900)))
    found = pl.concat(list(open_source(tmp_path / "0.csv").chunks()))
    assert found["id"].dtype == pl.Int64 and found["zip"].to_list() == [f"0{k}" for k in range(10, 900)]


def test_a_log_of_both_files_has_one_id_a_value(tmp_path, small):
    days = tmp_path / "days"
    days.mkdir()
    ids = [str(BIG - k) for k in range(100)]
    column(days, ids * 4, [*(f"{v}.0" for v in ids), "2.5", "2.5"] * 2)
    schema = Schema(features=(Categorical(name="id", min_count=1),), labels=(Label(name="click"),))
    log, _ = prepare_table(days, tmp_path / "log", schema=schema)
    values = log.vocabulary("id")["value"]
    assert values.n_unique() == len(values) <= 101 and set(values) <= {*ids, "2.5"}


def test_digits():
    assert has_padded(b"1,2\n07,3", b",") and has_padded(b"00", b",") and has_padded(b'1;"01"', b";")
    assert not has_padded(b"0,0.5,10,-0.25\n0", b",") and not has_padded(b"a07 b", b",")
    assert has_padded(b"1" * 2**20 + b",01", b",") and has_padded(b"1" * (2**20 - 2) + b",01", b",")
    assert loses(pl.Series([str(2**53 + 1)])) and loses(pl.Series([None, "9" * 50]))
    assert not loses(pl.Series([str(2**53), str(2**62), "1e300", "0.1234567890123456789"]))
    words = pl.Series(["+7", "7.", "7.00", "-0.50", "1e3", None, str(BIG)])
    assert canonical(words).to_list() == ["7", "7", "7", "-0.5", "1000", None, str(BIG)]
    assert are_numbers(words) and not are_numbers(pl.Series(["nan"])) and not are_numbers(pl.Series(["07"]))
